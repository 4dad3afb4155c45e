"""The site file's shape: what is wanted of one site. Frozen, no unknown keys, no secrets (block names only).

Only shapes and units live here. Rules that look at several fields are in spec_checks.py; reading the file is in
sitefile.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Role = Literal["server", "worker", "storage", "gpu"]
GpuVendor = Literal["nvidia", "amd", "intel"]
BlockName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="Document name of a Prefect block")]


class Model(BaseModel):
    """Base of every section: a spec is a value, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Disk(Model):
    device: str
    """Block device, such as /dev/disk/by-id/...; it must exist on the node."""
    mount: str = "/var/lib/longhorn"
    """Where the device is mounted."""
    use: Literal["storage", "data"] = "storage"
    """`storage` disks are handed to SUSE Storage."""
    tags: tuple[str, ...] = ()
    """Disk tags for SUSE Storage's disk selector."""


class Taint(Model):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}"


class Gpu(Model):
    vendor: GpuVendor = "nvidia"
    count: int = Field(ge=1, le=16)
    """GPUs that the node must offer to Kubernetes."""
    model: str = ""
    """Product name, for reports only."""


class Node(Model):
    name: str
    """Host name and Kubernetes node name: lower case, unique."""
    address: str
    """IP address that the other nodes and the controller reach."""
    port: Port = 22
    """SSH port."""
    roles: tuple[Role, ...]
    """`server` holds etcd and the API; `worker`, `storage` and `gpu` are agents."""
    labels: dict[str, str] = {}
    """Kubernetes labels. They act at registration; later changes go through the API."""
    taints: tuple[Taint, ...] = ()
    disks: tuple[Disk, ...] = ()
    gpu: Gpu | None = None
    host_key: str | None = None
    """Pinned SSH host key: `ssh-ed25519 AAAA...`, or `SHA256:...` fingerprint."""
    replaced: bool = False
    """The machine that the cluster knows under this name is gone for good; this is a new one that takes its place."""

    @property
    def is_server(self) -> bool:
        return "server" in self.roles


class RemovedNode(Node):
    lost: bool = False
    """The machine is gone for good: it is taken out of the cluster without being reached. Refused while it answers."""


class Ssh(Model):
    user: str = "root"
    """Login user. Any other than root needs password-less sudo."""
    key_block: BlockName = "ssh"
    """Block of type SSH key."""
    host_keys: Literal["pinned", "accept-new"] = "pinned"
    """`accept-new` trusts a key at first sight and remembers it; a changed key is always refused."""
    connect_timeout_s: float = Field(10.0, gt=0)
    width: int = Field(64, ge=1, le=500)
    """Nodes worked on at once."""


class Registration(Model):
    kind: Literal["scc", "rmt", "multi-linux-manager", "none"] = "none"
    """Where SLES gets its packages from."""
    url: str | None = None
    """RMT or Multi-Linux Manager server, https only."""
    code_block: BlockName | None = None
    """Block with the SCC/RMT registration code, or the Multi-Linux Manager activation key."""
    email: str | None = None
    products: tuple[str, ...] = ()
    """Modules and extensions, as NAME/VERSION/ARCH."""
    ca_fingerprint: str | None = None
    """SHA-256 fingerprint of the RMT server's CA."""
    bootstrap_script: str | None = None
    """Name of the Multi-Linux Manager bootstrap script below /pub/bootstrap/."""


class Repository(Model):
    name: str
    url: str
    gpg_check: bool = True


class Packages(Model):
    repositories: tuple[Repository, ...] = ()
    extra: tuple[str, ...] = ()
    """Packages to install beside those that the platform needs."""
    lock_timeout_s: int = Field(300, ge=1)
    """How long to wait for another zypper."""


class Time(Model):
    servers: tuple[str, ...] = ()
    """NTP servers for chrony. Empty: leave chrony as it is and only check it."""
    max_offset_ms: float = Field(500.0, gt=0)
    """Largest offset from true time that a node may have."""


