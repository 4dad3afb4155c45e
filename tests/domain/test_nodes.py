"""Node preparation as a table: which facts ask for which steps, with which effects, and what forbids any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain import node_wants as wants
from stackwright.domain.node_facts import FactUnknownError, GpuFacts, _Looker, _swap_units, family_of
from stackwright.domain.nodes import check_node, check_nodes, plan_node
from stackwright.domain.plan import Effect
from stackwright.domain.shell import Section
from tests.domain.nodes_seen import OFF, ON, make_spec, member, node, prepared

SPEC = make_spec()


def steps(name="w1", spec=SPEC, **changes):
    return {
        change.step.id.rpartition("/")[2]: change
        for change in plan_node(spec, node(spec, name), prepared(spec, name, **changes))
    }


@pytest.mark.parametrize("name", ["s1", "w1", "g1"])
def test_a_prepared_node_needs_nothing(name):
    assert steps(name) == {}


FSTAB = "/dev/vda2 / btrfs defaults 0 0\n/dev/vda3 swap swap defaults 0 0\n"
# What is seen, which step mends it, its effect, and what its script must hold.
CASES = [
    ({"products": {"SLES/15.7/x86_64": "Registered"}}, "products", Effect.FILE, "-p sle-module-containers/15.7/x86_64"),
    ({"packages": frozenset()}, "packages", Effect.FILE, "zypper --non-interactive install"),
    ({"hostname": "localhost"}, "hostname", Effect.FILE, "hostnamectl set-hostname w1"),
    ({"files": {wants.HOSTS: "127.0.0.1 localhost\n"}}, "hosts", Effect.FILE, "/etc/hosts"),
    ({"files": {wants.CHRONY: None}}, "time", Effect.SERVICE_RESTART, "systemctl restart chronyd"),
    ({"units": {"chronyd.service": OFF}}, "time", Effect.SERVICE_RESTART, "systemctl enable chronyd"),
    ({"swaps": ("/dev/vda3",)}, "swap", Effect.FILE, "swapoff -a"),
    ({"files": {wants.FSTAB: FSTAB}}, "swap", Effect.FILE, "/etc/fstab"),
    ({"swap_units": ("dev-vda3.swap",)}, "swap", Effect.FILE, "systemctl mask dev-vda3.swap"),
    ({"modules": frozenset({"overlay"})}, "modules", Effect.FILE, "modprobe -a br_netfilter"),
    ({"files": {wants.MODULES_FILE: None}}, "modules", Effect.FILE, wants.MODULES_FILE),
    ({"files": {wants.SYSCTL_FILE: None}}, "sysctl", Effect.FILE, f"sysctl -q -p {wants.SYSCTL_FILE}"),
    ({"units": {"firewalld.service": ON}}, "firewall", Effect.SERVICE_RESTART, "disable --now firewalld"),
    ({"units": {"iscsid.service": OFF}}, "iscsi", Effect.FILE, "enable --now iscsid"),
    ({"units": {"multipathd.service": ON}}, "multipath", Effect.SERVICE_RESTART, "disable --now multipathd.service"),
    ({"units": {"NetworkManager.service": ON}}, "network-manager", Effect.FILE, "systemctl reload NetworkManager"),
    ({"units": {"nm-cloud-setup.timer": ON}}, "network-manager", Effect.FILE, "disable --now nm-cloud-setup.timer"),
    ({"reboot_needed": True}, "reboot-packages", Effect.REBOOT, "systemctl reboot"),
]


@pytest.mark.parametrize(("seen", "what", "effect", "text"), CASES)
def test_each_difference_is_mended_by_one_step(seen, what, effect, text):
    found = steps(**seen)
    assert [*found] == [what]
    assert found[what].step.effect is effect
    assert text in found[what].script


def test_a_half_done_step_is_the_same_step():
    """What is approved is what is wanted: fewer missing packages do not make another step."""
    all_missing = steps(packages=frozenset())["packages"].step
    one_missing = steps(packages=frozenset(wants.packages(SPEC, "sles15", "apparmor")[1:]))["packages"].step
    assert all_missing.fingerprint == one_missing.fingerprint


def test_servers_of_a_hardened_cluster_get_the_etcd_user():
    assert "useradd -r" in steps("s1", users=frozenset({"root"}), groups=frozenset({"root"}))["cis-user"].script
    assert steps("w1", users=frozenset({"root"}), groups=frozenset({"root"})) == {}
    assert wants.CIS_SYSCTLS.items() <= wants.sysctls(SPEC).items()


def test_no_step_text_holds_the_registration_code():
    """The code goes over standard input, from a variable that only the sent script sets."""
    change = steps(products={})["register"]
    assert change.secrets["code"].block == "suse"
    assert '"$code" | SUSEConnect -r -' in change.script


def test_sl_micro_installs_into_a_snapshot_and_reboots_at_once():
    """Packages need transactional-update; nothing that needs them comes before the reboot."""
    found = steps(family="slmicro", security="selinux", packages=frozenset(), units={"iscsid.service": OFF})
    assert [*found] == ["packages", "reboot-packages", "iscsi"]
    assert "transactional-update --non-interactive --continue pkg install" in found["packages"].script
    assert found["reboot-packages"].step.effect is Effect.REBOOT


def test_sles16_gets_the_selinux_policy():
    spec = make_spec(rke2__selinux=True)
    assert "rke2-selinux" in wants.packages(spec, "sles16", "selinux")
    assert "rke2-selinux" not in wants.packages(spec, "sles15", "apparmor")


def test_rmt_trusts_its_ca_by_fingerprint_only():
    spec = make_spec(registration={"kind": "rmt", "url": "https://rmt.example.com", "ca_fingerprint": "AA:BB"})
    script = steps(spec=spec, products={})["register"].script
    assert "aabb" in script and "--url https://rmt.example.com" in script and "-r" not in script.split("SUSEConnect")[1]


@pytest.mark.parametrize(
    ("units", "files", "text"),
    [
        ({"NetworkManager.service": ON}, {wants.NM_FILE: wants.network_manager_file(SPEC)}, "reload NetworkManager"),
        ({}, {wants.NETCONFIG: 'NETCONFIG_DNS_STATIC_SERVERS=""\n'}, "netconfig update -f"),
        ({}, {}, "/etc/resolv.conf"),
    ],
)
def test_name_servers_go_where_the_nodes_own_tool_keeps_them(units, files, text):
    spec = make_spec(dns__servers=["192.0.2.99"])
    assert text in steps(spec=spec, units=units, files=files)["resolver"].script


def test_open_ports_mode_names_ports_and_trusted_networks():
    spec = make_spec(firewall__mode="open-ports")
    script = steps("s1", spec=spec, units={"firewalld.service": ON})["firewall"].script
    assert "--add-port=9345/tcp" in script and "--zone=trusted --add-source=10.42.0.0/16" in script
    agent = steps("w1", spec=spec, units={"firewalld.service": ON})["firewall"].script
    assert "9345" not in agent and "8472/udp" in agent


def test_networkmanager_under_a_running_cluster_needs_a_reboot():
    """It lets go of the pod network's interfaces only then, and the plan says so."""
    facts = member(SPEC, "w1", units={"NetworkManager.service": ON})
    assert [change.step.effect for change in plan_node(SPEC, node(SPEC, "w1"), facts)] == [Effect.FILE, Effect.REBOOT]


