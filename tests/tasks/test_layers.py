"""Bringing a layer up: look, decide, change, look again; and all layers in the order of their needs."""

from __future__ import annotations

import asyncio
import base64
import logging

import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from stackwright.domain.errors import (
    ApiUnavailableError,
    FencedError,
    GateTimeoutError,
    PlanMovedError,
    PlanRefusedError,
    StackError,
    ToolError,
)
from stackwright.domain.evidence import passed
from stackwright.domain.layers import order
from stackwright.domain.plan import Plan
from tasks.layers import LayersFailedError, bring_layer, ensure_layers, read_layers, registry_logins
from tests.domain.layers.sites import VENDOR_PLACES, lab
from tests.fakes.helm import storage_secret
from tests.fakes.kube import ready
from tests.tasks.layer_site import FakeLease, FakeSite

MONGODB = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "mongodbcommunity.mongodbcommunity.mongodb.com"},
}


@pytest.fixture
def fake(tmp_path):
    return FakeSite(tmp_path)


def bring(fake: FakeSite, name: str):
    return bring_layer(fake.site, name, fake.lease, fake.steps(name))


def test_layer_is_brought_up_in_order(fake):
    """Objects come before the release, the release before what needs its webhook; the evidence passes."""
    assert passed(bring(fake, "metallb"))
    assert fake.helm.journal == ["apply metallb-system/metallb 0.16.1"]
    assert fake.kube.journal == [
        "apply Namespace /metallb-system",
        "apply IPAddressPool metallb-system/stackwright",
        "apply L2Advertisement metallb-system/stackwright",
    ]


def test_second_run_changes_nothing(fake):
    """A layer that is as wanted gets no change, no helm process, and its evidence again."""
    first = bring(fake, "metallb")
    kube, helm = list(fake.kube.journal), list(fake.helm.journal)
    second = bring_layer(fake.site, "metallb", fake.lease, ())
    assert (fake.kube.journal, fake.helm.journal) == (kube, helm)
    assert [item.id for item in second] == [item.id for item in first]


def test_step_that_was_not_approved_is_not_done(fake):
    """What the plan did not hold is refused before anything changes."""
    with pytest.raises(PlanMovedError):
        bring_layer(fake.site, "metallb", fake.lease, ())
    assert fake.kube.journal + fake.helm.journal + fake.secrets.made == []


def test_foreign_release_is_left_alone(fake):
    """A release that somebody else made stops the layer with its remedy, and nothing changes."""
    steps = fake.steps("metallb")
    fake.kube.put(storage_secret("metallb", "metallb-system", stackwright_io__chart="metallb"))
    with pytest.raises(PlanRefusedError, match="not made by Stackwright"):
        bring_layer(fake.site, "metallb", fake.lease, steps)
    assert fake.kube.journal + fake.helm.journal == []


def test_secrets_are_kept_before_they_are_used(fake):
    """A generated secret is in its block when helm is called, and a second run uses the same."""
    fake.helm.fail["rancher"] = [ToolError("helm upgrade failed", where="release cattle-system/rancher")]
    with pytest.raises(ToolError):
        bring(fake, "rancher")
    kept = fake.secrets.blocks[("secret-text", "rancher-bootstrap")]["value"]
    assert fake.helm.wants["rancher"].values["bootstrapPassword"].get_secret_value() == kept
    assert len(kept) == 24
    assert fake.steps("rancher")[0].effect.label == "none"


def test_given_secret_is_not_replaced(tmp_path):
    """A password that the operator brought stays as it is."""
    fake = FakeSite(tmp_path, {("secret-text", "rancher-bootstrap"): {"value": "mine"}})
    fake.helm.fail["rancher"] = [ToolError("helm upgrade failed")]
    with pytest.raises(ToolError):
        bring(fake, "rancher")
    assert fake.helm.wants["rancher"].values["bootstrapPassword"].get_secret_value() == "mine"


def test_secrets_reach_the_cluster_and_no_log(fake, caplog):
    """The site CA's key lands in its Secret; no log line and no repr shows it."""
    caplog.set_level(logging.DEBUG)
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}), pytest.raises(GateTimeoutError):
        bring(fake, "cert_manager")  # the issuers never become ready here
    secret = fake.kube.get("v1", "Secret", "stackwright-site-ca", "cert-manager")
    assert base64.b64decode(secret["data"]["tls.key"]) == b"planted-key"
    assert "planted" not in caplog.text + repr(fake.helm.wants)


def test_missing_block_is_named(tmp_path):
    """A block that only the operator can give is named when it is missing; nothing was installed."""
    fake = FakeSite(tmp_path)
    del fake.secrets.blocks[("secret-text", "observability-license")]
    with pytest.raises(PlanRefusedError, match=r"block observability-license.*SUSE Observability needs it"):
        bring(fake, "observability")
    assert fake.kube.journal + fake.helm.journal + fake.secrets.made == []


