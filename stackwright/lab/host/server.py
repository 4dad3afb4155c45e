"""`rke2 server`: makes, joins or resumes a cluster, in the real one's order, and looks after this server's part.

READY comes when etcd votes and the API answers: k3s pkg/cli/server/server.go waits for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

from stackwright.lab.host import apipod, etcdpod
from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.etcd import Etcd, EtcdError
from stackwright.lab.host.identity import TLS, keep_in_etcd, read_identity, unseal, write_identity
from stackwright.lab.host.kubeapi import ApiError, KubeApi
from stackwright.lab.host.kubelet import Kubelet
from stackwright.lab.host.learners import manage_learners
from stackwright.lab.host.pods import StaticPods, manifest
from stackwright.lab.host.remote import Remote, RemoteError
from stackwright.lab.host.supervisor import PORT, SECRETS, Supervisor
from stackwright.lab.rke2.config import FatalError, critical_values
from stackwright.lab.rke2.state import DATA, ClusterState, new_cluster, parse_token, write_kubeconfig
from stackwright.lab.rke2.supervisor import serve

PLACEHOLDER = ("sleep", "infinity")
MISMATCH = "failed to validate server configuration: critical configuration value mismatch"


def notify_ready() -> None:
    """Tell systemd that the unit is up."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(b"READY=1\n")


def node_name(disk: HostDisk, config: dict[str, Any]) -> str:
    """Return the node's name."""
    return str(config.get("node-name") or disk.read("/etc/hostname").strip() or socket.gethostname()).lower()


