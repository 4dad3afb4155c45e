"""Reading a site file: what is accepted, what is refused, all at once, and that no refusal shows a secret."""

from __future__ import annotations

import json
import traceback
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stackwright.domain.errors import Problem, SiteFileError
from stackwright.domain.site_secrets import is_secret_key, looks_secret
from stackwright.domain.site_shape import fields, known_prefix
from stackwright.domain.sitefile import parse_site, site_schema
from stackwright.domain.spec import StackSpec
from stackwright.domain.spec_checks import note_spec
from stackwright.reports.reference import site_reference_markdown

ROOT = Path(__file__).parents[2]
SITES = ROOT / "deployments/sites"
EXAMPLE = (SITES / "example-ha.yaml").read_text(encoding="utf-8")
PLANTED = "Pl4nted-s3cret-value"


def filled_lab() -> str:
    text = (SITES / "lab.yaml").read_text(encoding="utf-8").replace("<lb>", "127.77.3.1").replace("<ca>", "/lab/ca.pem")
    for number, name in enumerate(("srv1", "srv2", "srv3", "wrk1", "wrk2", "wrk3", "gpu1", "gpu2"), start=11):
        text = text.replace(f"<{name}>", f"127.77.3.{number}")
    return text


def refused(text: str) -> dict[str, Problem]:
    """Return the problems of a refused file by their place."""
    with pytest.raises(SiteFileError) as caught:
        parse_site(text, "here.yaml")
    return {problem.where: problem for problem in caught.value.problems}


def changed(old: str, new: str, text: str = EXAMPLE) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def test_the_lab_and_the_example_are_accepted():
    """Both site files that come with the project are parsed, and the example has nothing to be noted."""
    assert parse_site(filled_lab(), "lab.yaml").environment == "lab"
    spec = parse_site(EXAMPLE, "example-ha.yaml")
    assert (len(spec.servers), len(spec.storage_nodes), len(spec.gpu_nodes)) == (3, 4, 4)
    assert note_spec(spec) == ()


def test_the_example_uses_every_section_and_most_keys():
    """A newcomer finds each section, and nearly each key, in the example."""
    document = yaml.safe_load(EXAMPLE)
    assert set(document) == set(StackSpec.model_fields)
    words = set(EXAMPLE.replace(":", " ").replace("{", " ").replace(",", " ").split())
    keys = {path.rsplit(".", 1)[-1] for path in fields()}
    assert len(keys - words) / len(keys) < 0.1, sorted(keys - words)


def test_aliases_and_merge_keys_are_allowed():
    """A node may take over another node's keys."""
    spec = parse_site(EXAMPLE, "x")
    assert spec.nodes[1].roles == spec.nodes[0].roles
    assert spec.nodes[1].address != spec.nodes[0].address


def test_all_problems_come_at_once():
    """Shape, typed secrets and rules across fields are told in one refusal."""
    text = changed("  cni: canal", "  cnii: canal")
    text = changed("kind: rmt", "kind: rmtt", text)
    text = changed("address: 192.0.2.12", "address: 192.0.2.11", text)
    text = changed("cluster_cidr: 10.42.0.0/16", "cluster_cidr: 10.43.0.0/16", text)
    text = changed("tls_san: [k8s.example.com, 192.0.2.5]", "tls_san: [192.0.2.5]", text)
    text = changed("admin_block: example-ha-security", f"values: {{bootstrapPassword: {PLANTED}}}", text)
    text = changed("replicas: 3\n    data_path", "replicas: many\n    data_path", text)
    problems = refused(text)
    assert set(problems) == {
        "rke2.cnii",
        "registration.kind",
        "nodes[1].address",
        "rke2.service_cidr",
        "rke2.tls_san",
        "layers.security.values.bootstrapPassword",
        "layers.storage.replicas",
    }
    assert all(problem.remedy for problem in problems.values())


