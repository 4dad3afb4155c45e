"""Tenants as values: names that are refused, objects and chart values, and the plan."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from stackwright.domain.layers.model import ObjectKey
from stackwright.domain.plan import Effect
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_objects import (
    agent,
    agent_values,
    cpu_text,
    gateway,
    gateway_objects,
    gateway_values,
    job_share,
    limits,
    memory_text,
    namespace,
    network,
    quota,
)
from stackwright.domain.tenants import (
    SeenKey,
    TenantFacts,
    check_tenant_names,
    decide_tenant,
    is_fresh,
    markers_of,
    objects_of,
    plan_tenant,
)
from stackwright.domain.values import dotted, markers_in
from tests.domain.layers.sites import SITES, lab
from tests.domain.layers.test_value_keys import is_known, known_keys

NOW = datetime(2026, 3, 17, 9, 30, tzinfo=UTC)
RED = {"name": "red", "admin_email": "admin@red.example"}
NOTHING = TenantFacts(NOW, cluster=False, platform=False, key=SeenKey("unknown"))


def site(*tenants, **over):
    return lab(tenants=list(tenants), **over)


def problems(*tenants, **over):
    """Return (place, what) of every problem."""
    return [(problem.where, problem.what) for problem in check_tenant_names(site(*tenants, **over))]


def red(spec):
    return spec.tenants[0]


# --- names and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ab", "short"),
        ("a" * 56, "longer than 63"),
        ("Red", "Kubernetes"),
        ("red_team", "Kubernetes"),
        ("-red", "Kubernetes"),
        ("red-", "Kubernetes"),
        ("red team", "Kubernetes"),
        ("röt", "Kubernetes"),
        ("rеd", "Kubernetes"),  # noqa: RUF001  the e is Cyrillic: it looks like another tenant
        ("red１", "Kubernetes"),  # noqa: RUF001  a wide digit
        ("red\n", "Kubernetes"),
        ("", "Kubernetes"),
        ("a.*", "regular expression"),
        ("red.blue", "regular expression"),
        ("red|blue", "regular expression"),
        ("^red$", "regular expression"),
        ("default", "reserved"),
        ("kube-system", "reserved"),
        ("clearml", "reserved"),
        ("clearml-red", "reserved"),
        ("cattle-system", "reserved"),
        ("supervisor", "reserved"),
    ],
)
def test_names_that_would_be_refused_later_are_refused_now(name, why):
    """Each name is refused at its own place, with the reason, a remedy, and the name shown in plain ASCII."""
    found = check_tenant_names(site({**RED, "name": name}))
    assert any(problem.where == "tenants[0].name" and why in problem.what for problem in found)
    assert all(problem.remedy and problem.seen.isascii() for problem in found)


@pytest.mark.parametrize("name", ["red", "a1b", "team-7", "7up", "a" * 55])
def test_good_names_pass(name):
    """Names that ClearML and Kubernetes both take are not refused."""
    assert problems({**RED, "name": name}) == []


def test_twins_are_found_whatever_their_case():
    """ClearML would take Admin@Red for the same user, and Kubernetes two names of one case for one namespace."""
    other = {"name": "blue", "admin_email": "Admin@RED.example"}
    assert problems(RED, other) == [("tenants[1].admin_email", "the same address as tenants[0].admin_email")]
    assert ("tenants[1].name", "the same name as tenants[0].name") in problems(RED, {**other, "name": "red"})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"quota": {"gpus": 1}, "queues": [{"name": "gpu", "gpus": 1, "max_pods": 2}]}, "quota.gpus"),
        ({"quota": {"pods": 7}}, "quota.pods"),
        ({"quota": {"cpu": 1}}, "quota.cpu"),
        ({"quota": {"memory_gib": 2}}, "quota.memory_gib"),
        ({"queues": [{"name": "ab"}]}, "queues[0].name"),
        ({"queues": [{"name": "a.*"}]}, "queues[0].name"),
        ({"queues": [{"name": "q" * 64}]}, "queues[0].name"),
        ({"queues": [{"name": "warteschlänge"}]}, "queues[0].name"),
        ({"queues": [{"name": "train"}, {"name": "Train"}]}, "queues[1].name"),
        ({"tcp_ports": {"start": 30110, "end": 30100}}, "tcp_ports"),
    ],
)
def test_quotas_queues_and_ports_are_checked(change, where):
    """What could never work is refused at its own place."""
    assert [place for place, _ in problems({**RED, **change})] == [f"tenants[0].{where}"]


def test_gpus_are_not_promised_twice():
    """Two tenants may not together have more GPUs than the site."""
    blue = {"name": "blue", "admin_email": "admin@blue.example"}
    assert problems({**RED, "quota": {"gpus": 2}}, {**blue, "quota": {"gpus": 2}}) == []
    assert [place for place, _ in problems({**RED, "quota": {"gpus": 3}}, {**blue, "quota": {"gpus": 2}})] == [
        "tenants"
    ]


def test_port_ranges_do_not_overlap():
    """Each tenant's TCP sessions have ports of their own; touching ranges are allowed."""
    blue = {"name": "blue", "admin_email": "admin@blue.example"}
    ports = {**RED, "tcp_ports": {"start": 30100, "end": 30110}}
    assert problems(ports, {**blue, "tcp_ports": {"start": 30111, "end": 30120}}) == []
    over = problems(ports, {**blue, "tcp_ports": {"start": 30110, "end": 30120}})
    assert over == [("tenants[1].tcp_ports", "overlaps with tenants[0].tcp_ports")]


