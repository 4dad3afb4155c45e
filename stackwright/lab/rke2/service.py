"""What starting the units rke2-server and rke2-agent does on a machine: checks, join, resume, and the endless restarts.

Membership is decided by cluster.py; here are the order of events, the journal's words and the machine's files.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from stackwright.lab.machines.kernel import load, set_sysctl
from stackwright.lab.machines.systemd import Unit
from stackwright.lab.rke2.certificates import ensure_certificates
from stackwright.lab.rke2.config import (
    FatalError,
    as_list,
    check_profile,
    critical_values,
    read_config,
    unknown_keys,
)
from stackwright.lab.rke2.encryption import put_encryption
from stackwright.lab.rke2.objects import node_object, set_condition
from stackwright.lab.rke2.release import PROCESS
from stackwright.lab.rke2.state import (
    DATA,
    MEMBER_FILE,
    SERVER,
    ClusterState,
    Member,
    parse_token,
    write_kubeconfig,
    write_server_files,
    write_tokens,
)
from stackwright.lab.rke2.static_pods import manifests
from stackwright.lab.rke2.supervisor import create_supervisor_app, serve
from stackwright.lab.rke2.versions import TOO_NEW

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

# How long the real thing takes, in seconds of a lab of speed 1.
BOOTSTRAP_S, JOIN_S, RESUME_S, AGENT_S, RESTART_S, RETRY_S = 40.0, 30.0, 12.0, 15.0, 5.0, 5.0
PASSWORD_FILE = "/etc/rancher/node/password"
CALL_LIMIT = aiohttp.ClientTimeout(total=10)


class KilledError(Exception):
    """The program's process was killed from outside while it started."""