class Dns(Model):
    servers: tuple[str, ...] = ()
    """Name servers written to the node. Empty: leave the resolver as it is and only check it."""
    search: tuple[str, ...] = ()
    hosts: dict[str, str] = {}
    """Static names (name: address) for /etc/hosts of all nodes, and for the controller's own calls. `*.domain` stands
    for every name below a domain: for the check of tenants' names alone, as /etc/hosts has no such thing."""


class Firewall(Model):
    mode: Literal["disabled", "open-ports", "unmanaged"] = "disabled"
    """RKE2's default CNI conflicts with firewalld: `disabled` is its documentation's advice."""


class Registries(Model):
    mirrors: dict[str, tuple[str, ...]] = {}
    """Upstream registry host to mirror endpoints (https://...), for registries.yaml on every node."""
    rewrites: dict[str, dict[str, str]] = {}
    """Per upstream host: regular expression to replacement, on the repository path."""
    credentials: dict[str, BlockName] = {}
    """Registry host to the block with its user and password."""
    ca_file: str | None = None
    """PEM file, on the controller, of the CA that signs the mirrors."""
    system_default_registry: str | None = None
    """host[:port] for RKE2's own images."""
    disable_default_endpoint: bool = False
    """Never fall back to the public registry (air gap)."""


class Proxy(Model):
    http: str | None = None
    https: str | None = None
    no_proxy: tuple[str, ...] = ()


class Artifacts(Model):
    source: Literal["url", "folder"] = "url"
    """`url`: nodes download; `folder`: the controller sends files over SSH (air gap)."""
    url: str | None = None
    """Base URL: <url>/<version>/rke2.linux-amd64.tar.gz, sha256sum-amd64.txt, and <url>/install.sh."""
    folder: str | None = None
    """Folder on the controller, or on every node when `on_nodes` is set."""
    on_nodes: bool = False
    images: bool = False
    """Also place the image archives (air gap without a registry mirror)."""
    ca_file: str | None = None
    """PEM file, on the controller, of the CA of `url`."""


class Rke2(Model):
    version: str
    """Exact release, such as v1.34.10+rke2r1."""
    cni: Literal["canal", "calico", "cilium", "flannel"] = "canal"
    ingress_controller: Literal["traefik", "ingress-nginx", "none"] = "traefik"
    """Said explicitly because RKE2's default changes between releases."""
    registration_address: str
    """Load balancer name or address that answers 9345 and 6443 for all servers."""
    tls_san: tuple[str, ...] = ()
    """Further names and addresses of the API certificate; `registration_address` must be among them."""
    api_port: Port = 6443
    profile: Literal["none", "cis", "etcd"] = "none"
    selinux: bool = False
    cluster_cidr: str = "10.42.0.0/16"
    service_cidr: str = "10.43.0.0/16"
    node_cidrs: tuple[str, ...] = ()
    """Networks that the nodes live in, to be kept apart from pods and services."""
    cluster_domain: str = "cluster.local"
    registries: Registries = Registries()
    proxy: Proxy = Proxy()
    kubelet_args: tuple[str, ...] = ()
    etcd_args: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    snapshot_cron: str = "0 */6 * * *"
    snapshot_retention: int = Field(10, ge=1)
    artifacts: Artifacts = Artifacts()
    token_block: BlockName = "rke2-token"  # noqa: S105 - the name of a block, not a token
    """Block that keeps the cluster token. Made at the first deploy when it does not exist."""
    kubeconfig_block: BlockName = "cluster-access"
    allow_single_server: bool = False
    """A single server has no quorum to lose, and no cluster after a lost disk: for trials only."""
    agent_batch: int = Field(50, ge=1, le=50)
    """Agents that join at once; a server takes few join requests at a time."""
    join_timeout_s: int = Field(1800, ge=1)
    poll_s: float = Field(2.0, gt=0)
    """Seconds between two looks at a node that is joining."""


class Charts(Model):
    mirror: str | None = None
    """oci://host[:port]/path that holds all charts (air gap). Empty: the vendors' own places."""
    credentials: dict[str, BlockName] = {}
    """Registry host to the block with its user and password, for charts and for pull secrets."""
    ca_file: str | None = None
    """PEM file, on the controller, of the CA of the chart registry."""


