"""The operators on a cluster in memory, fed with what the real helm renders from the lab's charts."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from stackwright.clients.helm import Helm
from stackwright.domain.releases import ReleaseWant
from stackwright.lab.charts import CHARTS, write_archives
from stackwright.lab.net import Authority
from stackwright.lab.operators import SETTLE_S, Devices, World, install_operators, run_operators
from stackwright.lab.operators.world import custom

HELM = os.environ.get("STACKWRIGHT_HELM", str(Path(__file__).parents[2] / "build/tools/bin/helm"))
pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not fetched yet: make setup")


class Memory:
    """Objects in a dictionary; workloads become ready when told to."""

    def __init__(self):
        self.held, self.service_backends, self.webhooks, self.reconcilers, self.writes = {}, {}, {}, [], 0

    def _key(self, obj):
        meta = obj["metadata"]
        return obj["apiVersion"].rpartition("/")[0], obj["kind"], meta.get("namespace", ""), meta["name"]

    def peek(self, kind, namespace, name):
        same = (namespace, name)
        return next(
            (o for o in self.each(kind) if (o["metadata"].get("namespace", ""), o["metadata"]["name"]) == same), None
        )

    def each(self, kind):
        """Name kinds as the cluster stand-in does: a bare name means the built-in kind where there is one."""
        group, _, name = kind.rpartition("/")
        found = [(g, obj) for (g, k, _, _), obj in list(self.held.items()) if k == name and group in ("", g)]
        own = [obj for g, obj in found if g == ""] if name == "Node" and not group else []
        return own or [obj for _, obj in found]

    def put(self, obj):
        self.writes += 1
        self.held[self._key(obj)] = obj

    def delete(self, kind, namespace, name):
        self.writes += 1
        del self.held[self._key(self.get(kind, namespace, name))]

    def add_reconciler(self, reconciler):
        self.reconcilers.append(reconciler)

    def make_ready(self, *, but=()):
        """Do what the controllers do: every workload rolls out, one pod of each DaemonSet on every node; pods start."""
        for pod in self.each("Pod"):
            pod.setdefault("status", {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
        nodes = [node["metadata"]["name"] for node in self.each("Node") if "longhorn" not in node["apiVersion"]]
        for kind in ("Deployment", "StatefulSet", "DaemonSet"):
            for obj in self.each(kind):
                if obj["metadata"]["name"] in but:
                    continue
                count = obj["spec"].get("replicas", 1)
                obj["status"] = {"observedGeneration": obj["metadata"].get("generation", 0), "replicas": count}
                if kind == "DaemonSet":
                    names = ("desiredNumberScheduled", "numberReady", "updatedNumberScheduled")
                    obj["status"] |= dict.fromkeys(names, len(nodes))
                    for node in nodes:
                        labels = obj["spec"]["template"]["metadata"]["labels"]
                        meta = {"name": f"{obj['metadata']['name']}-{node}", "namespace": obj["metadata"]["namespace"]}
                        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "labels": labels}}
                        self.held[self._key(pod)] = {**pod, "spec": {"nodeName": node}}
                else:
                    obj["status"] |= {
                        "updatedReplicas": count,
                        "availableReplicas": count,
                        "readyReplicas": count,
                        "currentRevision": "1",
                        "updateRevision": "1",
                    }


@pytest.fixture(scope="module")
def charts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    write_archives(CHARTS, folder)
    helm = Helm(HELM, None, folder)

    def render(name, version, release, ns, values=None):
        want = ReleaseWant(release, ns, str(folder / f"{name}-{version}.tgz"), version, values or {})
        return helm.template(want, kube_version="v1.34.10")

    return render


def node(name, **labels):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": "8"}},
    }


def cluster(*objects, devices=None):
    memory = Memory()
    for obj in [node("wrk1"), node("wrk2"), *objects]:
        memory.put(obj)
    return memory, World(memory, (devices or {}).get, None)


def settle(memory, world, **settings):
    """Let controllers and operators take turns until nothing is written any more."""
    for _ in range(10):
        memory.make_ready(**settings)
        before = memory.writes
        asyncio.run(run_operators(world))
        if memory.writes == before:
            return
    raise AssertionError("the operators never come to rest")


def ask(memory, ns, service, port, method, path, body=None, headers=None):
    backend = memory.service_backends[ns, service, port]
    data = json.dumps(body).encode() if body is not None else b""
    status, _, answer = asyncio.run(backend(method, path, headers or {}, {}, data))
    try:
        return status, json.loads(answer)
    except ValueError:
        return status, answer.decode()


def secret(name, ns, **texts):
    data = {key.replace("_", "."): base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return custom("v1", "Secret", name, {"data": data}, ns)


def ready(obj):
    return next(item["status"] for item in obj["status"]["conditions"] if item["type"] == "Ready")


def test_certificates_come_only_after_the_programs_run(charts):
    """Webhook CA, issuers and certificates wait for their programs; the leaf verifies against the site CA."""
    authority = Authority("site")
    issuer = custom("cert-manager.io/v1", "ClusterIssuer", "site", {"spec": {"ca": {"secretName": "ca"}}})
    lost = custom("cert-manager.io/v1", "ClusterIssuer", "lost", {"spec": {"ca": {"secretName": "none"}}})
    spec = {"secretName": "web-tls", "dnsNames": ["web.test"], "issuerRef": {"name": "site", "kind": "ClusterIssuer"}}
    leaf = custom("cert-manager.io/v1", "Certificate", "web", {"spec": spec}, "apps")
    rendered = charts("cert-manager", "1.20.3", "cert-manager", "cert-manager", {"crds": {"enabled": True}})
    ca = secret("ca", "cert-manager", tls_crt=authority.certificate, tls_key=authority.key)
    memory, world = cluster(*rendered, ca, issuer, lost, leaf)
    settle(memory, world, but=("cert-manager-cainjector",))
    hook = memory.peek("ValidatingWebhookConfiguration", "", "cert-manager-webhook")["webhooks"][0]
    assert "caBundle" not in hook["clientConfig"] and memory.peek("Secret", "apps", "web-tls") is None
    settle(memory, world)
    hook = memory.peek("ValidatingWebhookConfiguration", "", "cert-manager-webhook")["webhooks"][0]
    assert hook["clientConfig"]["caBundle"]
    assert ready(memory.peek("ClusterIssuer", "", "site")) == "True"
    assert ready(memory.peek("ClusterIssuer", "", "lost")) == "False"
    assert ready(memory.peek("Certificate", "apps", "web")) == "True"
    made = world.secret("web-tls", "apps")
    roots = Store([x509.load_pem_x509_certificate(authority.certificate.encode())])
    verifier = PolicyBuilder().store(roots).build_server_verifier(x509.DNSName("web.test"))
    assert verifier.verify(x509.load_pem_x509_certificate(made["tls.crt"].encode()), [])


def test_metallb_hands_out_addresses_of_its_pools(charts):
    """Each LoadBalancer Service gets one address of its own."""
    services = [custom("v1", "Service", name, {"spec": {"type": "LoadBalancer"}}, "apps") for name in "ab"]
    pool = custom("metallb.io/v1beta1", "IPAddressPool", "p", {"spec": {"addresses": ["192.0.2.1-192.0.2.2"]}}, "m")
    memory, world = cluster(*charts("metallb", "0.16.1", "metallb", "metallb-system"), *services, pool)
    settle(memory, world)
    given = {memory.peek("Service", "apps", n)["status"]["loadBalancer"]["ingress"][0]["ip"] for n in "ab"}
    assert given == {"192.0.2.1", "192.0.2.2"}


def test_rancher_installs_its_own_parts(charts):
    """Ping, webhook, fleet and lease come after the Deployment, not with it."""
    memory, world = cluster(*charts("rancher", "2.14.4", "rancher", "cattle-system", {"hostname": "r.test"}))
    asyncio.run(run_operators(world))
    assert memory.peek("Deployment", "cattle-system", "rancher-webhook") is None and not memory.service_backends
    settle(memory, world)
    assert ask(memory, "cattle-system", "rancher", 80, "GET", "/ping") == (200, "pong")
    for ns, name in (("cattle-system", "rancher-webhook"), ("cattle-fleet-system", "gitjob")):
        assert memory.peek("Deployment", ns, name)
    assert memory.peek("Lease", "kube-system", "cattle-controllers")


def test_backups_are_carried_out_and_refused(charts):
    """A Backup with its resource set gets a file name; one without is not Ready."""
    api = "resources.cattle.io/v1"
    good = custom(
        api, "Backup", "good", {"spec": {"resourceSetName": "rancher-resource-set-full", "schedule": "@daily"}}
    )
    bad = custom(api, "Backup", "bad", {"spec": {"resourceSetName": "none"}})
    memory, world = cluster(*charts("rancher-backup", "10.0.8", "rancher-backup", "cattle-resources-system"), good, bad)
    settle(memory, world)
    done = memory.peek("Backup", "", "good")["status"]
    assert done["filename"].endswith(".tar.gz") and done["backupType"] == "Recurring"
    assert ready(memory.peek("Backup", "", "bad")) == "False"


def test_storage_makes_its_nodes_classes_and_drivers(charts):
    """Only labelled nodes get disks, settings follow the values, the CSI workloads and classes appear at run time."""
    values = {
        "defaultSettings": {"createDefaultDiskLabeledNodes": True, "defaultReplicaCount": 2},
        "defaultBackupStore": {"backupTarget": "s3://b@r/", "backupTargetCredentialSecret": "target"},
    }
    disks = node("wrk1", **{"node.longhorn.io/create-default-disk": "true"})
    memory, world = cluster(*charts("suse-storage", "1.12.1", "longhorn", "longhorn-system", values), disks)
    settle(memory, world)
    nodes = {item["metadata"]["name"]: item for item in world.objects("Node", group="longhorn.io")}
    assert {name: len(item["status"]["diskStatus"]) for name, item in nodes.items()} == {"wrk1": 1, "wrk2": 0}
    assert world.find("Setting", "default-replica-count", "longhorn-system", group="longhorn.io")["value"] == "2"
    assert memory.peek("StorageClass", "", "longhorn")["provisioner"] == "driver.longhorn.io"
    assert memory.peek("Deployment", "longhorn-system", "csi-provisioner")["spec"]["replicas"] == 3
    assert world.find("BackupTarget", "default", "longhorn-system", group="longhorn.io")["status"]["available"] is False
    memory.put(secret("target", "longhorn-system", AWS_ACCESS_KEY_ID="k"))
    settle(memory, world)
    assert world.find("BackupTarget", "default", "longhorn-system", group="longhorn.io")["status"]["available"] is True


def test_security_answers_as_its_rest_api(charts):
    """Login with the init file's password, counts from the workloads, 401 without a session."""
    users = {"users": [{"Fullname": "admin", "Role": "admin", "Password": "first-Pass1"}]}
    values = {
        "controller": {
            "apisvc": {"type": "ClusterIP"},
            "secret": {"enabled": True, "data": {"userinitcfg.yaml": users}},
        }
    }
    ns, service = "cattle-neuvector-system", "neuvector-svc-controller-api"
    memory, world = cluster(*charts("core", "2.11.2", "neuvector", ns, values))
    asyncio.run(run_operators(world))
    assert "neuvector" not in world.memory, "no controller runs: no init file is read yet"
    settle(memory, world)

    def call(method, path, body=None, token=""):
        return ask(memory, ns, service, 10443, method, path, body, {"X-Auth-Token": token})

    wrong = {"password": {"username": "admin", "password": "admin"}}
    assert call("POST", "/v1/auth", wrong)[0] == 401 and call("GET", "/v1/controller")[0] == 401
    right = {"password": {"username": "admin", "password": "first-Pass1"}}
    token = call("POST", "/v1/auth", right)[1]["token"]["token"]
    assert len(call("GET", "/v1/controller", token=token)[1]["controllers"]) == 3
    assert len(call("GET", "/v1/enforcer", token=token)[1]["enforcers"]) == 2
    assert call("GET", "/v1/scan/status", token=token)[1]["status"]["cvedb_version"]
    call("PATCH", "/v1/admission/state", {"state": {"enable": True, "mode": "monitor"}}, token)
    assert call("GET", "/v1/admission/state", token=token)[1]["state"]["mode"] == "monitor"
    assert call("DELETE", "/v1/auth", token=token)[0] == 200 and call("GET", "/v1/controller", token=token)[0] == 401


