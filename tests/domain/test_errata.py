"""The errata: each correction is held by a test here, each test exists, and the committed document is fresh."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from stackwright.clients.clearml import ClearmlClient
from stackwright.domain import node_wants
from stackwright.domain.checks.nodes import check_nodes
from stackwright.domain.errata import ERRATA
from stackwright.domain.errors import SiteFileError
from stackwright.domain.layers import LAYERS, check_site_versions, order, releases_of
from stackwright.domain.layers.clearml import RELEASE
from stackwright.domain.layers.gates import VolumeSmokeGate
from stackwright.domain.node_checks import _system
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.rke2 import install_script
from stackwright.domain.rke2_facts import ClusterFacts
from stackwright.domain.rke2_files import config, wanted_files
from stackwright.domain.sitefile import parse_site
from stackwright.domain.spec import Clearml, Firewall, Rke2, StackSpec
from stackwright.domain.spec_checks import note_spec
from stackwright.domain.tenant_objects import (
    AGENT_CHART,
    GATEWAY_CHART,
    GATEWAY_RELEASE,
    agent,
    agent_values,
    gateway,
    gateway_values,
)
from stackwright.domain.tenants import SeenKey, TenantFacts, decide_tenant
from stackwright.domain.values import dotted
from stackwright.reports.guide import errata_markdown
from tests.domain.layers.sites import SITES, lab

ROOT = Path(__file__).parents[2]
PRODUCTION = [
    path
    for room in ("stackwright/clients", "stackwright/domain", "tasks", "flows", "blocks", "stackwright/workloads")
    for path in sorted((ROOT / room).rglob("*.py"))
    if path.name != "errata.py" and path.parent.name != "guide"
]
SPEC = SITES["example-ha"]
TENANT = SPEC.tenants[0]


def values_of(spec: StackSpec, layer: str, release: str) -> dict:
    found = next(item for item in LAYERS if item.name == layer)
    return dict(next(r for r in releases_of(spec, found) if r.name == release).values)


def env(values: dict, *path: str) -> dict[str, str]:
    for part in path:
        values = values[part]
    return {item["name"]: item["value"] for item in values}


# --- the list itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("erratum", ERRATA, ids=lambda erratum: erratum.id)
def test_each_erratum_names_a_test_that_exists(erratum):
    """A correction without a test could be lost unseen."""
    path, _, name = erratum.test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_errata_are_complete_rows_with_names_of_their_own():
    """No empty field, no id twice."""
    assert len({erratum.id for erratum in ERRATA}) == len(ERRATA)
    assert all(all(vars(erratum).values()) for erratum in ERRATA)


def test_the_document_is_fresh():
    """docs/errata.md is what the list says now; `python -m stackwright.reports.guide` writes it."""
    assert (ROOT / "docs/errata.md").read_text(encoding="utf-8") == errata_markdown()


# --- machines --------------------------------------------------------------------------------------------------------


def test_nothing_of_rke1_is_left():
    """No code knows cluster.yml, rke up or RKE1's snapshot commands; the SSH user comes from the site file."""
    words = re.compile(r"cluster\.yml|\brke up\b|rke etcd |cluster\.rkestate|kube_config_cluster")
    assert not [path.name for path in PRODUCTION if words.search(path.read_text(encoding="utf-8"))]
    assert SPEC.ssh.user == "stackwright"


