"""Where the guide cannot work as printed: each with correction, reason, source, and the test that holds it."""

from __future__ import annotations

from dataclasses import dataclass

_TESTS = "tests/domain/test_errata.py"
_NODES = "RKE2 documentation"
_SERVER = "ClearML: Enterprise server on Kubernetes"
_AGENT = "ClearML: agent on Kubernetes"
_GATEWAY = "ClearML: application gateway on Kubernetes"


@dataclass(frozen=True)
class Erratum:
    """One error. `printed` and `correction` are short; `test` is path::name of the test that holds the correction."""

    id: str
    section: str
    printed: str
    correction: str
    reason: str
    source: str
    test: str


def _e(id_: str, section: str, printed: str, correction: str, reason: str, source: str, test: str) -> Erratum:
    return Erratum(id_, section, printed, correction, reason, source, f"{_TESTS}::{test}")


MACHINES = (
    _e("sles-generations", "5.1", "links to SLES 15 SP7 for registration and to SLES 16 for installation",
       "the generation is looked up on each node, and packages and tools are chosen by it",
       "the two differ in installer, security module, network tool and RKE2's own default method",
       "SUSE: migrating to SLES 16", "test_each_sles_generation_is_prepared_in_its_own_way"),
    _e("firewall-canal", "5.1 item 3", "open the ports or disable the firewall, as equals",
       "`firewall.mode` is explicit and disabled by default; open-ports is noted in the plan",
       "firewalld disturbs the default pod network", f"{_NODES}: known issues",
       "test_the_firewall_is_off_unless_the_site_says_otherwise"),
    _e("ssh-user", "5.2 Security", "the SSH user stands in cluster.yml", "`ssh.user` of the site file",
       "RKE2 does not use SSH and has no cluster.yml; RKE1 had", f"{_NODES}: installation",
       "test_nothing_of_rke1_is_left"),
    _e("admin-file", "5.2 Security", "protect the generated cluster.yml, which gives administrative access",
       "the kubeconfig and the token are kept in blocks and in files with mode 0600",
       "on RKE2 it is rke2.yaml and the server's token", f"{_NODES}: cluster access",
       "test_secrets_of_the_cluster_are_named_not_written"),
    _e("rke-up", "5.2 Scalability", "add nodes by editing cluster.yml and running rke up",
       "add the node to the site file and run again: it is installed, configured and joined",
       "RKE2 has neither", f"{_NODES}: high availability", "test_nothing_of_rke1_is_left"),
    _e("tls-san", "5.2 Certificate Management", "put names and addresses of the load balancer into cluster.yml",
       "`rke2.tls_san`, which becomes tls-san on every server; one that lacks the registration address is refused",
       "RKE2 has no cluster.yml, and refuses unknown names in its certificate", f"{_NODES}: server configuration",
       "test_the_load_balancer_must_be_in_the_certificate"),
    _e("kubectl-workstation", "5.2 Note", "a workstation with kubectl is required",
       "the controller speaks to the API by itself; kubectl lies on every server too",
       "RKE2 brings it", f"{_NODES}: directories", "test_production_calls_no_kubectl"),
    _e("tarball-sles16", "5.2 step 1", "the TAR archive is advised, with nothing else to do",
       "the method is always said to the installer, and SELinux is asked for on SLES 16",
       "on SLES 16 the installer would take RPM packages, and SELinux is enforced", "RKE2: install.sh",
       "test_the_tarball_is_always_said_and_selinux_goes_with_it"),
    _e("lb-ports", "5.2, 5.3", "the load balancer forwards 80 and 443",
       "6443 and 9345 to the servers as well", "joining nodes ask 9345, everything asks 6443",
       f"{_NODES}: high availability", "test_servers_are_reached_on_both_ports"),
    _e("windows-agents", "5.2 step 4", "agents may run on Windows",
       "not with the default pod network; a node with another system than SLES is refused",
       "Canal does not run on Windows", f"{_NODES}: requirements", "test_another_system_than_sles_is_refused"),
    _e("ingress-default", "5.3, 5.7.1", "an ingress controller such as nginx-ingress",
       "the controller is named in RKE2's configuration, and every layer gets its class",
       "RKE2 1.36 begins new clusters with Traefik, and ingress-nginx is retired", f"{_NODES}: networking services",
       "test_the_ingress_class_is_always_said"),
    _e("cert-manager-order", "5.3, 5.6", "cert-manager is first mentioned for SUSE AI",
       "cert-manager is the first layer", "Rancher asks for its certificate already",
       "Rancher: installation on Kubernetes", "test_cert_manager_comes_before_rancher"),
    _e("kubernetes-floor", "5.7.1 step 3", "Kubernetes 1.23 is enough",
       "the versions of all layers together decide; a pair outside the matrix is refused",
       "SUSE Storage, Observability and the GPU operator need 1.33 or later", "the vendors' support pages",
       "test_an_old_kubernetes_is_refused_although_clearml_would_take_it"),
)  # fmt: skip

