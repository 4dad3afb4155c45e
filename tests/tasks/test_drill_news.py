"""What people read of a drill: the page of a pass, of a failure, and of a restore that was right but too slow."""

from __future__ import annotations

from stackwright.domain.bundle_checks import fault
from stackwright.domain.drill import Subject, Times, judge_drill
from tasks.drill_news import SHARES, TOO_SLOW, drill_markdown, reason_of
from tests.domain.drill_samples import manifest, restored, spec

BACKUP = spec().backup
BEGAN = manifest().created_s + 7200


def judged(seen=None, faults=(), took_s=60.0):
    times = Times(BEGAN, BEGAN, BEGAN + took_s) if seen else Times(BEGAN)
    subject = Subject(manifest().id, manifest(), opened=True)
    return judge_drill(subject, BACKUP, BACKUP.drill, times, seen, faults)


def test_a_pass_says_what_the_score_is_made_of():
    found = judged(restored())
    page = drill_markdown("north", found)
    assert "proven" in page and "100 of 100" in page and "| RTO" not in page and "60.0 s" in page and "2.0 h" in page
    assert set(SHARES) == set(found.parts) and all(f"| {name} |" in page for name in SHARES)
    assert reason_of(found) == "" and "What was found" not in page


def test_a_failure_names_its_reason_and_the_remedy():
    found = judged(None, [fault("wrong-token", "here", "the token opens nothing", remedy="Use another bundle.")])
    page = drill_markdown("north", found)
    assert "failed: **wrong-token**" in page and "15 of 100" in page and "not reached" in page
    assert "the token opens nothing" in page and "Use another bundle." in page
    assert reason_of(found) == "wrong-token"


def test_a_slow_restore_fails_though_its_bundle_is_proven():
    found = judged(restored(), took_s=9000.0)
    assert found.passed and reason_of(found) == TOO_SLOW and "rto-missed" in drill_markdown("north", found)


def test_without_any_bundle_there_is_a_page_too():
    found = judge_drill(Subject(), BACKUP, BACKUP.drill, Times(BEGAN), None, [fault("no-bundle", "store", "none")])
    page = drill_markdown("north", found)
    assert "none found" in page and found.score == 0
    assert "0.0 h" not in page and "| bundle's age | not known |" in page and "| objects counted | none |" in page
