"""The clusters that the lab's machines form: who may join, who has a vote, what runs where.

A machine's service (service.py) calls in when its unit starts; the truth about membership lives here, as in etcd.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
from typing import TYPE_CHECKING, Any

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.net import LabNet
from stackwright.lab.rke2 import static_pods
from stackwright.lab.rke2.certificates import age_certificates
from stackwright.lab.rke2.commands import cluster_of, rke2_command
from stackwright.lab.rke2.encryption import first_encryption
from stackwright.lab.rke2.etcd_api import Raft
from stackwright.lab.rke2.memberlog import MemberLog
from stackwright.lab.rke2.mirrors import mirror_pods
from stackwright.lab.rke2.objects import ClusterApi, NoApi, Obj, set_condition, system_objects
from stackwright.lab.rke2.service import Rke2Service
from stackwright.lab.rke2.snapshots import snapshot_kind
from stackwright.lab.rke2.state import DATA, ClusterState, Member, load_clusters, new_cluster
from stackwright.lab.rke2.static_pods import Manifest, Pods
from stackwright.lab.rke2.supervisor import Balancer
from stackwright.lab.rke2.versions import TOO_NEW, etcd_minor, etcd_of, minor_of

if TYPE_CHECKING:
    from stackwright.lab.nodes import LabNodes, Machine

log = logging.getLogger(__name__)
API_PORT, SUPERVISOR_PORT = 6443, 9345
PROMOTE_S = 15.0
STALLED_S = 300.0
NODE_LOST_S = 40.0
LOOK_S = 4.0
REMOVE, REMOVED = "etcd.rke2.cattle.io/remove", "etcd.rke2.cattle.io/removed-node-name"
NODE_NAME, NODE_ADDRESS = "etcd.rke2.cattle.io/node-name", "etcd.rke2.cattle.io/node-address"
MIRROR_S = 1.0  # of real time: how often a mirror pod that somebody deleted is looked for
MISMATCH = "failed to validate server configuration: critical configuration value mismatch"
PASSWORD_REJECTED = (
    "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server "
    "node-passwd entry, try enabling a unique node name with the --with-node-id flag"
)


class Rke2Cluster:
    """RKE2 on all machines of a lab. Make it before the machines are started; `api` is the first cluster's."""

    def __init__(self, nodes: LabNodes, net: LabNet, api: ClusterApi, lb_address: str, speed: float = 1.0) -> None:
        self.nodes = nodes
        self.net = net
        self.speed = speed
        self._api = api
        self._folder = nodes.folder / "rke2"
        self.clusters: dict[str, ClusterState] = load_clusters(self._folder)
        self.pods: dict[str, Pods] = {}
        self.supervised: set[str] = set()
        self.kubelets: dict[str, str] = {}  # node -> the release that runs there; what is installed may be newer
        self._registered: set[str] = set()
        self._raft: dict[str, Raft] = {}
        self._mirrored_at = 0.0
        self._ready_since: dict[str, float] = {}
        self._lost_since: dict[str, float] = {}
        self._balancer = Balancer(lb_address, self._backends)
        self._controller: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self.log = MemberLog(self._folder / "members.jsonl")
        nodes.on_fault = self._on_fault
        for machine in nodes.machines.values():
            for role in ("server", "agent"):
                machine.systemd.drivers[f"rke2-{role}.service"] = Rke2Service(machine, self, role)
            machine.extra_commands["rke2"] = self._command

    async def start(self) -> None:
        """Open the load balancer and start the controllers; the machines' units do the rest."""
        await self._balancer.start((API_PORT, SUPERVISOR_PORT))
        self._controller = asyncio.create_task(self._control())

    async def stop(self) -> None:
        """Close everything. The machines are stopped by their owner, before or after."""
        if self._controller is not None:
            self._controller.cancel()
            await asyncio.gather(self._controller, *self._jobs, return_exceptions=True)
        await self._balancer.stop()
        for name in [*self.pods]:
            await self.kill_pods(self.nodes[name])

    async def pause(self, seconds: float) -> None:
        """Wait as long as the real thing takes, divided by the lab's speed."""
        await asyncio.sleep(seconds / self.speed)

    # Membership

    def api_of(self, state: ClusterState) -> ClusterApi:
        """Return the API of a cluster: a second one, which should not be, gets an empty one."""
        return self._api if state.id == next(iter(self.clusters)) else NoApi()

    def bootstrap(self, token: str, agent_token: str, critical: dict[str, str], version: str) -> ClusterState:
        """Make a new cluster, of the release of its first server."""
        state = new_cluster(token or secrets.token_hex(16), agent_token, critical)
        state.encryption = first_encryption()
        state.born, state.etcd = version, etcd_of(version)
        self.clusters[state.id] = state
        self.save(state)
        return state

    def add_member(self, state: ClusterState, name: str, address: str, *, voter: bool) -> Member:
        """Add an etcd member."""
        member = Member(name, secrets.token_hex(4), address, voter=voter)
        state.members[name] = member
        self.save(state)
        return member

    def remove_member(self, state: ClusterState, name: str) -> None:
        """Drop an etcd member, whose server ends; its data on disk stays and is refused from now on."""
        if state.members.pop(name, None) is None:
            return
        self.save(state)
        machine = self.nodes.machines.get(self.machine_of(name))
        pods = self.pods.get(machine.name) if machine else None
        if machine is not None and pods is not None and pods.cluster == state.id:
            job = asyncio.get_running_loop().create_task(self.kill_pods(machine))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    def save(self, state: ClusterState) -> None:
        """Keep a cluster's state."""
        state.save(self._folder)
        self.note("membership")

    def _on_fault(self, name: str, what: str) -> None:
        if name in self.nodes.cut_off:
            self._balancer.drop(self.nodes[name].spec.address)
        self.note(f"fault: {what} on {name}")

    def note(self, cause: str) -> None:
        """Note which members of the first cluster run, when that has changed."""
        state = next(iter(self.clusters.values()), None)
        if state is not None:
            self.log.note(
                cause, {one.name: (one.voter, self.member_runs(state, one.name)) for one in [*state.members.values()]}
            )

    def has_quorum(self, state: ClusterState) -> bool:
        """Say whether more than half of the voters run."""
        voters = state.voters
        running = sum(1 for member in voters if self.member_runs(state, member.name))
        return running > len(voters) // 2

    def has_api(self) -> bool:
        """Say whether the first cluster's API servers have a datastore that answers."""
        state = next(iter(self.clusters.values()), None)
        return state is None or self.has_quorum(state)

    def is_served(self, state: ClusterState, machine: str) -> bool:
        """Say whether the member on a machine is part of a quorum."""
        return self.has_quorum(state) and machine not in self.nodes.cut_off and not self.nodes.is_full(machine, DATA)

    def leader(self, state: ClusterState) -> str | None:
        """Return the leader: it stays while it runs, then the first running voter follows; None without a quorum."""
        if not self.has_quorum(state):
            return None
        able = [member.name for member in state.voters if self.member_runs(state, member.name)]
        raft = self.raft_of(state)
        if raft.leader not in able:
            raft.look(able[0])
        return raft.leader

    def member_runs(self, state: ClusterState, name: str) -> bool:
        """Say whether a member runs and reaches the others. On a full disk etcd ends at its next write."""
        machine = self.machine_of(name)
        pods = self.pods.get(machine)
        lost = machine in self.nodes.cut_off or self.nodes.is_full(machine, DATA)
        return pods is not None and pods.cluster == state.id and pods.answers("etcd") and not lost

    def raft_of(self, state: ClusterState) -> Raft:
        """Return what a cluster's members agree on."""
        return self._raft.setdefault(state.id, Raft())

    def etcd_started(self, name: str) -> float:
        """Return when a member's process was started; 0 when none runs."""
        pods = self.pods.get(self.machine_of(name))
        return pods.started.get("etcd", 0.0) if pods else 0.0

    def etcd_version(self, name: str) -> str:
        """Return the version of etcd that a member runs."""
        return etcd_of(self.pods[self.machine_of(name)].version)

    def machine_of(self, node: str) -> str:
        """Return the machine of a node name, which may have been set to another one than the machine's."""
        if node in self.nodes.machines:
            return node
        return next(
            (key for key, machine in self.nodes.machines.items() if machine.read("/etc/hostname").strip() == node), ""
        )

    def admit(self, state: ClusterState, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Decide on a join: (HTTP status, answer). The answer to a refusal has the server's words in `error`."""
        name, role = asked["node"], asked["role"]
        if not self.has_quorum(state):
            return 503, {"error": "https://127.0.0.1:9345/v1-rke2/readyz: 500 Internal Server Error"}
        api = self.api_of(state)
        known = state.members.get(name)
        if role == "server":
            different = sorted(key for key, value in state.critical.items() if asked["critical"].get(key) != value)
            if different:
                return 400, {"error": f"{MISMATCH}: {', '.join(different)}"}
            if known is not None and known.address != asked["address"]:
                return 400, {"error": "duplicate node name found, please use a unique name for this node"}
            learner = next((member.name for member in state.members.values() if not member.voter), None)
            if learner not in (None, name):
                return 409, {"error": "etcdserver: too many learner members in cluster"}
        if not self._password_fits(api, name, asked["password"]):
            return 403, {"error": PASSWORD_REJECTED}
        if role == "server" and known is None:
            self.add_member(state, name, asked["address"], voter=False)
        return 200, {"cluster": state.id}

    def admit_first(self, state: ClusterState, name: str, password: str) -> None:
        """Note the first server's node password."""
        self._password_fits(self.api_of(state), name, password)

    @staticmethod
    def _password_fits(api: ClusterApi, name: str, password: str) -> bool:
        hashed = hashlib.sha256(password.encode()).hexdigest()
        secret = api.get("Secret", "kube-system", f"{name}.node-password.rke2")
        if secret is not None:
            return bool(secret.get("data", {}).get("hash") == _b64(hashed))
        api.put({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True,
            "metadata": {"name": f"{name}.node-password.rke2", "namespace": "kube-system"},
            "data": {"hash": _b64(hashed)},
        })  # fmt: skip
        return True

    # What runs

    async def run_pods(
        self, machine: Machine, state: ClusterState, manifests: dict[str, Manifest], version: str
    ) -> None:
        """Start a server's static pods, or replace those whose manifest changed, as another release's is."""
        static_pods.write_manifests(machine, manifests)
        await static_pods.run_pods(self, machine, state, manifests, version)
        self._raise_etcd(state)

    def _raise_etcd(self, state: ClusterState) -> None:
        """Raise etcd's cluster version once every member runs a newer one: from then on none can go back."""
        running = [self.pods.get(self.machine_of(name)) for name in state.members]
        oldest = min((etcd_of(pods.version) for pods in running if pods), key=etcd_minor, default="")
        if None not in running and oldest and etcd_minor(oldest) > etcd_minor(state.etcd or "3.5"):
            state.etcd = oldest
            self.save(state)

    @staticmethod
    def etcd_refuses(state: ClusterState, version: str) -> bool:
        """Say whether the etcd of a release is too old for the cluster's data."""
        return bool(state.etcd) and etcd_minor(etcd_of(version)) < etcd_minor(state.etcd)

    def member_on(self, state: ClusterState, machine: str) -> str:
        """Return the name of the member that runs on a machine; empty when it was removed."""
        return next((name for name in state.members if self.machine_of(name) == machine), "")

    async def kill_pods(self, machine: Machine) -> None:
        """Stop a machine's static pods."""
        pods = self.pods.pop(machine.name, None)
        if pods is not None:
            await pods.close_all()
            dead = self.nodes.is_dead(machine.name)
            self.note(f"fault: {machine.name} died" if dead else f"stopped on {machine.name}")

    def put_system_objects(self, state: ClusterState, config: dict[str, Any], version: str) -> None:
        """Put what RKE2's own charts bring, unless it is there."""
        api = self.api_of(state)
        for namespace in ("default", "kube-system", "kube-public", "kube-node-lease"):
            if api.get("Namespace", "", namespace) is None:
                meta = {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}}
                api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": meta, "status": {"phase": "Active"}})
        # An upgrade keeps the ingress of the first release.
        for obj in [snapshot_kind(), *system_objects(config, state.born or version)]:
            meta = obj["metadata"]
            if api.get(obj["kind"], meta.get("namespace", ""), meta["name"]) is None:
                api.put(obj)

    def put_node(self, state: ClusterState, node: Obj) -> None:
        """Register a Node, with its mirror pods; from now on its deletion is acted upon."""
        api, name = self.api_of(state), node["metadata"]["name"]
        api.put(node)
        for pod in mirror_pods(api.get("Node", "", name) or node):
            api.put(pod)
        self._registered.add(name)
        self._mirror(state, name)

    def _mirror(self, state: ClusterState, name: str) -> None:
        pods = self.pods.get(self.machine_of(name))
        if pods is not None and pods.cluster == state.id:
            static_pods.put_mirror_pods(self.api_of(state), name, pods)

    def _backends(self, port: int) -> list[str]:
        serving = {name for name, pods in self.pods.items() if pods.answers("kube-apiserver")}
        names = self.supervised if port == SUPERVISOR_PORT else serving
        # An API server asks the etcd member beside it and no other: without that one it serves nobody.
        names = names - self.nodes.cut_off - {name for name in names if self.nodes.is_full(name, DATA)}
        return [machine.spec.address for name, machine in self.nodes.machines.items() if name in names]

    # Controllers

    async def _control(self) -> None:
        while True:
            await self.pause(LOOK_S)
            for state in [*self.clusters.values()]:
                if self.has_quorum(state):
                    self._promote(state)
                    self._look_at_nodes(state)

    def _promote(self, state: ClusterState) -> None:
        now = asyncio.get_running_loop().time()
        for member in [*state.members.values()]:
            if member.voter:
                continue
            if not (member.ready and self.member_runs(state, member.name)):
                self._ready_since.pop(member.name, None)
                continue
            age = (now - self._ready_since.setdefault(member.name, now)) * self.speed
            machine = self.nodes.machines.get(self.machine_of(member.name))
            stuck = self.nodes.faults.standing("learner-stuck", member.name) is not None
            if stuck and age > STALLED_S:
                self.remove_member(state, member.name)
            elif age >= PROMOTE_S and not stuck:
                member.voter = True
                self.save(state)
                if machine is not None:
                    machine.systemd.log(
                        "rke2",
                        f'level=info msg="Learner {member.name}-{member.id} promoted to voting member"',
                        "rke2-server.service",
                    )

    def _look_at_nodes(self, state: ClusterState) -> None:
        api = self.api_of(state)
        seen = {node["metadata"]["name"]: node for node in api.objects("Node")}
        if isinstance(api, NoApi):
            return
        for name in [*self._registered]:
            if name not in seen:
                # kubectl delete node: the controllers drop the password, and the member too.
                self._registered.discard(name)
                api.delete("Secret", "kube-system", f"{name}.node-password.rke2")
                static_pods.drop_mirror_pods(api, name)
                self.remove_member(state, name)
        for name, node in seen.items():
            changed = self._look_at_member(state, name, node)
            if self._look_at_kubelet(name, node) or changed:
                api.put(node)
        if asyncio.get_running_loop().time() - self._mirrored_at > MIRROR_S:
            self._mirrored_at = asyncio.get_running_loop().time()
            for name in seen:
                self._mirror(state, name)

    def _look_at_member(self, state: ClusterState, name: str, node: Obj) -> bool:
        annotations = node["metadata"].setdefault("annotations", {})
        member, changed = state.members.get(name), False
        if REMOVE in annotations:
            changed = self._look_at_removal(state, name, annotations)
            member = state.members.get(name)
        if member is not None:
            word = ("True", "MemberNotLearner", "Node is a voting member of the etcd cluster")
            if not member.voter:
                word = ("False", "MemberIsLearner", "Node has not been promoted to voting member of the etcd cluster")
            changed = set_condition(node, "EtcdIsVoter", *word) or changed
        return changed

    def _look_at_removal(self, state: ClusterState, name: str, annotations: dict[str, str]) -> bool:
        """Act on a request to remove a member, once, as RKE2's member controller does; tell whether anything changed.

        Source: k3s pkg/etcd/member_controller.go. The last voter is never removed: the request is dropped.
        """
        member, removed, current = state.members.get(name), annotations.get(REMOVED), annotations.get(NODE_NAME)
        if removed is not None:
            if current in (None, removed):
                return False
            del annotations[REMOVED], annotations[REMOVE]  # it came back as another member
            return True
        if annotations[REMOVE].lower() != "true" or current is None:
            return False
        if member is not None and member.voter and len(state.voters) == 1:
            del annotations[REMOVE]
            return True
        annotations[REMOVED] = current
        for key in (NODE_NAME, NODE_ADDRESS):
            annotations.pop(key, None)
        self.remove_member(state, name)
        return True

    def _look_at_kubelet(self, name: str, node: Obj) -> bool:
        machine = self.nodes.machines.get(self.machine_of(name))
        if machine is None:
            return False
        heard = name not in self.nodes.cut_off
        if heard and any(machine.systemd.is_active(f"rke2-{role}.service") for role in ("server", "agent")):
            self._lost_since.pop(name, None)
            if self.is_too_new(name):
                return set_condition(node, "Ready", "False", "KubeletNotReady", TOO_NEW)
            return set_condition(node, "Ready", "True", "KubeletReady", "kubelet is posting ready status")
        now = asyncio.get_running_loop().time()
        if (now - self._lost_since.setdefault(name, now)) * self.speed < NODE_LOST_S:
            return False
        ready = next((c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"), None)
        if ready != "True":
            return False
        return set_condition(node, "Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")

    def is_too_new(self, name: str) -> bool:
        """Say whether a node's kubelet is of a newer minor than the oldest API server that it may be led to."""
        own = self.kubelets.get(name)
        servers = [minor_of(pods.version) for pods in self.pods.values()]
        return (
            own is not None
            and bool(servers)
            and minor_of(own) > min(servers)
            and self.machine_of(name) not in self.pods
        )

    def age_certificates(self, name: str, days: float) -> None:
        """Give every leaf certificate of a machine so many days to live."""
        age_certificates(self.nodes[name], cluster_of(self, self.nodes[name]), days)

    async def _command(self, machine: Machine, call: Call) -> Answer:
        if call.args[1:2] == ("lab-killall",):
            await self.kill_pods(machine)
            return Answer()
        return rke2_command(self, machine, call)

    def snapshot(self) -> dict[str, Any]:
        """Return what can be compared: per cluster its members and votes."""
        return {
            f"cluster-{index}": {
                name: "voter" if member.voter else "learner" for name, member in sorted(state.members.items())
            }
            for index, state in enumerate(self.clusters.values())
        }


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