def test_node_ports_have_a_range():
    """Without MetalLB the sessions are node ports, which Kubernetes keeps within 30000-32767."""
    outside = {**RED, "tcp_ports": {"start": 20000, "end": 20010}}
    assert problems(outside) == []
    assert [place for place, _ in problems(outside, layers={"metallb": {"enabled": False}})] == ["tenants[0].tcp_ports"]


def test_all_problems_come_at_once():
    """A bad site file is told everything in one go."""
    bad = {"name": "A.*", "admin_email": "x@y.example", "quota": {"pods": 1}, "queues": [{"name": "q"}]}
    assert len(problems(bad)) == 3


# --- objects and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mib", "text"), [(256, "256Mi"), (1024, "1Gi"), (1536, "1536Mi"), (64 * 1024, "64Gi"), (1024 * 1024, "1Ti")]
)
def test_memory_is_written_as_the_server_gives_it_back(mib, text):
    """Otherwise every look would find a difference."""
    assert memory_text(mib) == text


@pytest.mark.parametrize(("millicores", "text"), [(100, "100m"), (1000, "1"), (2100, "2100m"), (16000, "16")])
def test_cpu_is_written_as_the_server_gives_it_back(millicores, text):
    """Otherwise every look would find a difference."""
    assert cpu_text(millicores) == text


@pytest.mark.parametrize("site_name", SITES)
def test_jobs_of_all_queues_fit_into_the_quota(site_name):
    """When all queues run as many jobs as they may, their shares and the tenant's own pods still fit."""
    for tenant in SITES[site_name].tenants:
        jobs = sum(queue.max_pods for queue in tenant.queues)
        cpu, memory = job_share(tenant)
        assert jobs * cpu + 1000 <= tenant.quota.cpu * 1000
        assert jobs * memory + 2048 <= tenant.quota.memory_gib * 1024


def test_the_namespace_says_its_owner_and_its_pod_security():
    """RKE2's CIS profile would otherwise make it restricted."""
    labels = namespace(lab(), red(lab())).manifest["metadata"]["labels"]
    assert labels["stackwright.io/tenant"] == "red" and labels["stackwright.io/site"] == "lab"
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"