class Ingress(Model):
    domain: str
    """Base domain of the platform's own names: rancher.<domain>, registry.<domain> ..."""
    https_port: Port = 443
    tls: Literal["private-ca", "secret"] = "private-ca"
    """`private-ca`: cert-manager signs with the CA of `ca_block`. `secret`: certificate from `certificate_block`."""
    ca_block: BlockName | None = "site-ca"
    certificate_block: BlockName | None = None
    ca_file: str | None = None
    """PEM file, on the controller, that verifies the platform's HTTPS names."""


class Layer(Model):
    enabled: bool = True
    version: str | None = None
    """Chart version. Empty: the version that this release of Stackwright is tested with."""
    values: dict[str, Any] = {}
    """Merged over the values that Stackwright sets. Secrets as ${secret:BLOCK} or ${secret:BLOCK.KEY}."""
    adopt: bool = False
    """Take over a release of this name that Stackwright did not make."""
    timeout_s: int = Field(2400, ge=1)
    """How long the layer's gates may take."""


class MetalLb(Layer):
    enabled: bool = False
    addresses: tuple[str, ...] = ()
    """Pool: CIDR or first-last."""


class Rancher(Layer):
    replicas: int = Field(3, ge=1)
    bootstrap_block: BlockName = "rancher-bootstrap"


class Storage(Layer):
    replicas: int = Field(3, ge=1, le=5)
    data_path: str = "/var/lib/longhorn"


class SecurityLife(Model):
    """How SUSE Security goes from learning to refusing, namespace by namespace (flow promote-security). Guide: 5.5."""

    learn_days: int = Field(7, ge=0, le=365)
    """What a group's containers do so long (Discover) becomes its rules."""
    observe_days: int = Field(7, ge=0, le=365)
    """Then what breaks the rules is only reported so long (Monitor), before it is stopped (Protect)."""
    protect: tuple[str, ...] | Literal["all"] = ()
    """Namespaces to enforce, one after the other in this order. `all`: every one, by name, but those of `never`."""
    never: tuple[str, ...] = ()
    """Namespaces that stay in Monitor where `protect` is `all`."""
    system: tuple[str, ...] = ()
    """Namespaces of Kubernetes and the platform itself (kube-*, cattle-*, longhorn-system ...) that may be enforced."""
    watch_minutes: int = Field(30, ge=1, le=1440)
    """How long a namespace is watched after its promotion; known-good traffic that is blocked sends it back."""
    admission: Literal["monitor", "protect"] = "monitor"
    """`protect`: admission control may be promoted to refusing, when the operator asks for it."""


class Security(Layer):
    admin_block: BlockName = "security-admin"
    life: SecurityLife | None = None
    """Without it everything stays in Monitor: what breaks the rules is reported, nothing is stopped."""


class Registry(Layer):
    admin_block: BlockName = "registry-admin"
    size_gib: int = Field(500, ge=1)


class Observability(Layer):
    license_block: BlockName = "observability-license"
    profile: str = "10-nonha"
    """Sizing profile: trial, 10-nonha ... 4000-ha."""


class GpuOperator(Layer):
    vendor: GpuVendor | Literal["auto"] = "auto"
    """`auto` takes the vendor of the site's GPU nodes."""
    driver: Literal["host", "operator"] = "host"
    """`host`: the driver is installed on SLES and only checked; `operator`: the operator brings it."""


class SuseAi(Layer):
    namespace: str = "suse-ai"
    ollama_gpus: int = Field(0, ge=0)
    models: tuple[str, ...] = ()


class ClearmlServer(Layer):
    pass


class Layers(Model):
    cert_manager: Layer = Layer()
    metallb: MetalLb = MetalLb()
    rancher: Rancher = Rancher()
    rancher_backup: Layer = Layer()
    storage: Storage = Storage()
    security: Security = Security()
    registry: Registry = Registry()
    observability: Observability = Observability()
    gpu_operator: GpuOperator = GpuOperator()
    suse_ai: SuseAi = SuseAi()
    clearml: ClearmlServer = ClearmlServer()