class Rke2Service:
    """The driver of one unit on one machine."""

    def __init__(self, machine: Machine, cluster: Rke2Cluster, role: str) -> None:
        self._machine = machine
        self._cluster = cluster
        self._role = role
        self._unit_name = f"rke2-{role}.service"
        self._version = ""
        self._config: dict[str, Any] = {}
        self._close_supervisor: Callable[[], Awaitable[None]] | None = None
        self._watch: asyncio.Task[None] | None = None

    # The unit

    async def start(self, unit: Unit) -> bool:
        """Start as systemd does: until READY, again and again after each failure (Restart=always)."""
        other = "agent" if self._role == "server" else "server"
        if self._machine.systemd.unit(f"rke2-{other}.service").active in ("active", "activating"):
            self._machine.systemd.log("sh", f"Error: rke2-{other} is running!", self._unit_name)
            self._systemd(f"{self._unit_name}: Skipped due to 'exec-condition'.")
            unit.become("inactive", "dead", "exec-condition")
            return True
        unit.restarts = 0
        while True:
            unit.become("activating", "start")
            self._systemd(f"Starting {self._unit_name}...")
            try:
                await self._run(unit)
            except FatalError as error:
                self._log("fatal", str(error))
                await self._died(unit)
                continue
            except KilledError:
                await self._died(unit, "code=killed, status=9/KILL", "signal")
                continue
            unit.become("active", "running")
            self._systemd(f"Started {self._unit_name}.")
            self._watch = asyncio.create_task(self._watch_process(unit))
            return True

    async def stop(self, unit: Unit) -> None:
        """Stop the process; the pods stay, as KillMode=process has it."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._end_process(unit)

    async def halt(self) -> None:
        """Lose everything that runs, because the power went. The process is killed with the machine."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._stop_answering()
        await self._cluster.kill_pods(self._machine)

    async def _stop_answering(self) -> None:
        self._cluster.supervised.discard(self._machine.name)
        if self._close_supervisor is not None:
            await self._close_supervisor()
            self._close_supervisor = None

    async def _end_process(self, unit: Unit) -> None:
        await self._stop_answering()
        process, unit.process, unit.main_pid = unit.process, None, 0
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _died(self, unit: Unit, how: str = "code=exited, status=1/FAILURE", result: str = "exit-code") -> None:
        await self._end_process(unit)
        self._systemd(f"{self._unit_name}: Main process exited, {how}")
        self._systemd(f"{self._unit_name}: Failed with result '{result}'.")
        unit.become("activating", "auto-restart", result)
        await self._cluster.pause(RESTART_S)
        unit.restarts += 1
        self._systemd(f"{self._unit_name}: Scheduled restart job, restart counter is at {unit.restarts}.")

    async def _watch_process(self, unit: Unit) -> None:
        """Restart the unit when somebody kills its process."""
        if unit.process is None:
            return
        await unit.process.wait()
        await self._died(unit, "code=killed, status=9/KILL", "signal")
        unit.job = asyncio.get_running_loop().create_task(self.start(unit))

    async def _spawn(self, unit: Unit, program: str) -> None:
        words = 'exec -a "$0" "$1" infinity'
        process = program.removesuffix("bin/rke2") + PROCESS
        unit.process = await asyncio.create_subprocess_exec(
            *self._machine.argv(["/bin/bash", "-c", words, f"{program} {self._role}", process]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        unit.main_pid = unit.process.pid

    # The program

    async def _run(self, unit: Unit) -> None:
        """Do one run up to READY. Raises FatalError."""
        machine = self._machine
        for module in ("br_netfilter", "overlay"):
            load(machine, module)
        found = machine.systemd.find(self._unit_name)
        program = found.value("Service", "ExecStart").split()[0] if found else ""
        version = re.search(r"^VERSION=(\S+)", machine.read(program) if program else "", re.M)
        if version is None:
            raise FatalError(f"Failed to locate executable {program}: No such file or directory")
        self._version = version.group(1)
        await self._spawn(unit, program)
        self._config = config = read_config(machine)
        if self._cluster.nodes.is_full(machine.name, DATA):
            raise FatalError(f"extracting runtime image: write {DATA}/data: no space left on device")
        for key in unknown_keys(config, self._role):
            self._log("warning", f"Unknown flag --{key} found in config.yaml, skipping")
        check_profile(machine, config, self._role)
        self._log("info", f"Starting rke2 {self._role} {self._version}")
        for key in ("net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding", "net.ipv6.conf.all.forwarding"):
            set_sysctl(machine, key, "1")
        await self._while_alive(unit, self._run_server() if self._role == "server" else self._run_agent())

    @staticmethod
    async def _while_alive(unit: Unit, work: Coroutine[Any, Any, None]) -> None:
        """Carry out what the program does, as long as its process lives. Raises KilledError when it was killed."""
        if unit.process is None:
            raise RuntimeError("the process was just started")
        doing, death = asyncio.ensure_future(work), asyncio.ensure_future(unit.process.wait())
        try:
            await asyncio.wait((doing, death), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise KilledError
            doing.result()
        finally:
            doing.cancel()
            death.cancel()
            await asyncio.gather(doing, death, return_exceptions=True)

    async def _run_server(self) -> None:
        machine, config, cluster = self._machine, self._config, self._cluster
        held = machine.read(MEMBER_FILE)
        if held:
            state, member = self._resume(json.loads(held))
        elif config.get("server"):
            state, member = await self._join_as_server()
        else:
            state, member = await self._bootstrap()
        if not held:
            write_server_files(machine, state, member)
        write_tokens(machine, state)
        ensure_certificates(machine, state, self._name(), self._sans(), server=True)
        write_kubeconfig(machine, state, config)
        while cluster.etcd_refuses(state, self._version):
            # etcd itself ends with "invalid downgrade"; RKE2 waits for it without an end.
            await cluster.kill_pods(machine)
            self._log("info", "Waiting for etcd server to become available")
            await cluster.pause(RETRY_S)
        await cluster.run_pods(machine, state, manifests(machine, config, self._version), self._version)
        self._log("info", "ETCD server is now running")
        while not cluster.is_served(state, machine.name):
            self._log("info", "Waiting for etcd server to become available")
            await cluster.pause(RETRY_S)
        if held:
            await cluster.pause(RESUME_S)
        self._log("info", "Kube API server is now running")
        context = state.authority("server-ca").server_context("rke2", self._sans())
        app = create_supervisor_app(cluster, state, machine)
        self._close_supervisor = await serve(app, machine.spec.address, 9345, context)
        cluster.supervised.add(machine.name)
        cluster.put_system_objects(state, config, self._version)
        self._register(state, member)
        self._log("info", "rke2 is up and running")

    async def _run_agent(self) -> None:
        config, cluster = self._config, self._cluster
        for key in ("server", "token"):
            if not config.get(key):
                raise FatalError(f"--{key} is required")
        while True:
            status, answer, state = await self._ask_to_join()
            if status == 200 and state is not None:
                break
            self._log("error" if status == 403 else "info", answer)
            if status == 401:
                self._log("error", "Failed to retrieve configuration from server: not authorized")
            await cluster.pause(RETRY_S)
        await self._slow(AGENT_S)
        ensure_certificates(self._machine, state, self._name(), self._sans(), server=False)
        self._write_agent_files()
        self._register(state, None)
        self._log("info", "rke2 is up and running")

    # Ways into a cluster

    async def _bootstrap(self) -> tuple[ClusterState, Member]:
        config, cluster = self._config, self._cluster
        hash_part, token = parse_token(str(config.get("token") or ""))
        if hash_part is not None:
            raise FatalError(
                "token CA hash does not match the Cluster CA certificate hash: a full token needs a custom CA"
            )
        await self._slow(BOOTSTRAP_S)
        state = cluster.bootstrap(token, str(config.get("agent-token") or ""), critical_values(config), self._version)
        member = cluster.add_member(state, self._name(), self._machine.spec.address, voter=True)
        cluster.admit_first(state, self._name(), self._password())
        return state, member

    def _resume(self, held: dict[str, str]) -> tuple[ClusterState, Member]:
        state = self._cluster.clusters.get(held["cluster"])
        if state is None:
            raise FatalError("failed to bootstrap cluster data: etcd data of an unknown cluster")
        member = state.members.get(self._name())
        if member is None or member.id != held["member"]:
            found = ", ".join(f"{one.name}-{one.id}=https://{one.address}:2380" for one in state.members.values())
            mine = f"{self._name()}-{held['member']}=https://{self._machine.spec.address}:2380"
            raise FatalError(f"this server is a not a member of the etcd cluster. Found [{found}], expect: {mine}")
        hash_part, token = parse_token(str(self._config.get("token") or self._machine.read(f"{SERVER}/token").strip()))
        if hash_part not in (None, state.ca_hash):
            raise FatalError("token CA hash does not match the Cluster CA certificate hash")
        if token != state.token:
            raise FatalError("bootstrap data already found and encrypted with different token")
        different = sorted(
            key for key, value in critical_values(self._config).items() if state.critical.get(key) != value
        )
        if different and len(state.members) > 1:
            raise FatalError(
                "failed to validate server configuration: critical configuration value mismatch: "
                + ", ".join(different)
            )
        return state, member

    async def _join_as_server(self) -> tuple[ClusterState, Member]:
        if not self._config.get("token"):
            raise FatalError("--token is required when --server is set")
        while True:
            status, answer, state = await self._ask_to_join()
            if status == 200 and state is not None:
                await self._slow(JOIN_S)
                member = state.members.get(self._name())
                if member is None:
                    raise FatalError("this server has been removed from the etcd cluster while it was joining")
                member.ready = True
                self._cluster.save(state)
                return state, member
            if status == 409:
                self._log("info", f"Waiting for other members to finish joining etcd cluster: {answer}")
                await self._cluster.pause(RETRY_S)
                continue
            raise FatalError(f"starting kubernetes: preparing server: {answer}")

    async def _ask_to_join(self) -> tuple[int, str, ClusterState | None]:
        """Really call the configured address: (status, message, cluster). Status 0: nobody answers, or no trust."""
        url = str(self._config["server"]).rstrip("/")
        if self._machine.name in self._cluster.nodes.cut_off:
            return 0, f'failed to get CA certs: Get "{url}/cacerts": dial tcp: i/o timeout', None
        hash_part, token = parse_token(str(self._config["token"]))
        asked = {
            "role": self._role,
            "node": self._name(),
            "address": self._machine.spec.address,
            "password": self._password(),
            "critical": critical_values(self._config),
        }
        connector = aiohttp.TCPConnector(resolver=HostsResolver(self._machine), force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=CALL_LIMIT) as session:
            try:
                async with session.get(f"{url}/cacerts", ssl=False) as answer:
                    ca = await answer.text()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                where = url if self._role == "server" else "https://127.0.0.1:6444"
                return 0, f'failed to get CA certs: Get "{where}/cacerts": {_words(error)}', None
            state = next((one for one in self._cluster.clusters.values() if one.ca == ca), None)
            if hash_part is not None and (state is None or state.ca_hash != hash_part):
                seen = state.ca_hash if state else "unknown"
                raise FatalError(f"token CA hash does not match the Cluster CA certificate hash: {hash_part} != {seen}")
            try:
                context = ssl.create_default_context(cadata=ca)
                user = "server" if self._role == "server" else "node"
                login = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()
                async with session.post(
                    f"{url}/v1-rke2/lab-join", json=asked, headers={"Authorization": login}, ssl=context
                ) as answer:
                    if answer.status == 401:
                        return 401, f"{url}/v1-rke2/server-bootstrap: 401 Unauthorized", state
                    body = await answer.json()
                    return answer.status, str(body.get("error", "")), state
            except aiohttp.ClientConnectorCertificateError:
                host = urlsplit(url).hostname
                return 0, f"x509: certificate is valid for {', '.join(self._sans())}, not {host}", state
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                return 0, f'Get "{url}/v1-rke2/readyz": {_words(error)}', state

    # Small things

    def _register(self, state: ClusterState, member: Member | None) -> None:
        api, name = self._cluster.api_of(state), self._name()
        old = api.get("Node", "", name)
        node = node_object(
            self._machine, name, self._role, self._version, self._config, old, member.id if member else ""
        )
        self._cluster.kubelets[name] = self._version
        if self._cluster.is_too_new(name):
            self._log("error", f"kubelet: CreateContainerConfigError: {TOO_NEW}")
            set_condition(node, "Ready", "False", "KubeletNotReady", TOO_NEW)
        else:
            set_condition(node, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
        if member is not None:
            word = ("True", "MemberNotLearner") if member.voter else ("False", "MemberIsLearner")
            set_condition(node, "EtcdIsVoter", *word, "")
            put_encryption(self._machine, state, node)
        self._cluster.put_node(state, node)

    def _write_agent_files(self) -> None:
        machine = self._machine
        machine.write(
            f"{DATA}/agent/etc/rke2-agent-load-balancer.json", json.dumps({"ServerURL": self._config["server"]}), 0o600
        )

    def _name(self) -> str:
        name = str(self._config.get("node-name") or self._machine.read("/etc/hostname").strip())
        return name.lower()

    def _sans(self) -> list[str]:
        names = [self._name(), self._machine.spec.address, "127.0.0.1", "localhost", "10.43.0.1", "kubernetes",
                 "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]  # fmt: skip
        return [*names, *(str(san) for san in as_list(self._config.get("tls-san")))]

    def _password(self) -> str:
        held = self._machine.read(PASSWORD_FILE).strip()
        if not held:
            held = secrets.token_hex(16)
            self._machine.write(PASSWORD_FILE, held + "\n", 0o600)
        return held

    async def _slow(self, seconds: float) -> None:
        fault = self._cluster.nodes.faults.find("slow-join", "", self._name())
        await self._cluster.pause(seconds)
        if fault is not None:
            await asyncio.sleep(fault.seconds)

    def _log(self, level: str, message: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        quoted = message.replace('"', '\\"')
        self._machine.systemd.log("rke2", f'time="{stamp}" level={level} msg="{quoted}"', self._unit_name)

    def _systemd(self, message: str) -> None:
        self._machine.systemd.log("systemd", message, self._unit_name)


class HostsResolver(aiohttp.abc.AbstractResolver):
    """Resolves names by the machine's own /etc/hosts, as the machine itself would."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        """Return the address of a name. Raises OSError for an unknown one."""
        for line in self._machine.read("/etc/hosts").splitlines():
            words = line.partition("#")[0].split()
            if host in words[1:] and "." in words[0]:
                return [{"hostname": host, "host": words[0], "port": port, "family": 2, "proto": 0, "flags": 0}]
        raise OSError(f"lookup {host}: no such host")

    async def close(self) -> None:
        """Close nothing."""


def _words(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, TimeoutError):
        return "context deadline exceeded"
    return (
        "connect: connection refused"
        if "refused" in text or "Connect call failed" in text or "disconnected" in text.lower()
        else text
    )
