"""The ClearML stand-in's promises: the wire's rules, start-up configuration, and refusals as the real one's."""

import base64
import json
import subprocess
import sys

import httpx
import jwt
import pytest

from stackwright.clients.http import make_client
from stackwright.domain.errors import ApiUnavailableError, ConflictError
from stackwright.lab.clearml import DEFAULT_COMPANY, ClearmlState, ConfigurationError
from stackwright.lab.clearml.alone import SYSTEM_KEY, SYSTEM_SECRET, clearml_alone
from stackwright.lab.clearml.settings import find, parse_value, read_settings

SUPERVISOR = "CLEARML__secure__credentials__supervisor"
GOOD = {
    f"{SUPERVISOR}__role": "system",
    f"{SUPERVISOR}__user_key": "SUPERKEY",
    f"{SUPERVISOR}__user_secret": "super-secret",
    f"{SUPERVISOR}__sec_groups": '["users", "admins", "queue_admins"]',
    f"{SUPERVISOR}__email": '"supervisor@ml.example"',
    "CLEARML__apiserver__company__unique_names": "true",
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A served stand-in, shared: each test makes its own tenants."""
    with clearml_alone(tmp_path_factory.mktemp("clearml")) as served:
        yield served


@pytest.fixture
def http(trial):
    """A bare HTTP client with the system key."""
    with make_client(trial.api_url, trial.ca_file, trial.resolve, 10, (SYSTEM_KEY, SYSTEM_SECRET)) as client:
        yield client


def codes(answer: httpx.Response) -> tuple[int, int]:
    meta = answer.json()["meta"]
    assert answer.status_code == meta["result_code"]
    return meta["result_code"], meta["result_subcode"]


# The wire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/queues.get_all", "/v2.23/queues.get_all", "/v999.0/queues.get_all/"])
def test_every_method_and_version_carries_a_json_body(http, method, path):
    """The body is read on GET as well, unknown fields are ignored, and the envelope names the endpoint."""
    answer = http.request(method, path, json={"name": "^default$", "method": "get"})
    assert codes(answer) == (200, 0)
    assert [queue["name"] for queue in answer.json()["data"]["queues"]] == ["default"]
    meta = answer.json()["meta"]
    assert meta["endpoint"]["name"] == "queues.get_all" and meta["id"] and meta["trx"] and meta["result_msg"] == "OK"


def test_query_and_form_are_merged_and_converted(http):
    """Digits and booleans in the query become such; dotted keys nest; a form works like a body."""
    assert http.get("/queues.get_all?page=1&page_size=1").json()["data"]["queues"] == []
    custom = http.get("/system.get_companies?custom_data.users=true").json()["data"]["companies"]
    assert all("users" in company for company in custom)
    assert codes(http.post("/queues.get_all", data={"page": "-1"})) == (400, 12)


@pytest.mark.parametrize(
    ("body", "kind", "wanted"),
    [
        (b"{'name': 'x'}", "application/json", (400, 0)),
        (b"[1]", "application/json", (400, 0)),
        (b'{"name": "x" \\\n}', "application/json", (400, 0)),  # the guide's backslash inside quotes
        (b'{"type": "log"}\n[]', "application/json-lines", (400, 0)),
        (b"", "application/json-lines", (400, 17)),
    ],
)
def test_bodies_that_are_no_objects_are_refused(http, body, kind, wanted):
    """Broken JSON is 400/0, an empty batch 400/17."""
    assert codes(http.post("/events.add_batch", content=body, headers={"Content-Type": kind})) == wanted


def test_compressed_bodies_are_refused(http):
    """HTTP 415, without an envelope."""
    assert http.post("/queues.get_all", content=b"", headers={"Content-Encoding": "gzip"}).status_code == 415


def test_checks_come_in_the_servers_order(trial, http):
    """Endpoint, credentials, role, impersonation, body, fields."""
    tenant = trial.tenant("order")
    broken = {"content": b"{"}
    user = (tenant.access_key, tenant._secret.get_secret_value())
    assert codes(http.post("/no.such", auth=("x", "y"), **broken)) == (404, 0)
    assert codes(http.post("/queues.create", auth=("x", "y"), **broken)) == (401, 22)
    assert codes(http.post("/system.create_company", auth=user, headers={"X-Clearml-Act-As": "x"}, **broken)) == (
        403,
        20,
    )
    assert codes(http.post("/queues.create", headers={"X-Clearml-Act-As": "x"}, **broken)) == (400, 6)
    assert codes(http.post("/queues.create", **broken)) == (400, 0)
    assert codes(http.post("/queues.create", json={})) == (400, 11)
    assert codes(http.post("/queues.create", json={"name": 7})) == (400, 12)
    assert codes(http.post("/queues.create", json={"name": "ab"})) == (400, 800)
    assert codes(http.post("/not a path")) == (400, 0)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", (401, 20)),
        ("Digest x", (401, 10)),
        ("Basic !!", (401, 21)),
        ("Basic " + base64.b64encode(b"a:b").decode(), (401, 22)),
        ("Bearer nonsense", (401, 30)),
    ],
)
def test_bad_authorization_has_its_own_code(trial, header, wanted):
    """Missing, of another kind, malformed, wrong, and a token that is none."""
    with make_client(trial.api_url, trial.ca_file, trial.resolve, 10) as bare:
        answer = bare.post("/server.info", headers={"Authorization": header} if header else {})
    assert codes(answer) == wanted


def test_login_gives_a_token_and_a_cookie_that_work(trial, http):
    """The token has the claims that the SDK reads; the system role's does not expire unless asked."""
    answer = http.post("/auth.login")
    token = answer.json()["data"]["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert {"identity", "api_version", "server_version", "feature_set", "env", "tenant"} <= claims.keys()
    assert "exp" not in claims
    assert "exp" in jwt.decode(
        http.post("/auth.login", json={"expiration_sec": 60}).json()["data"]["token"],
        options={"verify_signature": False},
    )
    with make_client(trial.api_url, trial.ca_file, trial.resolve, 10) as bare:
        assert codes(bare.post("/server.info", headers={"Authorization": f"Bearer {token}"})) == (200, 0)
        assert codes(bare.post("/server.info", headers={"Cookie": f"clearml-token-k8s={token}"})) == (200, 0)
        assert codes(bare.post("/debug.ping")) == (200, 0)


def test_impersonation_takes_the_role_and_acting_does_not(trial, http):
    """Impersonate-As has the user's own role, Act-As the caller's; both at once are refused; a user may do neither."""
    tenant = trial.tenant("headers")
    system = trial.client()
    company = tenant.whoami().company_id
    user = system.create_user(company, "Plain", "plain@headers.example", role="user")
    as_user, act_as = {"X-Clearml-Impersonate-As": user.id}, {"X-Trains-Act-As": user.id}
    assert codes(http.post("/routers.get_task_routers", headers=as_user)) == (403, 20)
    assert codes(http.post("/routers.get_task_routers", headers=act_as)) == (200, 0)
    both = {"X-Clearml-Impersonate-As": user.id, "X-Clearml-Act-As": user.id}
    assert codes(http.post("/queues.get_all", headers=both)) == (400, 5)
    key = system.create_credentials("plain", user_id=user.id)
    plain = (key.access_key, key.secret_key.get_secret_value())
    assert codes(http.post("/queues.get_all", auth=plain, headers=as_user)) == (400, 6)
    stranger = trial.tenant("strangers").whoami().user_id
    admin = (tenant.access_key, tenant._secret.get_secret_value())
    refused = http.post("/queues.get_all", auth=admin, headers={"X-Clearml-Impersonate-As": stranger})
    assert codes(refused) == (400, 6)
    assert refused.json()["meta"]["error_data"] == {"id": stranger, "company": company}


def test_web_page_and_files_answer(trial):
    """The page is HTML, /api passes on, and the file sink keeps what is sent."""
    auth = (SYSTEM_KEY, SYSTEM_SECRET)
    with make_client(trial.web_url, trial.ca_file, trial.resolve, 10, auth) as web:
        assert web.get("/").headers["content-type"].startswith("text/html")
        assert codes(web.get("/api/v2.20/server.info")) == (200, 0)
    with make_client(trial.files_url, trial.ca_file, trial.resolve, 10) as files:
        assert files.get("/").text == "OK"
        assert files.post("/", files={"a/b.txt": ("b.txt", b"kept")}).status_code == 200
        assert files.get("/a/b.txt").content == b"kept"
        assert files.delete("/a/b.txt").status_code == 200
        assert files.get("/a/b.txt").status_code == 404


# Start-up --------------------------------------------------------------------------------------------------------


def test_settings_follow_the_servers_rule():
    """Two underscores part levels, one does not; the path is lower-cased; values are HOCON."""
    tree = read_settings({"CLEARML__A__b_C__d": "[x, 2]", "CLEARML__a__e": '"u@h"', "OTHER": "1"})
    assert tree == {"a": {"b_c": {"d": ["x", 2]}, "e": "u@h"}}
    assert find(tree, "a.b_c.d") == ["x", 2]
    assert find(tree, "a.none.d") is None


HOCON = [
    "true",
    "12",
    "a-b.c",
    '"u@h"',
    "u@h",
    '["a", "b"]',
    "[a, b]",
    "{",
    "a:b",
    "x y",
    "a#b",
    "https://x/y",
    "a+b",
    r"a\b",
]


def test_hocon_values_are_read_as_the_sdks_parser_reads_them():
    """The values that matter parse, or fail, as in the HOCON parser that ships with the SDK."""
    code = (
        "import json,sys\nfrom clearml.utilities.pyhocon import ConfigFactory\nfound=[]\n"
        "for text in json.load(sys.stdin):\n"
        "    try: found.append(ConfigFactory.parse_string('k: ' + text)['k'])\n"
        "    except Exception: found.append('FAILS')\n"
        "print('RESULT' + json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(HOCON), capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.split("RESULT")[1])

    def ours(text):
        try:
            return parse_value(text, "k")
        except ConfigurationError:
            return "FAILS"

    assert [ours(text) for text in HOCON] == theirs


def test_supervisor_with_right_names_is_a_system_user_of_the_default_company():
    """The documented spelling gives a working credential beside the chart's own."""
    state = ClearmlState()
    state.configure(GOOD, "OWN", "own-secret")
    assert set(state.companies) == {DEFAULT_COMPANY}
    found = state.find_key("SUPERKEY")
    assert found is not None
    assert (found[0].role, found[0].email, found[0].company) == ("system", "supervisor@ml.example", DEFAULT_COMPANY)
    assert state.find_key("OWN") is not None


def test_guides_misprint_gives_no_credential():
    """One underscore before role makes stray keys: the server runs on without the supervisor."""
    state = ClearmlState()
    wrong = {name.replace("supervisor__", "supervisor_"): value for name, value in GOOD.items()}
    state.configure(wrong, "OWN", "own-secret")
    assert state.find_key("SUPERKEY") is None
    assert state.find_key("OWN") is not None
    assert find(state.settings, "secure.credentials.supervisor_role") == "system"


def test_email_without_inner_quotes_stops_the_server():
    """An @ outside quotes is not HOCON."""
    with pytest.raises(ConfigurationError, match="email"):
        ClearmlState().configure(GOOD | {f"{SUPERVISOR}__email": "a@b.example"}, "OWN", "own-secret")


def test_restart_keeps_data_and_takes_new_keys():
    """configure again changes the configured keys and nothing else."""
    state = ClearmlState()
    state.configure(GOOD, "OWN", "own-secret")
    company = state.add_company("kept", {})
    state.configure(GOOD, "NEW", "new-secret")
    assert company.id in state.companies
    assert state.find_key("OWN") is None and state.find_key("NEW") is not None


def test_snapshot_is_the_same_for_two_servers_of_one_history():
    """Ids, times and secrets do not show."""

    def grown(secret):
        state = ClearmlState()
        state.configure(GOOD, "OWN", secret)
        company = state.add_company("red", {})
        state.add_doc("queues", company.id, "", {"name": "gpu"})
        return state.snapshot()

    assert grown("one") == grown("two")
    assert "super-secret" not in json.dumps(grown("one"))
    assert "gpu" in json.dumps(grown("one"))


# What it refuses -------------------------------------------------------------------------------------------------


def test_company_twins_only_without_unique_names(tmp_path):
    """Twins are accepted by default, refused under unique_names; a client that looks finds the ambiguity."""
    with clearml_alone(tmp_path) as plain:
        plain.client().create_company("twin")
        plain.client().create_company("twin")
        with pytest.raises(ConflictError, match="several companies"):
            plain.client().find_company("twin")
    with clearml_alone(tmp_path, env=GOOD) as unique:
        unique.client().create_company("twin")
        with pytest.raises(ConflictError):
            unique.client().create_company("Twin")


def test_answer_lost_after_the_work_leaves_the_company(tmp_path):
    """cut_after: the client sees a broken connection, and finds the company when it looks again."""
    with clearml_alone(tmp_path) as cut:
        cut.state.cut_after["system.create_company"] = 1
        with pytest.raises(ApiUnavailableError):
            cut.client().create_company("lost")
        assert cut.client().find_company("lost") is not None


def test_internal_users_are_the_systems_to_make(trial, http):
    """The text "true" counts, as the documentation sends it; an administrator may not."""
    tenant = trial.tenant("internals")
    body = {"name": "N", "company": tenant.whoami().company_id, "role": "admin", "internal": "true"}
    assert codes(http.post("/auth.create_user", json=body | {"email": "i@internals.example"})) == (200, 0)
    admin = (tenant.access_key, tenant._secret.get_secret_value())
    assert codes(http.post("/auth.create_user", auth=admin, json=body | {"email": "j@internals.example"})) == (400, 13)


def test_token_outlives_its_key(trial, http):
    """Revoking refuses the key at once, and leaves issued tokens alone."""
    tenant = trial.tenant("tokens")
    auth = (tenant.access_key, tenant._secret.get_secret_value())
    token = http.post("/auth.login", auth=auth).json()["data"]["token"]
    tenant.revoke_credentials(tenant.access_key)
    assert not tenant.login_ok()
    with make_client(trial.api_url, trial.ca_file, trial.resolve, 10) as bare:
        assert codes(bare.post("/queues.get_all", headers={"Authorization": f"Bearer {token}"})) == (200, 0)


def test_queue_with_entries_is_not_deleted_without_force(trial, http):
    """400/702, and hidden queues show only when asked for."""
    tenant = trial.tenant("queues")
    auth = (tenant.access_key, tenant._secret.get_secret_value())

    def call(endpoint, **body):
        return http.post(f"/{endpoint}", json=body, auth=auth)

    queue = call("queues.create", name="glue", system_tags=["k8s-glue"]).json()["data"]["id"]
    task = call("tasks.create", name="task", type="training").json()["data"]["id"]
    call("tasks.enqueue", task=task, queue=queue)
    assert codes(call("tasks.enqueue", task=task, queue=queue)) == (400, 706)
    assert codes(call("tasks.enqueue", task=task, queue=queue, queue_name="glue")) == (400, 12)
    assert codes(call("queues.delete", queue=queue)) == (400, 702)
    assert call("queues.get_all").json()["data"]["queues"] == []
    assert len(call("queues.get_all", search_hidden=True).json()["data"]["queues"]) == 1
    assert call("queues.get_next_task", queue=queue).json()["data"]["entry"]["task"] == task
    assert call("queues.get_next_task", queue=queue).json()["data"] == {}
    assert codes(call("queues.get_default")) == (400, 707)
    assert codes(call("queues.get_all", name="(")) == (400, 21)


@pytest.mark.parametrize(
    ("path", "last", "wanted"),
    [
        (["enqueue"], "completed", (400, 110)),
        (["started"], "completed", (200, 0)),
        (["started", "completed"], "failed", (400, 110)),
        (["started", "failed"], "enqueue", (200, 0)),
        (["started", "completed", "publish"], "reset", (400, 110)),
        ([], "publish", (400, 110)),
        (["started"], "started", (200, 0)),
    ],
)
def test_task_states_follow_the_machine(trial, http, path, last, wanted):
    """Illegal steps are 400/110 unless forced."""
    tenant = trial.tenant(f"states-{'-'.join([*path, last])}")
    auth = (tenant.access_key, tenant._secret.get_secret_value())

    def step(action, **more):
        body = {"task": task} | ({"queue_name": "states"} if action == "enqueue" else {}) | more
        return http.post(f"/tasks.{action}", json=body, auth=auth)

    task = http.post("/tasks.create", json={"name": "task", "type": "training"}, auth=auth).json()["data"]["id"]
    for action in path:
        assert codes(step(action)) == (200, 0)
    assert codes(step(last)) == wanted
    if wanted[0] != 200:
        assert codes(step(last, force=True)) == (200, 0)


def test_silent_workers_and_routers_disappear(tmp_path):
    """A worker is gone after its timeout, a router after its own."""
    now = [1000.0]
    with clearml_alone(tmp_path, ClearmlState(clock=lambda: now[0])) as timed:
        tenant = timed.tenant("silent")
        queue = tenant.create_queue("work")
        auth = (tenant.access_key, tenant._secret.get_secret_value())
        with make_client(timed.api_url, timed.ca_file, timed.resolve, 10, auth) as http:
            http.post("/workers.register", json={"worker": "k8s:g:w", "queues": [queue.id], "timeout": 60})
            http.post("/routers.task_router_report", json={"router": "r", "url": "https://r", "timeout": 60})
            report = {"key": "k8s:g:w", "timestamp": 1, "properties": {"max_gpus": 4}, "timeout": 60}
            http.post("/workers.cluster_report", json=report)
        assert [worker.queues for worker in tenant.workers()] == [("work",)]
        assert [router.name for router in tenant.routers()] == ["r"]
        assert [usage.gpus_max_allowed for usage in tenant.resource_usages()] == [4.0]
        now[0] += 61
        assert (tenant.workers(), tenant.routers(), tenant.resource_usages()) == ((), (), ())


def test_tenant_api_exists_only_on_newer_servers(tmp_path):
    """tenants.* is 404 on 3.29; on 3.30 one call makes the company and an administrator's key."""
    with clearml_alone(tmp_path) as older:
        assert not older.client().tenants_api_offered()
    with (
        clearml_alone(tmp_path, ClearmlState(server_generation="3.30")) as newer,
        make_client(newer.api_url, newer.ca_file, newer.resolve, 10, (SYSTEM_KEY, SYSTEM_SECRET)) as http,
    ):
        assert newer.client().tenants_api_offered()
        body = {"name": "onecall", "admin_emails": ["a@onecall.example"]}
        made = http.post("/tenants.create_tenant", json=body).json()["data"]
        key = made["credentials"]
        assert newer.client(key["access_key"], key["secret_key"]).whoami().role == "admin"
        assert codes(http.post("/tenants.delete_tenant", json={"tenant": made["id"], "name": "other"})) == (400, 12)
        assert codes(http.post("/tenants.delete_tenant", json={"tenant": made["id"], "name": "onecall"})) == (200, 0)
        assert not newer.client(key["access_key"], key["secret_key"]).login_ok()


def company_calls(trial, http, name):
    """Make a tenant with the feature of policies; return its client and a way to call resources.* as its admin."""
    tenant = trial.tenant(name)
    auth = (tenant.access_key, tenant._secret.get_secret_value())
    features = {"company": tenant.whoami().company_id, "features": ["resource_policy"]}

    def call(endpoint, **body):
        return http.post(f"/{endpoint}" if "." in endpoint else f"/resources.{endpoint}", json=body, auth=auth)

    assert codes(call("get_policies")) == (403, 20)
    http.post("/system.update_company_settings", json=features)
    return tenant, call


def data(answer):
    assert codes(answer) == (200, 0), answer.json()["meta"]
    return answer.json()["data"]


def with_pool(call, *pools, cost=1):
    """Publish pools by (name, resources) and one profile that is linked to them in order; return its id."""
    data(call("set_resource_configuration", pools=[{"name": name, "resources": size} for name, size in pools]))
    draft = data(call("get_resource_configuration"))["configuration"]
    links = [{"pool": pool["id"], "name": f"to-{pool['name']}"} for pool in draft["pools"]]
    profile = {"name": "one", "profile_cost": cost, "pool_links": links}
    data(call("set_resource_configuration", pools=draft["pools"], profiles=[profile]))
    data(call("publish_resource_configuration"))
    return data(call("get_resource_configuration", edit=False))["configuration"]["profiles"][0]


def with_policy(call, profile, limit):
    group = data(call("permissions.get_user_groups", name="^users$"))["groups"][0]["id"]
    policy = data(call("create_policy", name="share", user_group=group, limit=limit))["id"]
    queue = data(call("connect_policy_profile", policy=policy, profile=profile["id"], queue_name="share-one"))["id"]
    return policy, queue


def test_policies_connect_profiles_to_queues(trial, http):
    """A connection is a queue; deleting the policy takes its queues along."""
    tenant, call = company_calls(trial, http, "policies")
    profile = with_pool(call, ("pool", 4))
    policy, queue = with_policy(call, profile, 2)
    assert tenant.find_queue("share-one").id == queue
    data(call("enable_policy_manager"))
    assert data(call("get_resource_configuration", edit=False))["policy_manager"] == {"enabled": True}
    assert data(call("delete_policy", id=policy))["deleted_queues"] == 1
    assert tenant.find_queue("share-one") is None


def test_a_draft_is_not_in_force_before_it_is_published(trial, http):
    """Pools and profiles wait to be published; a profile without a pool is not; a reset takes the draft away."""
    _, call = company_calls(trial, http, "drafts")
    data(call("set_resource_configuration", pools=[{"name": "pool", "resources": 4}], profiles=[
        {"name": "loose", "profile_cost": 1}]))  # fmt: skip
    assert data(call("get_resource_configuration", edit=False))["configuration"] == {"pools": [], "profiles": []}
    assert data(call("check_edit_configuration")) == {"exists": True}
    assert len(data(call("test_configuration_publishing"))["not_linked_profiles"]) == 1
    assert codes(call("publish_resource_configuration")) == (400, 12)
    data(call("reset_resource_configuration"))
    assert data(call("check_edit_configuration")) == {"exists": False}


@pytest.mark.parametrize(
    ("endpoint", "body", "wanted"),
    [
        ("set_resource_configuration", {"pools": [{"resources": 1}]}, (400, 12)),
        ("set_resource_configuration", {"pools": [{"name": "pool", "resources": -1}]}, (400, 12)),
        ("set_resource_configuration", {"pools": [{"name": "pool", "resources": 1}] * 2}, (400, 801)),
        ("set_resource_configuration", {"pools": [{"id": "nobody", "name": "x", "resources": 1}]}, (400, 10)),
        ("set_resource_configuration", {"profiles": [{"name": "x", "profile_cost": 1, "pool_links": [{"pool": "y"}]}]},
         (400, 10)),
        ("create_policy", {"name": "x"}, (400, 11)),
        ("create_policy", {"name": "x", "user_group": "nobody"}, (400, 10)),
        ("get_policy_data", {"id": "nobody"}, (400, 10)),
        ("delete_policy", {"id": "nobody"}, (400, 10)),
        ("connect_policy_profile", {"policy": "nobody", "profile": "x", "queue_name": "abc"}, (400, 10)),
        ("disconnect_policy_profile", {"queue": "nobody"}, (400, 701)),
    ],
)  # fmt: skip
def test_refusals_of_resources(trial, http, request, endpoint, body, wanted):
    """Each has the sub-code of the table that fits; nothing is changed."""
    number = abs(hash(request.node.name))
    _, call = company_calls(trial, http, f"refused-{number}")
    assert codes(call(endpoint, **body)) == wanted
    assert data(call("get_policies")) == {"policies": []}


def test_the_manager_lets_through_what_policy_and_pools_allow(trial, http):
    """Jobs go to the first pool with room, then spill over, up to the policy's limit; an ended job makes room."""
    tenant, call = company_calls(trial, http, "manager")
    profile = with_pool(call, ("own", 1), ("shared", 5))
    _, queue = with_policy(call, profile, 2)
    own, shared = (link["queue"] for link in profile["pool_links"])
    project = tenant.ensure_project("jobs")
    jobs = [tenant.create_task(project, f"job {number}", {}) for number in range(3)]
    for job in jobs:
        tenant.enqueue_task(job, queue)
    held = {name: [e["task"] for e in data(call("queues.get_by_id", queue=name))["queue"]["entries"]]
            for name in (queue, own, shared)}  # fmt: skip
    assert held == {queue: jobs, own: [], shared: []}, "the manager is off"
    data(call("enable_policy_manager"))
    assert data(call("queues.get_next_task", queue=own))["entry"]["task"] == jobs[0]
    assert data(call("queues.get_next_task", queue=shared))["entry"]["task"] == jobs[1]
    assert data(call("queues.get_next_task", queue=own)) == {}, "the limit holds the third back"
    data(call("tasks.started", task=jobs[0]))
    data(call("tasks.completed", task=jobs[0]))
    assert data(call("queues.get_next_task", queue=own))["entry"]["task"] == jobs[2]


def test_login_rules_are_each_companys_own(trial, http):
    """A domain or address belongs to one company; a company is set up by acting as one of its users."""
    one, two = trial.tenant("rules-one"), trial.tenant("rules-two")
    act = [{"X-Clearml-Act-As": tenant.whoami().user_id} for tenant in (one, two)]
    data(http.post("/login.set_domains", json={"domains": ["one.example"]}, headers=act[0]))
    data(http.post("/login.add_whitelist_entries", json={"emails": ["x@y.example"], "is_admin": True}, headers=act[0]))
    settings = data(http.post("/login.get_settings", headers=act[0]))
    assert settings == {"domains": ["one.example"], "whitelist_entries": [{"email": "x@y.example", "role": "admin"}]}
    assert codes(http.post("/login.set_domains", json={"domains": ["one.example"]}, headers=act[1])) == (400, 801)
    taken = {"emails": ["x@y.example"]}
    assert codes(http.post("/login.add_whitelist_entries", json=taken, headers=act[1])) == (400, 801)
    assert codes(http.post("/login.add_whitelist_entries", json={"emails": ["x"]}, headers=act[1])) == (400, 22)
    assert data(http.post("/login.remove_whitelist_entries", json=taken, headers=act[0])) == {"removed": 1}


def test_providers_are_kept_without_telling_their_secret(trial, http):
    """Only a system user names another company; the secret is never told; what is missing has its code."""
    tenant = trial.tenant("providers")
    company, auth = tenant.whoami().company_id, (tenant.access_key, tenant._secret.get_secret_value())
    settings = {"id": company, "client_id": "ml", "client_secret": "planted-secret"}
    body = {"provider": "keycloak", "company": company, "configuration": settings}
    assert codes(http.post("/sso.save_provider_configuration", json=body, auth=auth)) == (400, 13)
    data(http.post("/sso.save_provider_configuration", json=body))
    answer = http.post("/sso.get_provider_configurations", auth=auth)
    assert [item["provider"] for item in data(answer)["configurations"]] == ["keycloak"]
    assert "planted-secret" not in answer.text
    strange = {**body, "provider": "nobody"}
    assert codes(http.post("/sso.save_provider_configuration", json=strange)) == (400, 12)
    short = {**body, "configuration": {"id": company}}
    assert codes(http.post("/sso.save_provider_configuration", json=short)) == (400, 11)
    gone = {"ids": [company], "company": company}
    assert data(http.post("/sso.delete_provider_configurations", json=gone)) == {"deleted": 1}
    assert data(http.post("/sso.delete_provider_configurations", json=gone)) == {"deleted": 0}


def test_pipeline_start_clones_the_controller(trial, http):
    """start_pipeline queues a clone with the arguments given."""
    tenant = trial.tenant("pipelines")
    auth = (tenant.access_key, tenant._secret.get_secret_value())
    queue = tenant.create_queue("services").id
    task = http.post("/tasks.create", json={"name": "flow", "type": "controller"}, auth=auth).json()["data"]["id"]
    body = {"task": task, "queue": queue, "args": [{"name": "n", "value": 3}], "verify_watched_queue": True}
    made = http.post("/pipelines.start_pipeline", json=body, auth=auth).json()["data"]
    assert made["pipeline"] != task and made["enqueued"] and made["queue_watched"] is False
    found = http.post("/tasks.get_by_id", json={"task": made["pipeline"]}, auth=auth).json()["data"]["task"]
    assert (found["status"], found["hyperparams"]["Args"]["n"]["value"]) == ("queued", "3")


def test_changes_are_recorded_before_and_reads_never(tmp_path):
    """The journal hears what is made, with the company; not reads, refused fields, or what workers report."""
    seen = []
    state = ClearmlState(record=lambda *entry: seen.append((*entry, len(state.companies))))
    with clearml_alone(tmp_path, state) as recorded:
        client = recorded.client()
        client.find_company("red")
        client.create_company("red")
        client.find_company("red")
        assert seen == [("clearml", "clearml", "system.create_company red", 1)]
        tenant = recorded.tenant("blue")
        seen.clear()
        queue = tenant.create_queue("work")
        tenant.create_queue("work")
        assert [entry[:3] for entry in seen] == [("clearml", "blue", "queues.create work")]
        auth = (tenant.access_key, tenant._secret.get_secret_value())
        seen.clear()
        with make_client(recorded.api_url, recorded.ca_file, recorded.resolve, 10, auth) as http:
            http.post("/workers.register", json={"worker": "w", "queues": [queue.id]})
            http.post("/queues.create", json={"name": "agents"}, headers={"X-ClearML-Client": "clearml-agent-k8s-glue"})
            http.post("/queues.create", json={})
        assert seen == []


def test_gate_answers_in_the_servers_place(tmp_path):
    """A fault's response is what the client gets."""
    from aiohttp import web

    async def gate(wire, target, action):
        return web.Response(status=503, text="maintenance") if action == "server.info" else None

    with clearml_alone(tmp_path, gate=gate) as gated:
        with pytest.raises(ApiUnavailableError):
            gated.client().server_info()
        assert gated.client().login_ok()
