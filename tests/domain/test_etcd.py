"""What an etcd says, parsed from captured answers and, where etcd is installed, asked of a real process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stackwright.domain.etcd import DEFAULT_QUOTA, Alarm, EtcdMember, fsync_p99, parse_etcd
from tests.domain.real_etcd import INSTALLED, RealEtcd

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"etcd-3.4-{name}.txt").read_text()


def test_a_healthy_member_is_read():
    """Captured from etcd 3.4.23: ids and numbers as text, what is zero or false left out."""
    view = parse_etcd(captured("healthy"))
    assert view.readable and view.healthy is True and view.leads and view.version == "3.4.23"
    assert view.id == view.leader == "13298631136081848302" and view.cluster == "18321804122770332353"
    assert (view.term, view.index, view.applied, view.db_size) == (2, 6, 6, 20480)
    assert [(one.name, one.node, one.learner) for one in view.members] == [("s1-0badcafe", "s1", False)]
    assert view.alarms == () and view.errors == ()
    assert view.quota == DEFAULT_QUOTA and view.db_used_pct < 0.01
    assert 0.001 < view.fsync_p99_s < 0.01
    assert view.disk_free == 82272653312 and view.disk_size == 270553174016
    assert view.certificate_days in (364, 365) and view.started.startswith("1795679")


def test_an_alarm_and_a_new_learner_are_read():
    """The learner has no name yet; the alarm names its member."""
    view = parse_etcd(captured("alarm-and-learner"))
    assert view.alarms == (Alarm("13298631136081848302", "NOSPACE"),) and view.errors == ()
    assert view.healthy is False
    new = next(one for one in view.members if one.learner)
    assert new == EtcdMember("17558655586172864490", "", True, ("https://192.0.2.12:2380",)) and "192.0.2.12" in str(
        new
    )


def test_a_member_without_a_quorum_still_says_so():
    """The alarms cannot be asked for then; list and status are the member's own."""
    view = parse_etcd(captured("no-quorum"))
    assert view.readable and view.leader == "" and not view.leads and view.healthy is False
    assert view.errors == ("etcdserver: no leader",) and len(view.members) == 2


def test_later_releases_say_more():
    """etcd 3.6 tells its quota, and gateways may write keys without underscores."""
    text = captured("healthy").replace('"version":"3.4.23"', '"version":"3.6.4","dbSizeQuota":"1073741824"')
    text = text.replace("cluster_id", "clusterId").replace("member_id", "memberId")
    view = parse_etcd(text)
    assert view.quota == 1 << 30 and view.cluster == "18321804122770332353" and view.id == view.leader


@pytest.mark.parametrize("unit", ["inactive", "failed", ""])
def test_no_etcd_is_none_only_where_none_should_run(unit):
    """Looked, and there is none: no certificates, or nobody listens, and the unit is down."""
    assert parse_etcd(f"unit {unit}\n") is None
    assert parse_etcd(f"unit {unit}\ndisk 100 50\n\n\n\nrc 7\n") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unit active\ndisk 100 50\n", "nobody listens"),
        ("unit activating\ndisk 100 50\nrc 7\n", "nobody listens"),
        ("unit active\ndisk 100 50\nrc 28\n", "curl ends with 28"),
        ("unit inactive\ndisk 100 50\nrc 35\n", "curl ends with 35"),
        ("unit active\ndisk 100 50\n{}\n{}\n{}\nrc 0\n", "no member or no term"),
        ("unit active\ndisk 100 50\n{}\n{]\n{}\nrc 0\n", "not those of an etcd"),
        ('unit active\ndisk 100 50\n{"raftTerm":"x"}\n{"members":[{"ID":"1"}]}\n{}\nrc 0\n', "not those of an etcd"),
    ],
)
def test_unknown_is_not_absent(text, words):
    """An etcd that should answer and does not is a view that is not readable, with the reason; its disk is known."""
    view = parse_etcd(text)
    assert view is not None and not view.readable and words in view.problem and view.disk_free == 50