class Server:
    """One run of `rke2 server`."""

    def __init__(self, disk: HostDisk, version: str, config: dict[str, Any]) -> None:
        self.disk, self.version, self.config = disk, version, config
        self.node = node_name(disk, config)
        self.pods = StaticPods(disk, self.node)
        self.ready = False
        self.joined_from: Remote | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._was_reset = False
        self._peers: list[str] = []

    async def run(self) -> None:
        """Do all up to READY, then keep at it until cancelled. Raises FatalError."""
        had_data = etcdpod.has_data(self.disk)
        self._was_reset = self.disk.path(etcdpod.RESET_FLAG).exists()
        self.disk.path(etcdpod.RESET_FLAG).unlink(missing_ok=True)
        state = await self._identity(had_data)
        write_identity(self.disk, state)
        etcdpod.write_certificates(self.disk, state, self.node)
        name = etcdpod.member_name(self.disk, self.node)
        if had_data:
            await self._check_still_member(name)
        cluster = None if had_data else await self._way_in(state, name)
        etcdpod.write_pod(self.disk, self.pods, self.config, self.version, name, cluster)
        apipod.write_pod(self.disk, self.pods, state, self.config, self.version, self.node)
        for pod in ("kube-controller-manager", "kube-scheduler", "cloud-controller-manager"):
            self.pods.write(manifest(pod, self.version, PLACEHOLDER, ""))  # what they do, the API server's process does
        etcd, api = etcdpod.client(self.disk), self._api(state)
        supervisor = Supervisor(state, etcd, api, lambda: self.ready)
        context = state.authority("server-ca").server_context("rke2", self._names())
        close = await serve(supervisor.app(), "0.0.0.0", PORT, context)
        try:
            await self._start_etcd_alone()
            kubelet = Kubelet(self.disk, api, self.node, self.pods, lambda: _is_learner(etcd, name))
            if self.joined_from is not None:  # its Node shows as a learner's while it waits for its vote
                await self._check_password(self.joined_from)
                await kubelet.register("server", self.version, self.config, name)
                self._spawn(kubelet.run())
            await self._wait_for_vote(etcd, name)
            state = await self._compare(etcd, state)
            await self._start_api(api)
            say("info", "Kube API server is now running")
            say("info", "ETCD server is now running")
            write_kubeconfig(self.disk, state, self.config)
            if self._was_reset:
                await self._forget_password(api)
            self.ready = True
            if self.joined_from is None:
                await self._check_password(self._myself(state))
                await kubelet.register("server", self.version, self.config, name)
                self._spawn(kubelet.run())
            self._spawn(kubelet.keep_pods())
            self._spawn(manage_learners(self.disk, etcd))
            say("info", "rke2 is up and running")
            notify_ready()
            await self._watch_membership(etcd, name)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await close()
            await api.close()
            etcd.close()

    def _spawn(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _pause(self) -> None:
        await asyncio.sleep(self.disk.spec.wait_s(self.disk.spec.retry_s))

    def _names(self) -> list[str]:
        return apipod.names_of(self.disk, self.node, self.config)

    # --- identity ----------------------------------------------------------------------------------------------------

    async def _identity(self, had_data: bool) -> ClusterState:
        configured = str(self.config.get("token") or "")
        hash_part, token = parse_token(configured)
        if had_data:
            state = read_identity(self.disk)
            if state is None:
                raise FatalError("failed to bootstrap cluster data: the files of server/tls are incomplete")
            if hash_part not in (None, state.ca_hash):
                raise FatalError("token CA hash does not match the Cluster CA certificate hash")
            if token and token != state.token:
                raise FatalError("bootstrap data already found and encrypted with different token")
            return state
        if self.config.get("server"):
            if not configured:
                raise FatalError("--token is required when --server is set")
            return await self._fetch_identity(configured)
        if hash_part is not None:
            text = "token CA hash does not match the Cluster CA certificate hash: a full token needs a custom CA"
            raise FatalError(text)
        # A first start that died before etcd ran goes on with what it made.
        held = read_identity(self.disk)
        if held is not None and (not token or held.token == token):
            held.critical = critical_values(self.config)
            return held
        agent_token = str(self.config.get("agent-token") or "")
        return new_cluster(token or os.urandom(16).hex(), agent_token, critical_values(self.config))

    async def _fetch_identity(self, token: str) -> ClusterState:
        remote = Remote(str(self.config["server"]), token, "server")
        try:
            await remote.read_ca()
            await remote.get("/v1-rke2/readyz")
            state = unseal(await remote.get("/v1-rke2/server-bootstrap"), remote.token)
        except RemoteError as error:
            raise FatalError(f"starting kubernetes: preparing server: {error}") from error
        self._check_critical(state)
        self.joined_from = remote
        return state

    def _check_critical(self, state: ClusterState) -> None:
        mine = critical_values(self.config)
        different = sorted(key for key, value in state.critical.items() if mine.get(key) != value)
        if different:
            raise FatalError(f"{MISMATCH}: {', '.join(different)}")

    async def _compare(self, etcd: Etcd, state: ClusterState) -> ClusterState:
        """Keep the identity in etcd, or take etcd's for this server's: it knows the critical values."""
        if not state.critical:
            state.critical = critical_values(self.config)
        try:
            kept = await asyncio.to_thread(keep_in_etcd, etcd, state)
        except EtcdError as error:
            raise FatalError(f"failed to bootstrap cluster data: {error}") from error
        if len(await asyncio.to_thread(etcd.members)) > 1:
            self._check_critical(kept)
        return kept

    # --- etcd --------------------------------------------------------------------------------------------------------

    async def _way_in(self, state: ClusterState, name: str) -> str:
        """Return etcd's first members: this one alone, or the cluster that it has become a learner of."""
        if self.joined_from is None:
            return f"{name}=https://{self.disk.spec.address}:2380"
        while True:
            try:
                rows = await self.joined_from.get("/db/info")
                urls = [row["url"] for row in rows if row["url"] and not row["learner"]]
                return await asyncio.to_thread(etcdpod.join, self.disk, self.node, name, urls)
            except (EtcdError, RemoteError) as error:
                say("info", f"Waiting for other members to finish joining etcd cluster: {error}")
            await self._pause()

    async def _check_still_member(self, name: str) -> None:
        """Ask the other servers, where one answers, whether this one's member still is one. Raises FatalError."""
        url, token = self.config.get("server"), self.config.get("token")
        if not (url and token):
            return
        remote = Remote(str(url), str(token), "server")
        try:
            await remote.read_ca()
            rows = await remote.get("/db/info")
        except RemoteError:
            return  # nobody to ask: etcd itself will say
        if all(row["name"] != name for row in rows):
            found = ", ".join(f"{row['name']}={row['url'].replace(':2379', ':2380')}" for row in rows)
            mine = f"{name}=https://{self.disk.spec.address}:2380"
            raise FatalError(f"this server is a not a member of the etcd cluster. Found [{found}], expect: {mine}")

    async def _start_etcd_alone(self) -> None:
        """Start etcd's pod; the API server's waits until etcd votes, unless it runs already."""
        for done in await asyncio.to_thread(self.pods.reconcile, ("etcd",)):
            say("info", f"static pod: {done}")

    async def _wait_for_vote(self, etcd: Etcd, name: str) -> None:
        last = ""
        while True:
            try:
                await asyncio.to_thread(etcdpod.check_voter, self.disk, etcd, name)
                say("info", "etcd data store connection OK")
                return
            except EtcdError as error:
                if str(error) != last:
                    say("info", f"Failed to test data store connection: {error}")
                last = str(error)
            await self._pause()
            await self._start_etcd_alone()

    async def _watch_membership(self, etcd: Etcd, name: str) -> None:
        """Stay until this server's member is removed. Raises FatalError then."""
        while True:
            await asyncio.sleep(self.disk.spec.wait_s(self.disk.spec.learner_s))
            members = await asyncio.to_thread(self._members_anywhere, etcd)
            if members and name not in members:
                raise FatalError(
                    "this node has been removed from the cluster please restart rke2 to rejoin the cluster"
                )

    def _members_anywhere(self, etcd: Etcd) -> list[str]:
        """Return the members' names as another member knows them: a removed one's own etcd has ended."""
        try:
            members = etcd.members()
            self._peers = [one.client_url for one in members if one.client_url and one.host != self.disk.spec.address]
            return [member.name for member in members if member.name]
        except EtcdError:
            pass
        for url in self._peers:
            other = etcdpod.client(self.disk, url)
            try:
                return [member.name for member in other.members() if member.name]
            except EtcdError:
                continue
            finally:
                other.close()
        return []

    # --- API and node ------------------------------------------------------------------------------------------------

    def _api(self, state: ClusterState) -> KubeApi:
        certificate, key = (str(self.disk.path(f"{TLS}/client-admin.{end}")) for end in ("crt", "key"))

        def servers() -> list[str]:
            if self.ready or self.joined_from is None:
                return ["127.0.0.1"]
            return [self.joined_from.host]

        return KubeApi(state.ca, certificate, key, servers)

    async def _start_api(self, api: KubeApi) -> None:
        for done in await asyncio.to_thread(self.pods.reconcile):
            say("info", f"static pod: {done}")
        last = ""
        local = KubeApi(self.disk.read(f"{TLS}/server-ca.crt"), *self._admin(), lambda: ["127.0.0.1"])
        try:
            while True:
                try:
                    await local.call("GET", "/readyz")
                    return
                except ApiError as error:
                    if str(error) != last:
                        say("info", f"Waiting for API server to become available: {error}")
                    last = str(error)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(self.pods.reconcile)
        finally:
            await local.close()

    def _admin(self) -> tuple[str, str]:
        return str(self.disk.path(f"{TLS}/client-admin.crt")), str(self.disk.path(f"{TLS}/client-admin.key"))

    async def _forget_password(self, api: KubeApi) -> None:
        """Delete this node's password secret: the one in the restored data may be older than the file on disk."""
        with contextlib.suppress(ApiError):  # there may be none
            await api.call("DELETE", f"{SECRETS}/{self.node}.node-password.rke2")

    def _myself(self, state: ClusterState) -> Remote:
        remote = Remote(f"https://127.0.0.1:{PORT}", state.full_token, "server")
        remote.ca = state.ca
        return remote

    async def _check_password(self, remote: Remote) -> None:
        """Get the kubelet's certificate; waits while the server is not ready or rejects the node's password."""
        last = ""
        while True:
            try:
                certificate, key = await remote.kubelet_pair(self.disk, self.node)
                self.disk.write(f"{DATA}/agent/client-kubelet.key", key, 0o600)
                self.disk.write(f"{DATA}/agent/client-kubelet.crt", certificate)
                return
            except RemoteError as error:
                if str(error) != last:
                    say("error" if error.status == 403 else "info", str(error))
                last = str(error)
            await self._pause()


def _is_learner(etcd: Etcd, name: str) -> bool | None:
    try:
        return next((member.learner for member in etcd.members() if member.name == name), None)
    except EtcdError:
        return None