class PortRange(Model):
    start: Port
    end: Port


class Clearml(Model):
    base_domain: str
    """api., app., files. and the tenants' routers live below it."""
    supervisor_block: BlockName = "clearml-supervisor"
    """Block with the platform-level API key that onboards tenants."""
    supervisor_mode: Literal["apiserver-key", "supervisor"] = "apiserver-key"
    """`apiserver-key`: the chart's own system credential. `supervisor`: the guide's supervisor user (its spelling
    corrected)."""
    registry_block: BlockName = "clearml-registry"
    """Block with user and token for ClearML's charts and images."""
    agent_version: str | None = None
    gateway_version: str | None = None
    injector_version: str | None = None
    """Version of ClearML's fractional GPU injector on this site; empty: a new one. Before 1.3.0 jobs must name their
    share as limits, too."""
    auth_cookie_name: str = "clearml-token-k8s"
    """Name of the server's login cookie, needed by the application gateway."""
    concurrency: int = Field(16, ge=1, le=200)
    """Tenant runs that may work on the ClearML server at once, over all workers. Twice a worker's own limit is good."""


class Quota(Model):
    cpu: int = Field(16, ge=1)
    """Cores, summed over the tenant's pods."""
    memory_gib: int = Field(64, ge=1)
    """Memory, summed over the tenant's pods."""
    gpus: int = Field(0, ge=0)
    """Whole GPUs. 0: the tenant's pods get none."""
    storage_gib: int = Field(200, ge=1)
    """Volumes, summed."""
    pods: int = Field(50, ge=1)
    """Pods at a time."""


class Queue(Model):
    name: str
    """Name in ClearML, to which the tenant's people send their jobs."""
    gpus: int = Field(0, ge=0)
    """GPUs of one job of this queue."""
    fraction: float | None = Field(None, gt=0, lt=1)
    """Share of one GPU for a job of this queue, by ClearML's fractional GPU injector: 0.0625, 0.125, 0.25 ... 0.875."""
    mig: str | None = Field(None, pattern=r"^[1-9]g\.[0-9]{1,3}gb$", examples=["1g.10gb"])
    """MIG profile of which a job of this queue gets one slice."""
    max_pods: int = Field(5, ge=1)
    """Jobs of this queue at a time."""


class Policy(Model):
    """ClearML's resource policy of a tenant: what it is sure of, and how far it may go beyond. Whole GPUs."""

    reservation: int = Field(0, ge=0)
    """GPUs that the tenant gets whenever it asks."""
    limit: int = Field(0, ge=0)
    """GPUs that it may use while others leave theirs idle (over-quota). Never below the reservation."""
    pools: tuple[str, ...] = ()
    """Resource pools of the server that jobs may spill over into, first choice first. Empty: the tenant's own alone."""


class Identity(Model):
    """How the tenant's people log in: by addresses that are let in, or by an identity provider of their own."""

    domains: tuple[str, ...] = ()
    """E-mail domains whose users belong to this tenant. No other tenant may name them."""
    emails: tuple[str, ...] = ()
    """Single addresses that may join, whatever their domain."""
    provider: str | None = None
    """Identity provider as ClearML names it (sso.get_supported_providers), such as keycloak."""
    client_id: str | None = None
    """Name by which the provider knows ClearML."""
    client_block: BlockName | None = None
    """Block (secret text) with the provider's client secret."""
    base_url: str | None = None
    """Address of the provider's realm, https://..."""
    admin_groups: tuple[str, ...] = ()
    """Groups of the provider whose members administer the tenant."""