@pytest.mark.parametrize(
    ("old", "new", "where", "meant"),
    [
        ("  registration_address:", "  registratoin_address:", "rke2.registratoin_address", "registration_address"),
        ("clearml:\n  base_domain", "clearml:\n  basedomain: x\n  base_domain", "clearml.basedomain", "base_domain"),
        ("kind: rmt", "kind: rtm", "registration.kind", "rmt"),
        ("roles: [server]", "roles: [servers]", "nodes[0].roles[0]", "server"),
        ("validation:", "validaton: {}\nvalidation:", "validaton", "validation"),
        ("  rancher:\n", "  ranchr: {}\n  rancher:\n", "layers.ranchr", "rancher"),
        ("vendor: auto", "vendor: autoo", "layers.gpu_operator.vendor", "auto"),
    ],
)
def test_a_typing_error_is_answered_with_what_was_meant(old, new, where, meant):
    """An unknown key or choice gets a `did you mean`."""
    assert f"did you mean `{meant}`?" in refused(changed(old, new))[where].what


def test_a_key_of_another_section_is_sent_there():
    """A known key in the wrong section is answered with the right place."""
    assert refused(changed("site: example-ha", "site: example-ha\ntls_san: []"))["tls_san"].remedy.endswith(
        "rke2.tls_san."
    )


def test_a_wrong_leaf_hides_no_other_rule_and_makes_none_up():
    """With a bad optional value and a missing text set aside, only true problems of the rest are told."""
    text = changed("  registration_address: k8s.example.com\n", "")
    text = changed("join_timeout_s: 2400", "join_timeout_s: soon", text)
    text = changed("name: plat2", "name: Plat2", text)
    assert set(refused(text)) == {"rke2.registration_address", "rke2.join_timeout_s", "nodes[4].name"}


def test_a_wrong_role_makes_up_no_missing_server():
    """A misspelt role is told as such, not as a lost quorum."""
    assert set(refused(changed("roles: [server]", "roles: [sever]"))) >= {"nodes[0].roles[0]"}
    assert "nodes" not in refused(changed("roles: [server]", "roles: [sever]"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "file"),
        ("just words", "file"),
        ("[]", "file"),
        ("null", "file"),
        ("site: [", "line 1, column 8"),
        ("site: x\n\tnodes: []", "line 2, column 1"),
        ("a: *nowhere", "line 1, column 4"),
        ("&a [*a]", "file"),
        ("site: !!python/object:os.system x", "line 1"),
        ("site: a\n---\nsite: b", "line 2"),
        ("? [a]\n: b", "line 1, column 3"),
        ("site: " + "[" * 60 + "]" * 60, "line 1"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in pairwise("abcdefgh")),
            "file",
        ),
        ("site: \x00", "file"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text, where):
    """Broken, endless, multiplying, tagged or nested-away files are refused with the place."""
    assert list(refused(text)) == [where]


def test_a_key_written_twice_is_refused_with_both_lines():
    """YAML lets the second key win unseen; here both lines are named, also below aliases."""
    problem = refused(changed("  cni: canal", "  cni: cilium\n  cni: canal"))["rke2.cni"]
    assert "line" in problem.what and "again on line" in problem.what
    assert "nodes[0].name" in refused(changed("    name: srv1", "    name: srv1\n    name: srv9"))


def test_a_key_that_is_no_text_is_refused():
    """`1:` or `true:` as a label key would reach Kubernetes as another text than written."""
    assert (
        refused(changed("example.com/pool: platform}", "true: x}"))["nodes[3].labels.true"].remedy
        == "Put the key in quotes."
    )


@pytest.mark.parametrize("word", ["yes", "off", "2024-01-02", "0x1F", "1:30", "0777_"])
def test_yaml_surprises_stay_text(word):
    """yes, dates, hexadecimal and base-sixty numbers are text, as they look."""
    assert parse_site(changed("model: NVIDIA-H100-80GB-HBM3", f"model: {word}"), "x").gpu_nodes[0].gpu.model == word