def test_the_registry_is_healthy_when_its_parts_are(charts):
    """A store that is down shows in the health answer; projects need the administrator."""
    values = {"harborAdminPassword": "adm-1", "expose": {"ingress": {"hosts": {"core": "h.test"}}}}
    memory, world = cluster(*charts("private-registry-helm", "1.2.0", "private-registry", "private-registry", values))
    settle(memory, world, but=("private-registry-harbor-database",))
    where = ("private-registry", "private-registry-harbor-core", 80)
    assert ask(memory, *where, "GET", "/api/v2.0/health")[1]["status"] == "unhealthy"
    settle(memory, world)
    health = ask(memory, *where, "GET", "/api/v2.0/health")[1]
    assert health["status"] == "healthy" and all(part["status"] == "healthy" for part in health["components"])
    login = {"Authorization": "Basic " + base64.b64encode(b"admin:adm-1").decode()}
    new = {"project_name": "p"}
    assert [ask(memory, *where, "POST", "/api/v2.0/projects", new, h)[0] for h in ({}, login, login)] == [401, 201, 409]


def test_suse_ai_and_observability_answer(charts):
    """ollama, open-webui and the router answer once they run."""
    sizing = {"license": "L", "baseUrl": "https://o.test", "sizing": {"profile": "trial"}}
    obs = charts("suse-observability", "2.10.3", "suse-observability", "so", {"global": {"suseObservability": sizing}})
    memory, world = cluster(*charts("suse-ai-deployer", "1.2.1", "suse-ai", "ai"), *obs)
    settle(memory, world)
    assert "version" in ask(memory, "ai", "suse-ai-ollama", 11434, "GET", "/api/version")[1]
    assert ask(memory, "ai", "open-webui", 80, "GET", "/health")[0] == 200
    assert ask(memory, "so", "suse-observability-router", 8080, "GET", "/")[0] == 200