class Tenant(Model):
    name: str
    """Company name in ClearML and, after `clearml-`, the namespace."""
    admin_name: str = "Tenant Admin"
    """Name of the tenant's first user, who administers it."""
    admin_email: str
    """Address of that user, by which it is known."""
    quota: Quota = Quota()
    """The most that the tenant's namespace may use."""
    queues: tuple[Queue, ...] = (Queue(name="default"),)
    """Queues of the tenant; each has an agent that starts its jobs."""
    tcp_ports: PortRange | None = None
    """Port range of the application gateway's TCP sessions."""
    allowed_namespaces: tuple[str, ...] = ()
    """Namespaces whose pods may reach the tenant's pods, beside its own and the ingress controller's."""
    workspace_gib: int = Field(0, ge=0)
    """Size of a volume that all jobs of the tenant share (ReadWriteMany). 0: none."""
    policy: Policy | None = None
    """Resource policy. None: the server's policies are left alone."""
    identity: Identity | None = None
    """Whom the tenant lets in, and how they log in. None: nothing is set."""
    suspended: bool = False
    """Nothing of the tenant starts any more; what runs is let finish, and its data stays."""

    @property
    def namespace(self) -> str:
        return f"clearml-{self.name}"

    @property
    def credentials_block(self) -> str:
        return f"clearml-tenant-{self.name}"


class FineTune(Model):
    image: str
    """Image with Python, torch, transformers, peft and the ClearML SDK, where the nodes can pull it."""
    model: str
    """Base model in Hugging Face's layout: a path in the image or on a volume of the jobs' pods, or https://....tar.gz"""
    data: str
    """Texts to learn, likewise: *.jsonl with `text` (or `prompt` and `completion`), or *.txt."""
    gpu_memory_gib: int = Field(16, ge=1)
    """Memory of the GPU that the model needs; nodes with less are not used."""
    steps: int = Field(30, ge=2, le=10_000)
    timeout_s: int = Field(1800, ge=1)
    """The job may take so long, the pull of its image included."""


class Validation(Model):
    workload: bool = True
    """Run a training workload through each tenant's first queue."""
    workload_timeout_s: int = Field(900, ge=1)
    pipeline: bool = True
    """Run a pipeline whose controller and steps go through the tenant's queue."""
    platform: bool = True
    """Prove storage, registry, admission control, GPUs and observability by work."""
    platform_timeout_s: int = Field(600, ge=30)
    """One workload of these may take so long; a dead run's is removed once it is older than three times this."""
    spare_node: str | None = None
    """An agent with storage that the full form may stop, to see a volume survive that. Empty: no node is stopped."""
    pull_image: str | None = None
    """Image in a registry that asks for a login, pulled to prove that. Empty: the image of a tenant's agent."""
    pull_block: BlockName | None = None
    """Block with the login for `pull_image`. Empty: the one that the site file gives for its registry."""
    refused_image: str | None = None
    """Image that SUSE Security must refuse. Empty: one made up from a deny rule on images or registries."""
    cuda_image: str = "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0"
    """Image with nvidia-smi and a CUDA sample that says `Test PASSED`; registries.yaml's mirrors serve it."""
    fine_tune: FineTune | None = None
    """A small LoRA fine-tune through each tenant's queue with whole GPUs. Empty: it is only looked for."""
    observability_metric: str = "container_cpu_usage"
    """A metric that the agent of every node sends all the time."""
    observability_label: str = "host"
    """The metric's label that names the node."""
    observability_fresh_s: int = Field(300, ge=30)
    """Every node's last data may be so old."""
    samples: int = Field(60_000, ge=3000, le=1_000_000)
    """Pictures that the training draws for itself; MNIST has 60,000."""
    share_jobs: int = Field(8, ge=0)
    """At most so many small jobs are sent at once to see a tenant's quota act; a larger share is not tried. 0: none."""
    share_watch_s: int = Field(30, ge=0)
    """So long it is watched that no job beyond the share starts."""
    fresh_days: int = Field(8, ge=1)
    """The light form finds fault with a last training older than this."""


class BackupStore(Model):
    endpoint: str
    """S3-compatible store outside the cluster, https://..."""
    bucket: str
    region: str = "us-east-1"
    folder: str = ""
    credentials_block: BlockName = "backup-store"
    ca_file: str | None = None