def test_misspelt_names_are_nowhere_in_the_code():
    """The guide's misprints of names are not carried over, neither in code nor in site files."""
    words = re.compile(r"allegroaenterprise|drangonfly|mongodb-github|fine-tune_qa_lora|X-\{cml\}")
    files = [*PRODUCTION, *(ROOT / "deployments").rglob("*.yaml"), *(ROOT / "stackwright/lab").rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    # The lab's stand-in must refuse the misprint, and so may name it.
    assert not [p.name for p, text in texts.items() if words.search(text) and "stackwright/lab" not in str(p)]


def test_each_sles_generation_is_prepared_in_its_own_way():
    """Packages follow the generation and its security module, not one of the guide's two links."""
    spec = lab(rke2={"selinux": True})
    old = set(node_wants.packages(spec, "sles15", "apparmor"))
    new = set(node_wants.packages(spec, "sles16", "selinux"))
    assert "apparmor-parser" in old - new
    assert "rke2-selinux" in new - old


def test_the_tarball_is_always_said_and_selinux_goes_with_it():
    """The installer is told the method on every generation; where SELinux is enforced its packages are wanted too."""
    script, _ = install_script(SPEC, SPEC.agents[0], "x86_64", ClusterFacts())
    assert "INSTALL_RKE2_METHOD=tar " in script
    assert "container-selinux" in node_wants.packages(lab(rke2={"selinux": True}), "sles16", "selinux")
    assert "container-selinux" not in node_wants.packages(lab(), "sles15", "apparmor")


def test_the_firewall_is_off_unless_the_site_says_otherwise():
    """disabled is the default; with open-ports the plan notes the conflict."""
    assert Firewall().mode == "disabled"
    assert any("Canal" in note for note in note_spec(lab(firewall={"mode": "open-ports"})))


def test_secrets_of_the_cluster_are_named_not_written():
    """Kubeconfig and token live in blocks and in files with mode 0600; a token in the site file is refused."""
    assert config(SPEC, SPEC.servers[0])["write-kubeconfig-mode"] == "0600"
    files = wanted_files(SPEC, SPEC.servers[0], {SPEC.rke2.registries.ca_file: "PEM"}, joins=True)
    assert {file.mode for file in files if file.is_secret} == {0o600}
    assert Rke2.model_fields["kubeconfig_block"].default
    assert Rke2.model_fields["token_block"].default
    text = (ROOT / "deployments/sites/example-ha.yaml").read_text(encoding="utf-8")
    with pytest.raises(SiteFileError) as caught:
        parse_site(text.replace("  api_port: 6443", "  token: abcdef\n  api_port: 6443"), "x")
    assert "rke2.token" in {problem.where for problem in caught.value.problems}


def test_the_load_balancer_must_be_in_the_certificate():
    """Every server's configuration has tls-san; a site whose list lacks the registration address is refused."""
    assert all(SPEC.rke2.registration_address in config(SPEC, server)["tls-san"] for server in SPEC.servers)
    text = (ROOT / "deployments/sites/example-ha.yaml").read_text(encoding="utf-8")
    with pytest.raises(SiteFileError) as caught:
        parse_site(text.replace("tls_san: [k8s.example.com, 192.0.2.5]", "tls_san: [192.0.2.5]"), "x")
    assert [problem.where for problem in caught.value.problems] == ["rke2.tls_san"]


def test_production_calls_no_kubectl():
    """No argv of production code starts kubectl; node scripts may use the one that RKE2 brings.

    The preflight looks whether people have it, and asks it for its version: the only place that may start it.
    """
    allowed = {"preflight_controller.py", "services.py"}
    named = {path.name for path in PRODUCTION if re.search(r"""["']kubectl["']""", path.read_text(encoding="utf-8"))}
    assert named <= allowed


def test_servers_are_reached_on_both_ports():
    """6443 and 9345 are let in on servers, and on servers only."""
    server, worker = SPEC.servers[0], SPEC.agents[0]
    assert {"6443/tcp", "9345/tcp"} <= set(node_wants.ports(SPEC, server))
    assert not {"6443/tcp", "9345/tcp"} & set(node_wants.ports(SPEC, worker))


def test_another_system_than_sles_is_refused():
    """A node whose system is not of the SLES family is a problem before anything is changed."""
    facts = object.__new__(NodeFacts)
    for name, value in {"family": "other", "os": "Windows", "arch": "x86_64", "security": "none"}.items():
        object.__setattr__(facts, name, value)
    assert [problem.seen for problem in _system(SPEC, SPEC.agents[0], facts)] == ["Windows"]
    assert not check_nodes(SPEC)


@pytest.mark.parametrize(("controller", "name"), [("traefik", "traefik"), ("ingress-nginx", "nginx")])
def test_the_ingress_class_is_always_said(controller, name):
    """Every layer with an ingress names its class, whatever RKE2's default is."""
    spec = lab(rke2={"ingress_controller": controller})
    seen = {}
    for layer in order(spec):
        for release in releases_of(spec, layer):
            tree = dict(dotted(release.values))
            for key, value in tree.items():
                if key.endswith(("ingressClassName", "ingress.class", "ingress.className")):
                    seen[f"{release.name}.{key}"] = value
    assert {"rancher.ingress.ingressClassName", f"{RELEASE}.apiserver.ingress.ingressClassName"} <= seen.keys()
    assert set(seen.values()) == {name}


def test_cert_manager_comes_before_rancher():
    """The order follows the needs, not the guide's chapters."""
    names = [layer.name for layer in order(SPEC)]
    assert names.index("cert_manager") < min(names.index("rancher"), names.index("suse_ai"))


def test_an_old_kubernetes_is_refused_although_clearml_would_take_it():
    """1.23 is enough for ClearML's chart alone; the site as a whole is refused."""
    places = {problem.where for problem in check_site_versions(lab(rke2={"version": "v1.28.15+rke2r1"}))}
    assert "rke2.version" in places
    assert "layers.clearml.version" not in places


# --- ClearML server --------------------------------------------------------------------------------------------------


def test_shared_volumes_are_proved_and_no_claim_is_made():
    """A ReadWriteMany volume is written and read as a gate of the storage layer; no layer makes a claim for workers."""
    storage = next(layer for layer in LAYERS if layer.name == "storage")
    modes = {gate.mode for gate in storage.gates(SPEC) if isinstance(gate, VolumeSmokeGate)}
    assert "ReadWriteMany" in modes
    kinds = {
        item.key.kind for layer in order(SPEC) for item in (*layer.before_objects(SPEC), *layer.after_objects(SPEC))
    }
    assert "PersistentVolumeClaim" not in kinds


def test_the_database_is_chosen():
    """The newer chart gets its MongoDB choice."""
    values = values_of(SPEC, "clearml", RELEASE)
    assert values["mongodb"] == {"enabled": False}
    assert values["mckMongodb"] == {"enabled": True, "migrated": True}


def test_the_supervisor_is_a_section():
    """Each key has two underscores after supervisor; the address has the inner quotes and no mailto."""
    seen = env(values_of(lab(clearml={"supervisor_mode": "supervisor"}), "clearml", RELEASE), "apiserver", "extraEnvs")
    keys = [key for key in seen if "credentials__supervisor" in key]
    assert len(keys) >= 6
    assert all(key.startswith("CLEARML__secure__credentials__supervisor__") for key in keys)
    assert re.fullmatch(r'"[^"@]+@[^"@:]+"', seen["CLEARML__secure__credentials__supervisor__email"])


def test_the_supervisor_is_a_choice():
    """By default the chart's own key is used and no supervisor is made."""
    assert Clearml.model_fields["supervisor_mode"].default == "apiserver-key"
    seen = env(values_of(lab(), "clearml", RELEASE), "apiserver", "extraEnvs")
    assert not [key for key in seen if "supervisor" in key]


def test_clearml_charts_come_from_their_oci_registry():
    """Server, agent and gateway are OCI addresses, without a repository alias to add or update."""
    server = next(layer for layer in LAYERS if layer.name == "clearml").releases(SPEC)[0]
    for chart, name in ((server.chart, "clearml-enterprise"), (AGENT_CHART, AGENT_CHART.name)):
        assert chart.address(None) == (f"oci://docker.io/clearml/{name}", None)
    assert GATEWAY_CHART.address(None)[1] is None
    assert server.name == "clearml-enterprise"
    assert not [
        path.name for path in PRODUCTION if re.search(r"""["']repo["'], ["'](add|update)["']""", path.read_text())
    ]


# --- tenants ---------------------------------------------------------------------------------------------------------


def complete(spec: StackSpec) -> TenantFacts:
    key = SeenKey("works", "u1", "admin", "c1")
    return TenantFacts(datetime(2026, 1, 1, tzinfo=UTC), company_id="c1", admin_id="u1", key=key)


def test_a_complete_tenant_is_not_made_again():
    """Company, user and key pair that are there are looked up, not created a second time."""
    facts = complete(SPEC)
    change = decide_tenant(SPEC, TENANT, facts)
    assert not any(change.needs(what) for what in ("company", "user", "credentials"))
    empty = decide_tenant(SPEC, TENANT, TenantFacts(facts.now))
    assert all(empty.needs(what) for what in ("company", "user", "credentials"))


class Recorded:
    """ClearML's API as far as one answer: keeps what it was asked."""

    def __init__(self, data: dict) -> None:
        self.data = data
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(200, json={"meta": {"result_code": 200, "result_subcode": 0}, "data": self.data})


def client(monkeypatch: pytest.MonkeyPatch, server: Recorded) -> ClearmlClient:
    made = ClearmlClient("https://api.ml.example.com", "key", SecretStr("secret"))
    transport = httpx.MockTransport(server)
    monkeypatch.setattr(made, "_open", lambda: httpx.Client(transport=transport, base_url=made.api_url))
    return made


def test_users_are_made_with_one_json_object_and_a_boolean(monkeypatch):
    """The body is valid JSON, and internal is a boolean, not a text."""
    server = Recorded({"id": "u1"})
    client(monkeypatch, server).create_user("c1", "Admin", "a@example.com", internal=True)
    body = json.loads(server.asked[0].content)
    assert body["internal"] is True
    assert body["company"] == "c1"


def test_credentials_are_made_in_the_users_name(monkeypatch):
    """The header is spelt X-Clearml-Impersonate-As and carries the user's id."""
    server = Recorded({"credentials": {"access_key": "a", "secret_key": "b"}})
    client(monkeypatch, server).create_credentials("label", user_id="u1")
    assert server.asked[0].headers["X-Clearml-Impersonate-As"] == "u1"


def test_queues_are_looked_for_with_the_tenants_key():
    """What the tenant's own key lists decides: the step goes away once its queues, workers and router are listed."""
    facts, plain = complete(SPEC), TENANT.model_copy(update={"policy": None})
    names = frozenset(queue.name for queue in TENANT.queues)
    assert decide_tenant(SPEC, plain, facts).needs("queues")
    listed = replace(facts, queues=names, served=names, routers={GATEWAY_RELEASE: facts.now.isoformat()})
    assert not decide_tenant(SPEC, plain, listed).needs("queues")
    assert decide_tenant(SPEC, TENANT, listed).needs("queues"), "a policy that is still to be made replaces queues"


def test_the_agent_knows_three_servers():
    """API, files and web have an address each."""
    glue = agent(SPEC, TENANT).values["agentk8sglue"]
    names = [glue[f"{part}ServerUrlReference"] for part in ("api", "file", "web")]
    assert names == [f"https://{part}.ml.example.com" for part in ("api", "files", "app")]


def test_the_dashboards_key_follows_the_chart():
    """The guide's key is for old charts alone."""
    new = dict(dotted(agent_values(SPEC, TENANT, "6.14.1")))
    old = dict(dotted(agent_values(SPEC, TENANT, "6.9.0")))
    assert new["agentk8sglue.orchestrationDashboard.gpu.reportMax"] == TENANT.quota.gpus
    assert "agentk8sglue.dashboardReportMaxGpu" in old.keys() - new.keys()


def test_agent_and_gateway_have_their_own_charts():
    """A tenant gets an agent: its release is not the gateway's chart."""
    assert agent(SPEC, TENANT).chart.name == "clearml-enterprise-agent"
    assert gateway(SPEC, TENANT).chart.name == "clearml-enterprise-app-gateway"


def test_the_gateways_keys_are_the_charts():
    """apiServerUrlReference and imageCredentials.password, and nothing of the agent's."""
    keys = {key for key, _ in dotted(gateway(SPEC, TENANT).values)}
    assert {"clearml.apiServerUrlReference", "imageCredentials.password", "clearml.apiKey"} <= keys
    assert not {"clearml.apiUrlReference", "clearml.password"} & keys
    assert not [key for key in keys if "agentk8s" in key]


def test_session_ports_lie_where_the_chart_reads_them():
    """Below streamSession from 3.0 on, below tcpSession before; never at the top."""
    new, old = gateway_values(SPEC, TENANT, "3.2.0"), gateway_values(SPEC, TENANT, "2.9.0")
    assert new["streamSession"]["portRange"] == {"start": 30100, "end": 30149}
    assert old["tcpSession"]["service"]["type"] == "LoadBalancer"
    assert not {"service", "portRange"} & (new.keys() | old.keys())


def test_every_release_has_a_version():
    """No release of any site is installed at whatever is newest."""
    for spec in SITES.values():
        releases = [release for layer in order(spec) for release in releases_of(spec, layer)]
        releases += [make(spec, tenant) for tenant in spec.tenants for make in (agent, gateway)]
        assert all(release.version for release in releases)


# --- GPUs and validation ---------------------------------------------------------------------------------------------


def test_the_guides_gpu_values_stop_where_they_break():
    """Below 25.10 the guide's values are set as printed; from there on they are left out and CDI is on."""
    old = values_of(SITES["guide-gpu"], "gpu_operator", "gpu-operator")
    new = values_of(SPEC, "gpu_operator", "gpu-operator")
    assert env(old, "devicePlugin", "env")["DEVICE_LIST_STRATEGY"] == "volume-mounts"
    assert env(old, "toolkit", "env")["ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED"] == "false"
    assert not env(new, "devicePlugin", "env")
    assert new["cdi"]["enabled"] is True


@pytest.mark.parametrize("site", ["guide-gpu", "example-ha"])
def test_the_toolkit_knows_rke2s_containerd(site):
    """RKE2's socket is set in every version."""
    values = values_of(SITES[site], "gpu_operator", "gpu-operator")
    assert env(values, "toolkit", "env")["CONTAINERD_SOCKET"] == "/run/k3s/containerd/containerd.sock"


def test_the_toolkit_opts_in_for_fractions():
    """ClearML's fractions get their opt-in."""
    values = values_of(SPEC, "gpu_operator", "gpu-operator")
    assert "NVIDIA_CONTAINER_TOOLKIT_OPT_IN_FEATURES" in env(values, "toolkit", "env")


def test_the_first_training_needs_neither_gpu_nor_data():
    """The workload imports the standard library, the SDK, and numpy, which the SDK brings; it downloads nothing."""
    text = (ROOT / "stackwright/workloads/training.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"__future__", "json", "os", "sys", "typing", "numpy", "clearml"}
    assert "HyperDataset" not in text and "http" not in text