CLEARML = (
    _e("dependency-names", "5.7.1 step 4", "drangonfly-db/drangonfly and mongodb-github.io",
       "dragonflydb/dragonfly and mongodb.github.io; nothing is fetched from there at a deploy",
       "misspelt", "the projects' own pages", "test_misspelt_names_are_nowhere_in_the_code"),
    _e("rwx-claim", "5.7.1 step 5", "make a ReadWriteMany claim and volume for the workers",
       "the storage class serves ReadWriteMany, and that is proved; a tenant that asks gets a claim (workspace_gib)",
       "ClearML's own pages ask for none", _SERVER, "test_shared_volumes_are_proved_and_no_claim_is_made"),
    _e("registry-user", "5.7.2 step 1, 5.8.3 step 2a", "user allegroaenterprise",
       "user allegroaienterprise, kept with the token in `clearml.registry_block`", "a letter is missing", _SERVER,
       "test_misspelt_names_are_nowhere_in_the_code"),
    _e("mongodb-choice", "5.7.2 step 2", "no word about the database",
       "mongodb off, mckMongodb on and migrated, from chart 10.11.7 on",
       "without it the old database is installed", _SERVER, "test_the_database_is_chosen"),
    _e("supervisor-names", "5.7.2 step 3", "CLEARML__secure__credentials__supervisor_role and its siblings",
       "two underscores after supervisor", "with one, stray keys are made instead of a credential",
       "ClearML: multi-tenancy (August 2025)", "test_the_supervisor_is_a_section"),
    _e("supervisor-flow", "5.7.2 step 3", "the supervisor as the way",
       "the chart's own key by default; the supervisor with `clearml.supervisor_mode: supervisor`",
       "ClearML's documents dropped it in October 2025", "ClearML: multi-tenancy",
       "test_the_supervisor_is_a_choice"),
    _e("supervisor-mail", "5.7.2 Note", "an e-mail with a mailto: rest in it", "the plain address in inner quotes",
       "left over from the page's markup", "ClearML: multi-tenancy (August 2025)", "test_the_supervisor_is_a_section"),
    _e("chart-alias", "5.7.2 step 4", "chart clearml-enterprise/clearml-enterprise, of a repository never added",
       "oci://docker.io/clearml/clearml-enterprise, release clearml-enterprise", "the alias does not exist", _SERVER,
       "test_clearml_charts_come_from_their_oci_registry"),
    _e("not-repeatable", "5.7.2 step 5", "plain creates",
       "look first; make what is missing; keep the key pair the moment it is made",
       "a second run would make a second company or fail, and lose the secret", "ClearML: API reference",
       "test_a_complete_tenant_is_not_made_again"),
    _e("user-json", "5.7.2 step 5d", "a JSON body broken by a backslash inside quotes", "one JSON object",
       "the server gets the backslash and refuses", "ClearML server: request handlers",
       "test_users_are_made_with_one_json_object_and_a_boolean"),
    _e("user-internal", "5.7.2 step 5d", '"internal": "true" as text', "a boolean",
       "the schema says so; any text would count as true", "ClearML: API reference",
       "test_users_are_made_with_one_json_object_and_a_boolean"),
    _e("impersonation-header", "5.7.2 step 5e", "header X-{cml}-Impersonate-As", "X-Clearml-Impersonate-As",
       "an attribute of the page was not filled in; without it the key is made for somebody else",
       "ClearML: multi-tenancy", "test_credentials_are_made_in_the_users_name"),
    _e("gpu-values-version", "5.8.3 step 1c", "one set of values for every version of the GPU operator",
       "the guide's below 25.10; from there on CDI, without them",
       "volume mounts win over CDI and leave pods without libraries", "NVIDIA GPU operator: CDI; RKE2: GPU operators",
       "test_the_guides_gpu_values_stop_where_they_break"),
    _e("gpu-containerd-socket", "5.8.3 step 1c", "no word about containerd", "CONTAINERD_SOCKET of RKE2 in toolkit.env",
       "RKE2's containerd listens elsewhere", "RKE2: GPU operators", "test_the_toolkit_knows_rke2s_containerd"),
    _e("gpu-opt-in", "5.8.3 step 1c", "no opt-in features",
       "NVIDIA_CONTAINER_TOOLKIT_OPT_IN_FEATURES=disable-cuda-compat-lib-hook, from 25.3 on",
       "fractions of GPUs need it", "ClearML: fractional GPUs", "test_the_toolkit_opts_in_for_fractions"),
    _e("repo-update", "5.8.3 step 2b, 5.9 step 2", "helm repo update after a login to an OCI registry",
       "left out", "it does nothing for OCI", "Helm: OCI registries",
       "test_clearml_charts_come_from_their_oci_registry"),
    _e("three-references", "5.8.3 step 2c", "all three references are https://api...",
       "api, files and app", "file and web server have names of their own", _AGENT,
       "test_the_agent_knows_three_servers"),
    _e("dashboard-gpus", "5.8.3 step 2c", "dashboardReportMaxGpu",
       "agentk8sglue.orchestrationDashboard.gpu.reportMax from 6.12 on", "the key has moved twice",
       "ClearML: orchestration dashboard", "test_the_dashboards_key_follows_the_chart"),
    _e("agent-chart", "5.8.3 step 2d", "the gateway's chart is installed as the agent", "clearml-enterprise-agent",
       "a tenant would never get an agent", _AGENT, "test_agent_and_gateway_have_their_own_charts"),
    _e("verify-login", "5.8.3 step 2e, 5.9 step 5", "log in as the initial administrator",
       "look with the tenant's own key", "queues and routers belong to a company", "ClearML server: queues",
       "test_queues_are_looked_for_with_the_tenants_key"),
    _e("gateway-reference", "5.9 step 3", "clearml.apiUrlReference", "clearml.apiServerUrlReference",
       "the chart knows no such key", _GATEWAY, "test_the_gateways_keys_are_the_charts"),
    _e("gateway-nesting", "5.9 step 3", "service and portRange at the top",
       "below streamSession (tcpSession before chart 3.0)", "the chart would ignore them", _GATEWAY,
       "test_session_ports_lie_where_the_chart_reads_them"),
    _e("gateway-password-key", "5.9 step 3", "clearml.password", "imageCredentials.password",
       "the text names another key than its own listing", _GATEWAY, "test_the_gateways_keys_are_the_charts"),
    _e("gateway-settings-text", "5.9 step 3", "a file with the agent settings", "the gateway's settings",
       "copied from the section before", _GATEWAY, "test_the_gateways_keys_are_the_charts"),
    _e("chart-version", "5.9 step 4", "explains CHART_VERSION, but the command has none",
       "every release is installed at a version", "the newest chart of the day is no plan", _GATEWAY,
       "test_every_release_has_a_version"),
    _e("lora-first-test", "6", "fine-tuning of a language model as a first test",
       "a training on the CPU that needs no data set", "the script needs Enterprise data sets and CUDA",
       "ClearML: examples", "test_the_first_training_needs_neither_gpu_nor_data"),
    _e("lora-link", "8 question 2", "a link to fine-tune_qa_lora.py", "finetune_qa_lora.py", "misspelt",
       "ClearML: examples", "test_misspelt_names_are_nowhere_in_the_code"),
)  # fmt: skip

ERRATA: tuple[Erratum, ...] = (*MACHINES, *CLEARML)