def test_hosts_and_fstab_keep_what_is_not_ours():
    seen = "127.0.0.1 localhost\n# stackwright begin\n1.2.3.4 old\n# stackwright end\n10.0.0.1 mine\n"
    assert wants.hosts_file(SPEC, seen) == (
        "127.0.0.1 localhost\n10.0.0.1 mine\n# stackwright begin\n192.0.2.10 k8s.example.com\n# stackwright end\n"
    )
    text = wants.fstab_without_swap(FSTAB)
    assert wants.fstab_without_swap(text) == text
    assert text.startswith("/dev/vda2 / btrfs") and "\n# stackwright" in text


def problems(name="w1", spec=SPEC, **changes):
    return [str(found) for found in check_node(spec, node(spec, name), prepared(spec, name, **changes))]


@pytest.mark.parametrize(
    ("name", "seen", "text"),
    [
        ("w1", {"family": "other", "os": "Debian"}, "not supported"),
        ("w1", {"family": "sles16", "security": "selinux"}, "rke2.selinux: true"),
        ("w1", {"cpus": 1}, "too few cores"),
        ("w1", {"memory_gib": 1.9}, "too little memory"),
        ("w1", {"default_route": False}, "default route"),
        ("w1", {"files": {wants.RESOLV: "nameserver 127.0.0.53\n"}}, "only local addresses"),
        ("w1", {"offset_ms": 900.0}, "the clock is off"),
        ("g1", {"gpu": GpuFacts("", 0)}, "no GPU driver"),
        ("g1", {"gpu": GpuFacts("580", 1)}, "fewer GPUs"),
        ("w1", {"multipath_maps": 2}, "multipath devices are in use"),
        ("w1", {"units": {"rke2-server.service": ON}}, "runs rke2-server"),
    ],
)
def test_what_no_step_mends_is_a_problem(name, seen, text):
    found = problems(name, **seen)
    assert len(found) == 1 and text in found[0]


