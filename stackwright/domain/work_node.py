"""A node's death as a proof: whether the spare node may be stopped, what stops it and undoes that, the verdict. Pure.

The node is not powered off: nobody could switch it on again over SSH. Its agent is stopped and every container killed,
which is what the cluster sees of a node that lost its power; and before that a timer is armed on the node itself, which
starts it again whatever becomes of this run. It is carried out by tasks/work_node.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stackwright.domain.check import Outcome, judge
from stackwright.domain.cluster import NodeStatus, Obj
from stackwright.domain.drain import is_evictable
from stackwright.domain.drain_facts import DrainFacts
from stackwright.domain.drain_storage import Storage
from stackwright.domain.errors import Problem, ProblemsError
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.rke2_facts import DATA
from stackwright.domain.spec import StackSpec
from stackwright.domain.work_objects import DEATH, PREFIX, Sum

CHECK = "platform/node-loss"
GIVE_UP_S = 30
"""So long the workload's pod tolerates a node that does not answer; without it Kubernetes says five minutes."""
WAITS = 3  # while the node is dead: lost, given up, read elsewhere
MARGIN_S = 300
KILL_LIMIT_S = 300  # an unmount of a volume whose engine is dead may hang until iSCSI gives up, two minutes
BACK_UNIT = "stackwright-node-back"
SERVER_ROLES = frozenset({"control-plane", "etcd", "master"})


class SpareRefusedError(ProblemsError):
    """The spare node may not be stopped as things are. Nothing was stopped."""


def death_plan(spec: StackSpec) -> Plan:
    """Return what is done to the spare node: nothing where the site file names none."""
    name = spec.validation.spare_node
    if name is None:
        return Plan(spec.site, ())
    seconds = str(back_after_s(spec))
    down = Step(
        f"proof/{name}/down", name, "stop rke2-agent and kill its containers, a timer starts it again",
        Effect.REBOOT, "5.4", "the cluster says NotReady", seconds,
    )  # fmt: skip
    up = Step(
        f"proof/{name}/up", name, "start rke2-agent again", Effect.SERVICE_RESTART, "5.4",
        "Ready, its daemons too, and all volumes healthy", "",
    )  # fmt: skip
    return Plan(spec.site, (down, up))


def back_after_s(spec: StackSpec) -> int:
    """Return after how long the node starts itself again, if nobody else does."""
    return WAITS * spec.validation.platform_timeout_s + MARGIN_S


# --- may it be stopped? ----------------------------------------------------------------------------------------------


def spare_problems(
    facts: DrainFacts, name: str, ours: Collection[str] = (), *, cordoned: bool = False
) -> list[Problem]:
    """Return why the node may not be stopped now; empty if it may. `ours` are the workload's pods, namespace/name.

    Nothing but daemons and the workload may run there, every other node must be ready, and every volume that has a copy
    there must be whole with one elsewhere. `cordoned` tells that we have cordoned it ourselves.
    """
    remedy = "Give this login the right to read it, or look why the API does not answer."
    problems = [
        Problem("cluster", f"{what} could not be read", remedy, "all of them", "unknown") for what in facts.unread
    ]
    nodes = {node.name: node for node in facts.nodes}
    node = nodes.get(name)
    if node is None:
        return [*problems, Problem(name, "the cluster does not know this node", "Check its name.", "a node", "none")]
    problems += _node_problems(node, cordoned=cordoned)
    problems += [
        Problem(other.name, "this node is not Ready: a second one is not stopped", "Mend it first.", "Ready", "not")
        for other in facts.nodes
        if other.name != name and not other.ready
    ]
    here = [pod for pod in facts.pods if pod.node == name and is_evictable(pod) and not pod.instance_manager]
    remedy = "Keep work off the spare node by a taint, and move this pod; or name another node."
    problems += [
        Problem(name, f"pod {pod.id} runs here", remedy, "nothing but daemons and the proof", "another pod")
        for pod in sorted(here, key=lambda pod: pod.id)
        if pod.id not in ours
    ]
    if facts.storage is None:
        remedy = "Deploy layers.storage first."
        return [*problems, Problem("cluster", "SUSE Storage is not there", remedy, "its volumes", "none")]
    mine = [pod for pod in here if pod.id in ours]
    found = Storage(facts.storage, nodes).check(frozenset({name}), mine, frozenset())
    return [*problems, *(one.problem for one in found)]


def is_mending(facts: DrainFacts, name: str) -> bool:
    """Tell whether waiting may mend a volume there: one that is rebuilt, or one of an earlier proof that still goes."""
    if facts.storage is None:
        return False
    if any(volume.claim.startswith(f"{PREFIX}{DEATH.name}-") for volume in facts.storage.volumes):
        return True
    nodes = {node.name: node for node in facts.nodes}
    return any(one.passing for one in Storage(facts.storage, nodes).check(frozenset({name}), (), frozenset()))