GUIDE_ENV = {"devicePlugin": {"env": [{"name": "DEVICE_LIST_STRATEGY", "value": "volume-mounts"}]}}


@pytest.mark.parametrize(
    ("version", "values", "state", "offered"),
    [
        ("26.3.3", {}, "ready", "2"),
        ("25.3.4", GUIDE_ENV, "ready", "2"),
        ("26.3.3", GUIDE_ENV, "notReady", None),
        ("26.3.3", {**GUIDE_ENV, "cdi": {"enabled": False}}, "ready", "2"),
    ],
)
def test_nvidia_offers_devices_unless_the_values_contradict(charts, version, values, state, offered):
    """The guide's device plugin values work up to 25.3 and leave the policy not ready from 25.10 on, as upstream."""
    rendered = charts("gpu-operator", version, "gpu-operator", "gpu-operator", values)
    memory, world = cluster(*rendered, devices={"wrk2": Devices("nvidia", 2, "H100")})
    settle(memory, world)
    assert memory.peek("ClusterPolicy", "", "cluster-policy")["status"]["state"] == state
    wrk2 = memory.peek("Node", "", "wrk2")
    assert (
        wrk2["status"]["allocatable"].get("nvidia.com/gpu") == offered and wrk2["status"]["allocatable"]["cpu"] == "8"
    )
    assert "nvidia.com/gpu.present" not in memory.peek("Node", "", "wrk1")["metadata"]["labels"]