class Retention(Model):
    last: int = Field(14, ge=1)
    """So many newest bundles are kept. The newest one that a drill has proved is kept in any case."""
    daily: int = Field(14, ge=0)
    """The newest bundle of so many days (UTC)."""
    weekly: int = Field(8, ge=0)
    monthly: int = Field(12, ge=0)


class Drill(Model):
    host: Node
    """A spare host, no node of the cluster, on which bundles are restored. It is wiped before and after."""
    fence: tuple[str, ...] = ()
    """More addresses (`host:port`) that must not answer from there, beside those of the site itself."""
    rto_s: int = Field(3600, ge=1)
    """Within this time a restore must be done."""
    proven_days: int = Field(8, ge=1)
    """A bundle's proof holds so long."""


class Backup(BackupStore):
    second: BackupStore | None = None
    """A second store that gets a copy of every bundle."""
    key_block: BlockName = "backup-key"
    """Block with the age identity (`AGE-SECRET-KEY-1...`) that opens the bundles. Keep a copy outside of Prefect."""
    recipients: tuple[str, ...] = ()
    """More age recipients (`age1...`) that can open them, such as a key in the safe."""
    retention: Retention = Retention()
    stale_after_h: int = Field(26, ge=1)
    """The newest bundle may be so old."""
    drill: Drill | None = None


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ClockTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["22:00"])]


class Window(Model):
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    """Days on which the window opens."""
    start: ClockTime
    """Local time at which it opens, HH:MM."""
    end: ClockTime
    """Local time at which it closes; earlier than `start` means on the next day."""


class Maintenance(Model):
    windows: tuple[Window, ...] = ()
    """When steps with an effect on what runs may start. Empty: at any time. A step that has started is not stopped."""
    time_zone: str = "UTC"
    """Time zone of the windows, such as Europe/Berlin."""


class Upgrade(Model):
    agent_batch: int = Field(5, ge=1, le=50)
    """Agents that are drained and upgraded at once, as far as budgets, storage and room for their pods allow."""
    drain_timeout_s: int = Field(900, ge=1)
    """How long the pods of one node may take to leave it."""
    gate_timeout_s: int = Field(1800, ge=1)
    """How long a node may take to be healthy again after its restart."""
    snapshot_max_age_s: int = Field(3600, ge=1)
    """A verified snapshot younger than this is not taken again."""
    ticket_max_age_h: int = Field(72, ge=1)
    """A rehearsal's ticket holds so long."""


class StackSpec(Model):
    """One site: its nodes, its cluster, its layers, its tenants."""

    site: str
    """Name of the site; the file's name without .yaml."""
    environment: Literal["production", "lab"] = "production"
    """`lab` marks every report: its machines and products are stand-ins."""
    nodes: tuple[Node, ...]
    removed: tuple[RemovedNode, ...] = ()
    """Nodes to take out of the cluster: move their entries here from `nodes`. Carried out only when approved."""
    ssh: Ssh = Ssh()
    registration: Registration = Registration()
    packages: Packages = Packages()
    time: Time = Time()
    dns: Dns = Dns()
    firewall: Firewall = Firewall()
    rke2: Rke2
    charts: Charts = Charts()
    ingress: Ingress
    layers: Layers = Layers()
    clearml: Clearml
    tenants: tuple[Tenant, ...] = ()
    validation: Validation = Validation()
    maintenance: Maintenance = Maintenance()
    upgrade: Upgrade = Upgrade()
    backup: Backup | None = None

    @property
    def servers(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.is_server)

    @property
    def agents(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if not node.is_server)

    @property
    def storage_nodes(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if "storage" in node.roles)

    @property
    def gpu_nodes(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if "gpu" in node.roles)

    def url(self, name: str, domain: str | None = None) -> str:
        """Return the HTTPS address of one of the platform's names, such as `url("rancher")`."""
        port = "" if self.ingress.https_port == 443 else f":{self.ingress.https_port}"
        return f"https://{name}.{domain or self.ingress.domain}{port}"