def test_a_version_that_yaml_takes_for_a_number_is_told():
    """1.20 unquoted is the number 1.2: the remedy says quotes."""
    assert "quotes" in refused(changed("version: 2.14.4", "version: 2.14"))["layers.rancher.version"].remedy


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"
AGE = f"AGE-SECRET-KEY-1{'Q' * 58}"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("old", "new", "where", "secret"),
    [
        ("  user: stackwright", f"  user: stackwright\n  password: {PLANTED}", "ssh.password", PLANTED),
        ("  kind: rmt", f"  kind: rmt\n  regcode: {PLANTED}", "registration.regcode", PLANTED),
        ("  api_port: 6443", f"  api_port: 6443\n  token: {PLANTED}", "rke2.token", PLANTED),
        ("  api_port: 6443", "  api_port: 6443\n  token: 4711081500", "rke2.token", "4711081500"),
        (
            "storageReservedPercentageForDefaultDisk: 15",
            f"adminPassword: {PLANTED}",
            "layers.storage.values.defaultSettings.adminPassword",
            PLANTED,
        ),
        (
            "storageReservedPercentageForDefaultDisk: 15",
            f"apiKeys: [{PLANTED}], api_key: {PLANTED}",
            "layers.storage.values.defaultSettings.api_key",
            PLANTED,
        ),
        (
            "{adopt: false}",
            f"{{values: {{apiserver: {{extraEnvs: [{{name: DB_PASSWORD, value: {PLANTED}}}]}}}}}}",
            "layers.clearml.values.apiserver.extraEnvs[0].value",
            PLANTED,
        ),
        ("{adopt: false}", f"{{values: {{licenseKey: {PLANTED}}}}}", "layers.clearml.values.licenseKey", PLANTED),
        ("{adopt: false}", f"{{values: {{note: '{TOKEN}'}}}}", "layers.clearml.values.note", TOKEN),
        (
            "{adopt: false}",
            "{values: {note: AKIAIOSFODNN7EXAMPLE}}",
            "layers.clearml.values.note",
            "AKIAIOSFODNN7EXAMPLE",
        ),
        ("[age1r4xjadfc46ga8zugttwlhdjl2mh44nw873tmgmcc0sa48gsc840s5jpywe]", f"[{AGE}]", "backup.recipients[0]", AGE),
        ("{adopt: false}", f"{{values: {{note: '{PEM}'}}}}", "layers.clearml.values.note", "PRIVATE KEY-"),
        ("  api_port: 6443", f"  api_port: 6443\n  cafe: K10{'ab' * 32}::server:{PLANTED}", "rke2.cafe", PLANTED),
        (
            "endpoint: https://s3.example.com:9000",
            f"endpoint: https://admin:{PLANTED}@s3.example.com",
            "backup.endpoint",
            PLANTED,
        ),
        ("key_block: example-ha-ssh", f"key_block: {PLANTED}!", "ssh.key_block", PLANTED),
        ("site: example-ha #", f"# https://admin:{PLANTED}@host/\nsite: example-ha #", "line 11", PLANTED),
        ("site: example-ha #", f"site: [ password: {PLANTED} ' \n#", "line 13, column 1", PLANTED),
        ("site: example-ha #", f"site: *{PLANTED}\nx: 1 #", "line 11, column 7", PLANTED),
        ("[max-pods=200,", f"[max-pods=200, 'token=https://a:{PLANTED}@b',", "rke2.kubelet_args[1]", PLANTED),
    ],
)
def test_a_typed_secret_is_refused_and_shown_nowhere(old, new, where, secret):
    """The refusal names the place; message, repr, fields and traceback hold no trace of the secret."""
    try:
        parse_site(changed(old, new), "here.yaml")
    except SiteFileError as error:
        problems = {problem.where for problem in error.problems}
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.problems) + repr(error.args)
    assert where in problems
    assert secret not in shown