def test_amd_and_intel_offer_devices(charts):
    """Each vendor's operator serves its own nodes only."""
    amd = charts("gpu-operator-charts", "1.5.1", "amd-gpu-operator", "kube-amd-gpu")
    intel = charts("intel-device-plugins-operator", "0.36.0", "intel-operator", "intel")
    gpu = charts("intel-device-plugins-gpu", "0.36.0", "intel-gpu", "intel")
    memory, world = cluster(*amd, *intel, *gpu, devices={"wrk1": Devices("amd", 4), "wrk2": Devices("intel", 1)})
    settle(memory, world)
    assert memory.peek("Node", "", "wrk1")["status"]["allocatable"]["amd.com/gpu"] == "4"
    assert memory.peek("Node", "", "wrk2")["status"]["allocatable"]["gpu.intel.com/i915"] == "1"
    assert memory.each("DeviceConfig")[0]["status"]["devicePlugin"]["availableNumber"] == 1
    assert memory.each("GpuDevicePlugin")[0]["status"]["numberReady"] == 1


class Hooks:
    def __init__(self):
        self.calls = []

    async def server_up(self, server):
        self.calls.append(("server_up", server))

        async def api(method, path, headers, query, body):
            return 200, {}, b"api"

        return {"apiserver": api}

    async def server_down(self, namespace, release):
        self.calls.append(("server_down", release))

    async def agent_up(self, agent):
        self.calls.append(("agent_up", agent))

    async def agent_down(self, namespace, name):
        self.calls.append(("agent_down", name))

    async def gateway_up(self, gateway):
        self.calls.append(("gateway_up", gateway))

    async def gateway_down(self, namespace, name):
        self.calls.append(("gateway_down", name))