def test_what_is_missing_beside_the_answers_is_unknown():
    lines = captured("healthy").splitlines()
    view = parse_etcd("\n".join(line for line in lines if not line.startswith(("metric", "health", "cert", "disk"))))
    assert view.readable and (view.healthy, view.fsync_p99_s, view.certificate_days, view.disk_free) == (None,) * 4
    assert view.quota == DEFAULT_QUOTA


def histogram(*pairs):
    name = "etcd_disk_wal_fsync_duration_seconds_bucket"
    return {f'{name}{{le="{"+Inf" if bound == math.inf else bound}"}}': float(count) for bound, count in pairs}


@pytest.mark.parametrize(
    ("buckets", "seconds"),
    [
        (((0.1, 0), (0.2, 100), (math.inf, 100)), 0.199),
        (((0.1, 98), (0.2, 100), (math.inf, 100)), 0.15),
        (((0.1, 100), (0.2, 100), (math.inf, 100)), 0.099),
        (((0.1, 0), (0.2, 0), (math.inf, 100)), 0.2),
        (((0.1, 0), (math.inf, 0)), None),
        (((0.1, 5),), None),
        ((), None),
    ],
)
def test_the_99th_percentile_is_interpolated_like_prometheus_does(buckets, seconds):
    found = fsync_p99(histogram(*buckets))
    assert found is None if seconds is None else found == pytest.approx(seconds)


@pytest.mark.parametrize(("name", "node"), [("s1-0badcafe", "s1"), ("gpu-a-1-00000001", "gpu-a-1"), ("plain", "plain")])
def test_a_members_name_holds_its_nodes(name, node):
    assert EtcdMember("1", name, False).node == node


# --- a real process --------------------------------------------------------------------------------------------------

needs_etcd = pytest.mark.skipif(INSTALLED is None, reason="etcd is not installed")


@needs_etcd
def test_a_real_etcd_is_read_over_mutual_tls(tmp_path):
    """The product's script against it: healthy; with an alarm and a learner; stopped."""
    etcd = RealEtcd(tmp_path)
    with etcd.running():
        view = parse_etcd(etcd.ask())
        assert view.readable and view.healthy and view.leads and view.fsync_p99_s is not None
        assert view.members[0].node == "s1" and view.disk_free and view.certificate_days in (364, 365)
        assert parse_etcd(etcd.ask()).started == view.started != ""
        etcd.post("maintenance/alarm", f'{{"action":"ACTIVATE","memberID":"{view.id}","alarm":"CORRUPT"}}')
        etcd.post("cluster/member/add", '{"peerURLs":["https://192.0.2.12:2380"],"isLearner":true}')
        worse = parse_etcd(etcd.ask())
        assert worse.alarms == (Alarm(view.id, "CORRUPT"),) and worse.healthy is False
        assert [one.learner for one in worse.members if not one.name] == [True]
    assert parse_etcd(etcd.ask("inactive")) is None
    gone = parse_etcd(etcd.ask("active"))
    assert gone is not None and not gone.readable


@needs_etcd
def test_a_real_etcd_without_a_quorum_is_seen_as_such(tmp_path):
    """A second voter was added that does not run: the first one lists both, and follows nobody."""
    etcd = RealEtcd(tmp_path)
    with etcd.running():
        etcd.post("cluster/member/add", '{"peerURLs":["https://192.0.2.12:2380"]}')
        for _ in range(10):
            view = parse_etcd(etcd.ask())
            if not view.leader:
                break
        assert view.readable and view.leader == "" and len(view.members) == 2 and view.healthy is False


@needs_etcd
def test_a_real_etcd_lets_nobody_in_without_its_certificate(tmp_path):
    """A host whose client certificate is another authority's: no answer, with curl's own reason."""
    etcd, other = RealEtcd(tmp_path / "a"), RealEtcd(tmp_path / "b")
    with etcd.running():
        other.client, other.metrics = etcd.client, etcd.metrics
        view = parse_etcd(other.ask())
        assert view is not None and not view.readable and "curl ends with" in view.problem