def test_objects_wait_for_a_webhook_that_is_coming_up(fake):
    """An object that a webhook refuses for the moment is applied when the webhook answers."""
    late = ApiUnavailableError("the API server cannot do this now", seen="failed calling webhook", status=500)
    fake.kube.refuse["IPAddressPool"] = [late, late]
    assert passed(bring(fake, "metallb"))
    assert fake.clock.waits == 2


def test_webhook_that_never_answers_ends_at_the_deadline(fake):
    """Waiting for a webhook has an end, with the webhook's own words."""
    late = ApiUnavailableError("the API server cannot do this now", seen="failed calling webhook", status=500)
    fake.kube.refuse["IPAddressPool"] = [late] * 100_000
    with pytest.raises(ApiUnavailableError, match="failed calling webhook"):
        bring(fake, "metallb")


def test_lost_lease_stops_before_the_next_change(fake):
    """A run that lost its lease makes no further change: not the object, not the release."""
    steps = fake.steps("metallb")
    with pytest.raises(FencedError):
        bring_layer(fake.site, "metallb", FakeLease(lives=2), steps)
    assert fake.kube.journal == ["apply Namespace /metallb-system"]
    assert fake.helm.journal == []


PENDING = [
    (
        "metallb",
        ("metallb", "metallb-system", "0.16.1"),
        ["uninstall metallb-system/metallb", "apply metallb-system/metallb 0.16.1"],
    ),
]


@pytest.mark.parametrize(("name", "release", "journal"), PENDING)
def test_pending_first_install_is_recovered(fake, name, release, journal):
    """A first install that was killed is removed and made again, under the approval of the install."""
    steps = fake.steps(name)
    chart, space, version = release
    fake.kube.put(
        storage_secret(
            chart,
            space,
            "pending-install",
            1,
            stackwright_io__site="lab",
            stackwright_io__chart=chart,
            stackwright_io__version=version,
        )
    )
    assert passed(bring_layer(fake.site, name, fake.lease, steps))
    assert fake.helm.journal == journal


def test_pending_upgrade_of_rancher_is_unlocked_without_rollback(fake):
    """Where a rollback would hurt, only the record of the killed upgrade is removed, then the upgrade is repeated."""
    own = {"stackwright_io__site": "lab", "stackwright_io__chart": "rancher"}
    fake.kube.put(storage_secret("rancher", "cattle-system", "deployed", 1, stackwright_io__version="2.13.8", **own))
    fake.kube.put(
        storage_secret("rancher", "cattle-system", "pending-upgrade", 2, stackwright_io__version="2.14.4", **own)
    )
    fake.helm.fail["rancher"] = [ToolError("stop here")]
    with pytest.raises(ToolError):
        bring(fake, "rancher")
    assert "delete Secret cattle-system/sh.helm.release.v1.rancher.v2" in fake.kube.journal
    assert fake.helm.journal == ["apply cattle-system/rancher 2.14.4"]


def test_labels_go_to_nodes_that_joined(fake):
    """Disks are announced on the storage nodes before the storage chart comes."""
    fake.helm.fail["longhorn"] = [ToolError("stop here")]
    with pytest.raises(ToolError):
        bring(fake, "storage")
    meta = fake.kube.get("v1", "Node", "wrk1")["metadata"]
    assert meta["labels"]["node.longhorn.io/create-default-disk"] == "config"
    assert '"path":"/var/lib/longhorn"' in meta["annotations"]["node.longhorn.io/default-disks-config"]


def test_node_that_has_not_joined_is_not_made(fake):
    """A label for a node that is not there is an error, not a new node."""
    fake.kube.objects.pop(("v1", "Node", "", "wrk2"))
    with pytest.raises(StackError, match="no such object"):
        bring(fake, "storage")
    assert fake.kube.get("v1", "Node", "wrk2") is None
    assert fake.helm.journal == []


def test_chart_crds_are_applied_before_the_release(fake):
    """CRDs in a chart's crds folder are applied each time, because helm never upgrades them."""
    fake.helm.crds["clearml-enterprise"] = [MONGODB]
    fake.helm.fail["clearml-enterprise"] = [ToolError("stop here")]
    with pytest.raises(ToolError):
        bring(fake, "clearml")
    assert "apply CustomResourceDefinition /mongodbcommunity.mongodbcommunity.mongodb.com" in fake.kube.journal


def test_missing_crds_stop_the_layer(fake):
    """A CRD that neither cluster nor chart has is named before helm is called."""
    with pytest.raises(StackError, match="mongodbcommunity"):
        bring(fake, "clearml")
    assert fake.helm.journal == []


def test_helm_logs_in_where_the_charts_come_from(fake):
    """The mirror's login is used for every layer, and no other."""
    bring(fake, "metallb")
    assert fake.helm.logins == [("127.77.10.10:5000", "lab")]