@pytest.mark.parametrize("value", ["${secret:my-block}", "${secret:my-block.password}", "''", "true", "null"])
def test_markers_and_empty_values_are_no_secrets(value):
    """What names a block, or says nothing, is accepted under a secret's key."""
    parse_site(
        changed("storageReservedPercentageForDefaultDisk: 15", f'password: "{value}"'.replace("\"''\"", "''")), "x"
    )


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("password", True),
        ("harborAdminPassword", True),
        ("DB_PASSWORD", True),
        ("apiKey", True),
        ("apikey", True),
        ("access_key", True),
        ("accessKey", True),
        ("private-key", True),
        ("regcode", True),
        ("licence", True),
        ("tokens", True),
        ("CLEARML__secure__credentials__supervisor__user_key", True),
        ("secretName", False),
        ("existingSecret", False),
        ("imagePullSecret", False),
        ("tlsSecret", False),
        ("key_block", False),
        ("host_key", False),
        ("key", False),
        ("auth_cookie_name", False),
        ("tokenTTL", False),
        ("passwordSecretName", False),
        ("compass", False),
        ("", False),
    ],
)
def test_which_keys_hold_secrets(key, secret):
    """Keys are read by their last words, in any spelling; names of Kubernetes Secrets are none."""
    assert is_secret_key(key) is secret


def test_no_key_of_the_spec_is_taken_for_a_secret():
    """The site file's own keys never clash with the search for secrets."""
    texts = {path.rsplit(".", 1)[-1] for path, field in fields().items() if not field.kind.startswith("map")}
    assert not {key for key in texts if is_secret_key(key)}
    assert not looks_secret(EXAMPLE)


def test_the_schema_is_a_schema_of_this_file():
    """The JSON Schema names its draft, describes keys, forbids unknown ones and knows each section of the example."""
    schema = site_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["title"] and schema["additionalProperties"] is False
    assert set(yaml.safe_load(EXAMPLE)) <= set(schema["properties"])
    assert "description" in schema["$defs"]["Rke2"]["properties"]["version"]
    assert json.loads(json.dumps(schema)) == schema


def test_known_prefix_cuts_what_pydantic_adds():
    """Members of unions in a place of pydantic's are left out."""
    loc = ("layers", "gpu_operator", "vendor", "literal['auto']")
    assert known_prefix(loc) == loc[:3]


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates())
keys = st.one_of(
    st.sampled_from(sorted({path.rsplit(".", 1)[-1] for path in fields()})), st.text(max_size=8), st.integers()
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


def never_anything_else(text: str) -> None:
    try:
        parse_site(text, "x")
    except SiteFileError as error:
        assert error.problems
        assert str(error)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=150, deadline=None, database=None)
def test_any_text_is_accepted_or_refused(text):
    """Nothing but SiteFileError leaves parse_site, whatever the text."""
    never_anything_else(text)


@given(st.text(alphabet="ab:-[]{}&*!|>%@`'\"#?,<~ \n\t01.x_", max_size=60))
@settings(max_examples=200, deadline=None, database=None)
def test_any_yaml_like_text_is_accepted_or_refused(text):
    """Nothing but SiteFileError leaves parse_site, whatever YAML's own signs do."""
    never_anything_else(text)


@given(st.data(), trees)
@settings(max_examples=50, deadline=None, database=None)
def test_any_value_at_any_place_is_accepted_or_refused(data, value):
    """Nothing but SiteFileError leaves parse_site when a key of the example holds anything at all."""
    document = yaml.safe_load(EXAMPLE)
    owner, steps = document, data.draw(st.integers(1, 4))
    for _ in range(steps):
        places = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        if not places:
            break
        place = data.draw(st.sampled_from(places))
        if isinstance(owner[place], dict | list) and _ < steps - 1:
            owner = owner[place]
        else:
            owner[place] = value
            break
    never_anything_else(yaml.safe_dump(document, allow_unicode=True))


def test_the_reference_is_fresh():
    """docs/site-file.md is what the models say now; `python -m stackwright.reports.reference` writes it."""
    text = (ROOT / "docs/site-file.md").read_text(encoding="utf-8")
    assert text == site_reference_markdown()
    assert all(f"`{path}`" in text for path in fields())