def test_data_without_a_token_is_never_wiped():
    facts = member(SPEC, "s1", rke2={"has_token": False})
    assert "older cluster" in str(check_node(SPEC, node(SPEC, "s1"), facts)[0])


def test_an_unsynchronised_clock_without_servers_is_a_problem():
    assert "not synchronised" in problems(spec=make_spec(time={"servers": []}), offset_ms=None)[0]


def test_clones_and_skewed_clocks_show_when_nodes_are_compared():
    facts = {name: prepared(SPEC, name) for name in ("s1", "s2", "w1")}
    assert check_nodes(SPEC, facts) == []
    facts["s2"] = replace(facts["s2"], machine_id="machine-s1", clock_s=9.0)
    found = [problem.what for problem in check_nodes(SPEC, facts)]
    assert found == ["the same machine id as s1", "the nodes' clocks differ"]


@pytest.mark.parametrize(
    ("clock_s", "error_s", "refused"),
    [(2.1, 0.0, True), (-2.1, 0.0, True), (1.9, 0.0, False), (2.6, 1.3, False), (5.0, 1.3, True), (-5.0, 1.3, True)],
)
def test_a_slow_answer_is_not_taken_for_a_slow_clock(clock_s, error_s, refused):
    """A difference counts by what is left of it when the time that the answer took is taken off."""
    facts = {name: prepared(SPEC, name) for name in ("s1", "s2", "w1")}
    facts["s2"] = replace(facts["s2"], clock_s=clock_s, clock_error_s=error_s)
    assert bool(check_nodes(SPEC, facts)) is refused


@pytest.mark.parametrize(
    ("name", "version", "family"),
    [("sles", "15.7", "sles15"), ("sles", "16.0", "sles16"), ("sl-micro", "6.1", "slmicro"), ("debian", "12", "other")],
)
def test_systems_are_told_apart(name, version, family):
    assert family_of({"ID": name, "VERSION_ID": version}) == family


def test_the_journal_tells_what_was_interrupted():
    lines = ("begin node/w1/swap f r", "end node/w1/swap 0", "begin node/w1/packages f r")
    assert prepared(SPEC, "w1", journal=lines).interrupted == ("node/w1/packages",)


@pytest.mark.parametrize(
    ("section", "units"),
    [
        (Section(1, ""), ()),  # systemd 252: no unit file matches
        (Section(0, ""), ()),
        (Section(0, "dev-vda3.swap generated -\ndev-zram0.swap masked enabled\n"), ("dev-vda3.swap",)),
    ],
)
def test_a_host_without_swap_units_is_no_unknown_fact(section, units):
    assert _swap_units(_Looker(SPEC.nodes[0], {"swap_units": section})) == units


def test_swap_units_that_could_not_be_listed_are_unknown():
    with pytest.raises(FactUnknownError):
        _swap_units(_Looker(SPEC.nodes[0], {"swap_units": Section(127, "")}))