def test_vendor_logins_follow_the_charts():
    """Without a mirror each layer logs in to its own vendor; ClearML's token serves charts and images."""
    from stackwright.domain.layers import BY_NAME

    spec = lab(**VENDOR_PLACES)
    assert registry_logins(spec, BY_NAME["storage"]) == {"dp.apps.rancher.io": "appco"}
    assert registry_logins(spec, BY_NAME["clearml"]) == {"docker.io": "clearml-registry"}
    assert registry_logins(spec, BY_NAME["metallb"]) == {}


def test_closed_gate_names_pods_and_events(fake):
    """A gate that stays closed ends in an error with its last state, the pods' reasons and the last warnings."""
    fake.helm.on_install = lambda want: fake.kube.put(ready("Deployment", "metallb-controller", want.namespace))
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
    pod = {"phase": "Pending", "containerStatuses": [{"name": "speaker", "state": waiting}]}
    meta = {"name": "metallb-speaker-x", "namespace": "metallb-system"}
    fake.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": pod})
    event = {
        "type": "Warning",
        "reason": "Failed",
        "message": "Error: ImagePullBackOff",
        "involvedObject": {"name": "metallb-speaker-x"},
    }
    fake.kube.put({"apiVersion": "v1", "kind": "Event", "metadata": meta, **event})
    with pytest.raises(GateTimeoutError) as caught:
        bring(fake, "metallb")
    text = str(caught.value)
    assert "daemonset/metallb-speaker: does not exist" in text
    assert "metallb-speaker-x Pending ImagePullBackOff manifest unknown" in text
    assert "metallb-speaker-x: Failed Error: ImagePullBackOff" in text
    assert "deployment/metallb-controller" not in text


def test_cluster_that_is_not_there_yet_has_no_facts(tmp_path):
    """Before the kubeconfig is kept, nothing is asked of a cluster, and everything is to be made."""
    fake = FakeSite(tmp_path)
    del fake.secrets.blocks[("cluster-access", "cluster-access")]
    fake.site = fake.site.__class__(**{**fake.site.__dict__, "kube": None})
    facts = read_layers(fake.site)
    assert (facts.reachable, facts.objects, facts.releases) == (False, {}, {})


# --- all of them -----------------------------------------------------------------------------------------------------


class Starts:
    """Stands in for the task of one layer: records when each starts and ends, fails where told."""

    def __init__(self, fail: dict[str, BaseException] | None = None) -> None:
        self.fail = fail or {}
        self.log: list[str] = []
        self.most = self.now = 0

    async def __call__(self, name, site, lease, approved):
        self.log.append(f"start {name}")
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if name in self.fail:
            raise self.fail[name]
        self.log.append(f"end {name}")
        return []


def test_layers_start_as_soon_as_their_needs_are_up(fake):
    """No layer starts before what it waits for has ended; independent ones run at once."""
    from stackwright.domain.layers import waits_for

    starts = Starts()
    asyncio.run(ensure_layers(fake.site, fake.lease, Plan("lab", ()), starts))
    for layer in order(fake.spec):
        for need in waits_for(fake.spec, layer):
            assert starts.log.index(f"end {need}") < starts.log.index(f"start {layer.name}")
    assert starts.most >= 4
    assert len(starts.log) == 2 * len(order(fake.spec))


def test_failed_layer_stops_only_its_dependants(fake):
    """Independent layers finish; the error lists the failure and the layers that were not started."""
    starts = Starts({"storage": ToolError("helm upgrade failed", where="release longhorn", seen="no disk")})
    with pytest.raises(LayersFailedError) as caught:
        asyncio.run(ensure_layers(fake.site, fake.lease, Plan("lab", ()), starts))
    problems = {problem.where: problem for problem in caught.value.problems}
    assert problems["layer storage"].seen == "no disk"
    assert {where for where, problem in problems.items() if problem.what == "not started"} == {
        "layer registry", "layer observability", "layer security", "layer suse_ai", "layer clearml",
    }  # fmt: skip
    assert "end rancher_backup" in starts.log
    assert "start clearml" not in starts.log


def test_several_failures_are_all_listed(fake):
    """Two layers that fail by themselves are both in the error."""
    fail = {"metallb": ToolError("one"), "gpu_operator": ToolError("two")}
    with pytest.raises(LayersFailedError) as caught:
        asyncio.run(ensure_layers(fake.site, fake.lease, Plan("lab", ()), Starts(fail)))
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("layer metallb", "one"),
        ("layer gpu_operator", "two"),
    ]


def test_unforeseen_error_is_not_dressed_up(fake):
    """An exception that is none of ours comes out as it is."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ensure_layers(fake.site, fake.lease, Plan("lab", ()), Starts({"metallb": ZeroDivisionError()})))