def test_clearml_stand_ins_follow_their_releases(charts):
    """Server, agent and gateway start once with the login of their Secrets, and stop when their release goes."""
    server = {"mongodb": {"enabled": False}, "mckMongodb": {"enabled": True}, "clearml": {"apiserverKey": "AK"}}
    server["apiserver"] = {"extraEnvs": [{"name": "CLEARML__a__b", "value": "true"}]}
    agent = {
        "clearml": {"agentk8sglueKey": "k1", "agentk8sglueSecret": "s1"},
        "agentk8sglue": {"apiServerUrlReference": "https://api.test", "queues": {"gpu": {}}, "createQueues": True},
    }
    gateway = {"clearml": {"apiKey": "k2", "apiSecret": "s2", "apiServerUrlReference": "https://api.test"}}
    memory, world = cluster(
        *charts("clearml-enterprise", "11.0.0", "clearml-enterprise", "clearml", server),
        *charts("clearml-enterprise-agent", "6.14.1", "clearml-enterprise-agent", "red", agent),
        *charts("clearml-enterprise-app-gateway", "3.2.0", "router-red", "red", gateway),
    )
    hooks = Hooks()
    world.clearml = hooks
    settle(memory, world, but=("clearml-enterprise-webserver",))
    assert [name for name, _ in hooks.calls] == ["agent_up", "gateway_up"]
    settle(memory, world)
    assert [name for name, _ in hooks.calls] == ["agent_up", "gateway_up", "server_up"]
    seen = dict(hooks.calls)
    assert (seen["server_up"].conf["apiserverKey"], seen["server_up"].env) == ("AK", {"CLEARML__a__b": "true"})
    assert (seen["agent_up"].access_key, seen["agent_up"].secret_key, seen["agent_up"].create_queues) == (
        "k1",
        "s1",
        True,
    )
    assert list(seen["agent_up"].queues) == ["gpu"] and seen["gateway_up"].name == "router-red"
    assert "s1" not in repr(seen["agent_up"]) and "s2" not in repr(seen["gateway_up"])
    assert ask(memory, "clearml", "clearml-enterprise-apiserver", 8008, "GET", "/") == (200, "api")
    for key in [key for key in memory.held if key[1] == "Deployment"]:
        del memory.held[key]
    settle(memory, world)
    assert {name for name, _ in hooks.calls[3:]} == {"server_down", "agent_down", "gateway_down"}
    assert ("clearml", "clearml-enterprise-apiserver", 8008) not in memory.service_backends


def test_many_changes_lead_to_few_looks(charts):
    """Changes that come while the operators work are looked at together; dull kinds not at all."""
    memory, _ = cluster(*charts("rancher", "2.14.4", "rancher", "cattle-system", {"hostname": "r.test"}))
    memory.make_ready()
    install_operators(memory)
    (react,) = memory.reconcilers

    async def burst():
        event = {"type": "MODIFIED", "object": {"kind": "Deployment"}}
        await asyncio.gather(*(react(memory, event) for _ in range(50)))
        deadline = asyncio.get_running_loop().time() + 60
        while memory.peek("Deployment", "cattle-system", "rancher-webhook") is None:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        before = memory.writes
        await react(memory, {"type": "ADDED", "object": {"kind": "Event"}})
        await asyncio.sleep(3 * SETTLE_S)
        assert memory.writes == before

    asyncio.run(burst())
    assert memory.peek("Deployment", "cattle-system", "rancher-webhook")