def _node_problems(node: NodeStatus, *, cordoned: bool) -> list[Problem]:
    found = []
    if SERVER_ROLES & set(node.roles):
        remedy = "Name an agent in validation.spare_node."
        found.append(Problem(node.name, "a server is never stopped", remedy, "an agent", ", ".join(node.roles)))
    if not node.ready:
        remedy = "Look why it does not answer; nothing of it can be proved before."
        found.append(Problem(node.name, "this node is not Ready", remedy, "Ready", "not"))
    if not node.schedulable and not cordoned:
        remedy = "Uncordon it, if nobody is at work there."
        found.append(Problem(node.name, "this node is cordoned", remedy, "not cordoned", "cordoned"))
    return found


def at_home(pod: Obj, node: NodeStatus) -> Obj:
    """Return the workload's pod as one that stands the node's own taints, and is soon given up where that is lost."""
    lost = [
        {
            "key": f"node.kubernetes.io/{key}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": GIVE_UP_S,
        }
        for key in ("not-ready", "unreachable")
    ]
    own = [
        {"key": taint.partition(":")[0].partition("=")[0], "operator": "Exists"}
        for taint in node.taints
        if not taint.startswith("node.kubernetes.io/")
    ]
    return {**pod, "spec": {**pod["spec"], "tolerations": [*own, *lost]}}


# --- scripts ---------------------------------------------------------------------------------------------------------


def down_script(spec: StackSpec) -> str:
    """Return the script that stops an agent and kills its containers, after it has armed the way back.

    rke2-killall.sh keeps all data and RKE2 makes anew what it takes away; a unit that is only stopped would leave the
    containers running. It refuses where the node is a server, or would not start RKE2 by itself after a power cut.
    """
    return _DOWN.format(unit=BACK_UNIT, seconds=back_after_s(spec), limit=KILL_LIMIT_S, data=DATA)


def up_script() -> str:
    """Return the script that starts the agent again and takes the timer away. A second run changes nothing."""
    return _UP.format(unit=BACK_UNIT)


_DOWN = """\
case $(systemctl is-active rke2-server.service) in
inactive | failed | unknown) ;;
*) echo 'rke2-server runs here: a server is not stopped for a proof'; exit 1 ;;
esac
if [ "$(systemctl is-enabled rke2-agent.service)" != enabled ]; then
echo 'rke2-agent.service is not enabled: after a power cut this node would not come back by itself'; exit 1
fi
k=
for p in /usr/local /opt/rke2 /usr; do
if [ -z "$k" ] && [ -x "$p/bin/rke2-killall.sh" ]; then k=$p/bin/rke2-killall.sh; fi
done
if [ -z "$k" ]; then echo 'rke2-killall.sh is in none of /usr/local/bin, /opt/rke2/bin, /usr/bin'; exit 1; fi
systemctl stop {unit}.timer 2>/dev/null || :
systemctl reset-failed {unit}.service 2>/dev/null || :
systemd-run --quiet --collect --unit={unit} --on-active={seconds}s systemctl --no-block start rke2-agent.service
case $(systemctl is-active {unit}.timer) in
active) ;;
*) echo 'the timer that starts the node again is not armed; nothing was stopped'; exit 1 ;;
esac
timeout -k 30 {limit} "$k" >/dev/null 2>&1 || echo "$k ended with $?"
left=
for p in /proc/[0-9]*; do
e=$(readlink "$p/exe" 2>/dev/null) || continue
case $e in {data}/data/*) left="$left ${{p#/proc/}}" ;; esac
done
case $(systemctl is-active rke2-agent.service) in active | activating) left="$left rke2-agent.service" ;; esac
if [ -n "$left" ]; then echo "still running:$left"; exit 1; fi
"""
_UP = """\
case $(systemctl is-active rke2-agent.service) in
active | activating) ;;
*) systemctl --no-block start rke2-agent.service ;;
esac
systemctl stop {unit}.timer 2>/dev/null || :
"""


# --- verdict ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeathSeen:
    """What was seen of a node's death. Times are in seconds since it was stopped; `back_s` None: not all healthy."""

    node: str
    copies: tuple[str, ...]
    second: str
    wrote: Sum
    read: Sum | None
    lost_s: float
    given_up_s: float
    read_s: float
    back_s: float | None = None
    not_back: str = ""


def judge_death(seen: DeathSeen) -> Outcome:
    """Pass only where the data was read elsewhere while the node was dead, and everything is whole again."""
    text = (
        f"{DEATH}: written on {seen.node}, copies on {', '.join(seen.copies)}; {seen.node}'s agent and containers "
        f"killed (not its power); NotReady after {seen.lost_s:.0f} s, its pod given up after {seen.given_up_s:.0f} s "
        f"and removed by force. Read on {seen.second} after {seen.read_s:.0f} s: "
    )
    text += f"{seen.read.size} bytes, sha256 {seen.read.sha256[:12]}" if seen.read else "nothing"
    if seen.read != seen.wrote:
        text += f"; {seen.wrote.size} bytes, sha256 {seen.wrote.sha256[:12]} had been written"
    if seen.back_s is None:
        return Outcome("fail", f"{text}; not whole again: {seen.not_back}")
    return judge(seen.read == seen.wrote, f"{text}; node back and volumes healthy after {seen.back_s:.0f} s")