def test_quota_and_limits_cover_each_other():
    """Whatever the quota counts for a container has a default, or pods without it would be refused."""
    spec = lab()
    hard = quota(spec, red(spec)).manifest["spec"]["hard"]
    given = limits(spec, red(spec)).manifest["spec"]["limits"][0]
    assert hard["requests.nvidia.com/gpu"] == "2" and hard["limits.memory"] == "64Gi"
    for name in hard:
        kind, _, resource = name.partition(".")
        if resource in ("cpu", "memory"):
            assert resource in given["default" if kind == "limits" else "defaultRequest"]


def policies(spec):
    return {item.key.name: item.manifest["spec"] for item in network(spec, red(spec))}


def test_everything_is_denied_that_is_not_allowed():
    """The first policy selects every pod and opens nothing, in both directions."""
    found = policies(lab())
    assert found["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert found["allow-own-namespace"]["ingress"] == [{"from": [{"podSelector": {}}]}]


def test_no_policy_opens_pods_or_services_of_other_tenants():
    """Egress to everywhere leaves out pods and services; the namespaces that are named are the platform's."""
    spec = lab()
    text = yaml.safe_dump(policies(spec))
    for policy in policies(spec).values():
        for rule in policy.get("egress", ()):
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert peer["ipBlock"]["except"] == [spec.rke2.cluster_cidr, spec.rke2.service_cidr]
    assert set(re.findall(r"kubernetes.io/metadata.name: (\S+)", text)) == {"kube-system", "clearml"}


def test_policies_follow_the_site_file():
    """Sessions and further namespaces are opened only where they are asked for, the API server at its own addresses."""
    bare = site(RED)
    assert not {"allow-sessions", "allow-namespaces"} & set(policies(bare))
    full = site({**RED, "tcp_ports": {"start": 30100, "end": 30110}, "allowed_namespaces": ["monitoring"]})
    found = policies(full)
    assert found["allow-sessions"]["ingress"] == [{"ports": [{"port": 30100, "endPort": 30110, "protocol": "TCP"}]}]
    assert "monitoring" in str(found["allow-namespaces"]["ingress"])
    servers = {peer["ipBlock"]["cidr"] for peer in found["allow-api-server"]["egress"][0]["to"]}
    assert {f"{server.address}/32" for server in full.servers} <= servers


def test_a_dual_stack_cluster_is_closed_in_both_families():
    """The IPv6 networks are left out of ::/0 as the IPv4 ones are of 0.0.0.0/0."""
    spec = lab(rke2={"cluster_cidr": "10.42.0.0/16,fd00:42::/56", "service_cidr": "10.43.0.0/16,fd00:43::/112"})
    blocks = [peer["ipBlock"] for peer in policies(spec)["allow-clearml"]["egress"][1]["to"]]
    assert blocks == [
        {"cidr": "0.0.0.0/0", "except": ["10.42.0.0/16", "10.43.0.0/16"]},
        {"cidr": "::/0", "except": ["fd00:42::/56", "fd00:43::/112"]},
    ]


@pytest.mark.parametrize("site_name", SITES)
def test_every_value_is_a_key_of_the_real_charts(site_name):
    """Neither release sets a value under a name that its chart does not have."""
    spec = SITES[site_name]
    strange = [
        f"{release.chart.name}: {path}"
        for tenant in spec.tenants
        for release in (agent(spec, tenant), gateway(spec, tenant))
        for path, value in dotted(release.values)
        if not is_known(path, value, known_keys(release.chart.name))
    ]
    assert strange == []


def test_the_agent_is_the_agents_chart_with_three_addresses():
    """Guide 5.8.3 prints the gateway's chart, one address for all three, and a key that was renamed."""
    spec = lab()
    release = agent(spec, red(spec))
    glue = release.values["agentk8sglue"]
    assert release.chart.address(None) == ("oci://docker.io/clearml/clearml-enterprise-agent", None)
    assert release.chart.address(spec.charts.mirror)[0].endswith("/charts/clearml-enterprise-agent")
    assert [glue[f"{name}ServerUrlReference"] for name in ("api", "file", "web")] == [
        "https://api.ml.lab.test:8443",
        "https://files.ml.lab.test:8443",
        "https://app.ml.lab.test:8443",
    ]
    assert release.values["clearml"]["agentk8sglueKey"] == "${secret:clearml-tenant-red.access_key}"


def test_queues_are_a_map_with_each_queues_needs():
    """A GPU queue asks for GPUs and tolerates their nodes; another one does not; each has its own limit of pods."""
    spec = lab()
    queues = agent(spec, red(spec)).values["agentk8sglue"]["queues"]
    plain, gpu = queues["default"], queues["gpu"]
    assert gpu["templateOverrides"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["templateOverrides"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu" not in plain["templateOverrides"]["resources"]["limits"]
    assert "tolerations" not in plain["templateOverrides"]
    assert [queue["queueSettings"]["maxPods"] for queue in (plain, gpu)] == [5, 2]


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ("6.14.1", "agentk8sglue.orchestrationDashboard.gpu.reportMax"),
        ("6.12.0", "agentk8sglue.orchestrationDashboard.gpu.reportMax"),
        ("6.11.0", "agentk8sglue.orchestrationDashboard.reportMaxGpu"),
        ("6.10.2", "agentk8sglue.dashboardReportMaxGpu"),
    ],
)
def test_the_dashboards_gpus_are_set_where_that_chart_reads_them(version, path):
    """The key moved twice."""
    spec = lab()
    values = dict(dotted(agent_values(spec, red(spec), version)))
    assert values[path] == 2
    assert sum("report" in key.lower() and "gpu" in key.lower() for key in values) == 1


def test_another_vendors_gpus_are_counted_by_their_own_name():
    """The agent's default counts NVIDIA's resource alone."""
    spec = SITES["intel"]
    values = dict(dotted(agent(spec, red(spec)).values))
    assert values["agentk8sglue.monitoredResources.maxResourcesFieldName"] == "resources|limits|gpu.intel.com/i915"
    assert "requests.gpu.intel.com/i915" in quota(spec, red(spec)).manifest["spec"]["hard"]


def test_the_gateways_keys_are_the_corrected_ones():
    """Guide 5.9 prints a key that never existed, and a service and port range outside their section."""
    spec = lab()
    values = gateway(spec, red(spec)).values
    assert values["clearml"]["apiServerUrlReference"] == "https://api.ml.lab.test:8443"
    assert values["clearml"]["authCookieName"] == spec.clearml.auth_cookie_name
    assert values["ingress"]["hostName"] == "router-red.ml.lab.test"
    assert values["streamSession"] == {
        "routerAddress": "tcp-router-red.ml.lab.test",
        "service": {"type": "LoadBalancer"},
        "portRange": {"start": 30100, "end": 30110},
    }
    assert not {"service", "portRange", "tcpSession"} & values.keys()


def test_gateways_before_3_0_have_the_old_section():
    """`streamSession` replaced `tcpSession` with chart 3.0.0."""
    spec = lab(layers={"metallb": {"enabled": False}})
    values = gateway_values(spec, red(spec), "2.1.0")
    assert values["tcpSession"]["service"] == {"type": "NodePort"}
    assert "streamSession" not in values


def test_a_private_ca_is_trusted_by_agent_gateway_and_jobs():
    """With the site's own CA both releases get its certificate; with a public one they get nothing."""
    spec = lab()
    for release in (agent(spec, red(spec)), gateway(spec, red(spec))):
        assert release.values["customCertificates"]["extraCerts"][0]["pem"] == "${secret:site-ca.certificate}"
    assert gateway_objects(spec, red(spec))[0].key.kind == "Certificate"
    public = lab(ingress={"tls": "secret", "certificate_block": "platform"})
    assert "customCertificates" not in agent(public, red(public)).values
    assert gateway_objects(public, red(public))[0].key.kind == "Secret"


def test_secrets_stand_as_markers_only():
    """No manifest and no value holds anything but markers where a secret belongs."""
    spec = lab()
    blocks = {marker.block for marker in markers_of(spec, red(spec))}
    assert blocks == {"clearml-tenant-red", "clearml-registry", "site-ca"}
    assert "planted" not in str([agent(spec, red(spec)), gateway(spec, red(spec)), objects_of(spec, red(spec))])


# --- the plan --------------------------------------------------------------------------------------------------------


def test_the_whole_plan_is_in_the_guides_order():
    """Account, namespace, agent, gateway, then a look at what is listed; each with its section and its proof."""
    spec = lab()
    steps = plan_tenant(spec, red(spec), NOTHING)
    assert [step.id.rsplit("/", 1)[1] for step in steps] == [
        "company", "user", "credentials", "namespace", "quota", "limits", "network", "pull-secret", "agent", "gateway",
        "names", "queues",
    ]  # fmt: skip
    assert all(step.target == "red" and step.guide and step.verify and step.effect is Effect.NONE for step in steps)


def test_a_plan_is_the_same_however_far_a_run_came():
    """A step that is left has the fingerprint that it had at first: the approval still holds."""
    spec = lab()
    first = {step.fingerprint for step in plan_tenant(spec, red(spec), NOTHING)}
    objects = {item.key: item.manifest for item in objects_of(spec, red(spec))["network"][:3]}
    later = TenantFacts(NOW, company_id="c1", objects=objects, queues=frozenset({"default"}))
    left = plan_tenant(spec, red(spec), later)
    assert {step.fingerprint for step in left} < first
    assert "4 " not in left[0].summary and not any(step.id.endswith("company") for step in left)


def test_another_quota_is_another_step():
    """A changed site file changes the fingerprint of what it changes."""
    one, other = lab(), lab()
    other = other.model_copy(
        update={"tenants": (red(other).model_copy(update={"quota": red(other).quota.model_copy(update={"pods": 41})}),)}
    )
    prints = [{step.id: step.fingerprint for step in plan_tenant(spec, red(spec), NOTHING)} for spec in (one, other)]
    assert [name for name in prints[0] if prints[0][name] != prints[1][name]] == ["tenant/red/quota"]


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"company_id": "c1", "company_active": False}, "not active"),
        ({"company_id": "c1", "key": SeenKey("works", "u9", "admin", "c9")}, "another company"),
        ({"company_id": "c1", "admin_id": "u1", "admin_role": "user"}, "no administrator"),
    ],
)
def test_what_belongs_to_somebody_else_is_refused(facts, what):
    """Such a tenant is not planned at all."""
    change = decide_tenant(lab(), red(lab()), TenantFacts(NOW, **facts))
    assert any(what in problem.what and problem.remedy for problem in change.problems)


def test_a_namespace_that_is_being_removed_is_waited_for():
    """Nothing is put into a namespace that is on its way out."""
    key = ObjectKey("v1", "Namespace", "", "clearml-red")
    facts = TenantFacts(NOW, objects={key: {"metadata": {}, "status": {"phase": "Terminating"}}})
    assert any("being removed" in problem.what for problem in decide_tenant(lab(), red(lab()), facts).problems)


@pytest.mark.parametrize(
    ("stamp", "fresh"),
    [
        (NOW.isoformat(), True),
        ((NOW - timedelta(seconds=601)).isoformat(), False),
        ((NOW - timedelta(seconds=10)).replace(tzinfo=None).isoformat(), True),
        ("2026-03-17T09:29:50Z", True),
        ("", None),
        ("yesterday", None),
    ],
)
def test_a_report_is_fresh_old_or_unreadable(stamp, fresh):
    """A time that cannot be read is neither fresh nor old."""
    assert is_fresh(stamp, NOW) is fresh


def test_a_tenant_of_the_spec_needs_no_more_than_name_and_address():
    """Everything else has a default that passes the checks."""
    assert problems(RED) == []
    assert markers_in(agent(lab(), Tenant(**RED)).values)
