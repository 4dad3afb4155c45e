"""Helm releases as values: what is wanted, what was seen, and the one rule that says what may be done about it.

Pure. Running helm is in clients/helm.py; which layers may be rolled back is said by the layer, not here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import SecretStr

from stackwright.domain.errors import Problem
from stackwright.domain.versions import parse_chart

VALUES_LABEL = "stackwright.io/values"
SITE_LABEL = "stackwright.io/site"
LAYER_LABEL = "stackwright.io/layer"
RUN_LABEL = "stackwright.io/run"

# A digest of a secret is slow on purpose: who reads the label must not be able to try passwords against it.
SECRET_DIGEST_ROUNDS = 20_000
HASH_CHARS = 40  # 160 bits; a label value holds at most 63 characters
PENDING = frozenset({"pending-install", "pending-upgrade", "pending-rollback"})
RETRYABLE = frozenset({"failed", "superseded"})

Act = Literal["uninstall", "drop-revision", "rollback", "apply"]
ActionKind = Literal[
    "install",
    "nothing",
    "upgrade",
    "retry-failed",
    "recover-pending-install",
    "recover-pending-upgrade",
    "uninstall",
    "refuse-foreign",
    "refuse-downgrade",
    "refuse-busy",
    "refuse-state",
]


@dataclass(frozen=True)
class ReleaseWant:
    """One release as the site wants it. Secrets stand in `values` as SecretStr, never as plain text.

    `chart` is `oci://host/path/name`, a path to a folder or .tgz, or, with `repo` (a URL), the chart's name there.
    `chart_name` is the name inside the chart when it differs from the last part of `chart`.
    """

    name: str
    namespace: str
    chart: str
    version: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    repo: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    chart_name: str = ""
    site: str = ""
    adopt: bool = False
    """Take over a release that carries no label of ours."""
    rollback_ok: bool = True
    """False for products whose data or CRDs migrate: a rollback of the chart alone would break them."""
    create_namespace: bool = False
    force_conflicts: bool = False
    """Take fields back that another writer owns (helm 4). Without it such a conflict is an error."""
    timeout_s: int = 300
    """How long helm waits for each hook."""

    @property
    def hash(self) -> str:
        """The digest of the values, as it stands in the label."""
        return values_hash(self.values, salt=f"{self.namespace}/{self.name}")

    @property
    def named(self) -> str:
        """The chart's own name."""
        return self.chart_name or chart_base_name(self.chart)

    def all_labels(self) -> dict[str, str]:
        """Return every label that the release carries in Helm's storage."""
        ours = {VALUES_LABEL: self.hash}
        if self.site:
            ours[SITE_LABEL] = self.site
        return {**self.labels, **ours}


@dataclass(frozen=True)
class Release:
    """One release as helm reports its newest revision. `chart` is the chart's name without the version."""

    name: str
    namespace: str
    status: str
    chart: str
    version: str
    revision: int
    labels: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    updated: datetime | None = None
    app_version: str = ""

    @property
    def values_hash(self) -> str:
        """The digest that the last writer left, or an empty string."""
        return self.labels.get(VALUES_LABEL, "")

    @property
    def storage_secret(self) -> str:
        """Name of the Secret that holds this revision. Helm: Advanced techniques, storage backends."""
        return storage_secret(self.name, self.revision)


@dataclass(frozen=True)
class ReleaseFacts:
    """What is known beside the release: the time, and whether the run that started the last change is known to be dead.

    A run is known dead when this run holds the site's lease and no helm of its own is at work.
    """

    now: datetime
    run_dead: bool = False
    pending_limit_s: float = 900.0


@dataclass(frozen=True)
class ReleaseAction:
    """What to do, in which acts, and why. A refusal has a problem with its remedy and no acts."""

    kind: ActionKind
    why: str
    acts: tuple[Act, ...] = ()
    problem: Problem | None = None

    @property
    def refused(self) -> bool:
        return self.problem is not None

    @property
    def changes(self) -> bool:
        return bool(self.acts)


def storage_secret(name: str, revision: int) -> str:
    """Return the name of the Secret that holds one revision of a release."""
    return f"sh.helm.release.v1.{name}.v{revision}"


def values_hash(values: Mapping[str, Any], *, salt: str = "") -> str:
    """Return a digest of Helm values that is equal exactly when Helm would see equal values.

    Key order and the way a number is written make no difference. A secret goes in as a slow digest salted with `salt`
    and its path, so a changed secret changes the hash and the hash does not give the secret away.
    """
    text = json.dumps(
        _canonical(values, salt), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with every secret opened: for helm's standard input and nothing else."""
    return {str(key): _opened(value) for key, value in values.items()}


def secrets_in(values: Any) -> Iterator[str]:
    """Yield the plain text of every secret in a tree of values: to redact what a tool prints."""
    if isinstance(values, SecretStr):
        yield values.get_secret_value()
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from secrets_in(value)
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        for value in values:
            yield from secrets_in(value)


def chart_base_name(chart: str) -> str:
    """Return a chart's name from its address: the last part, without version suffix of an archive."""
    last = chart.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"-v?\d+\.\d+\.\d+.*\.tgz$", "", last).removesuffix(".tgz").split("@")[0]


def decide_release(want: ReleaseWant, seen: Release | None, facts: ReleaseFacts) -> ReleaseAction:
    """Say what may be done to bring one release to what is wanted.

    Nothing is taken over, downgraded or unlocked silently: each such case is a refusal that names its remedy.
    """
    if seen is None or seen.status == "uninstalled":
        return ReleaseAction("install", "there is no such release", ("apply",))
    refusal = _foreign(want, seen) or _downgrade(want, seen)
    if refusal:
        return refusal
    if seen.status in PENDING:
        return _pending(want, seen, facts)
    if seen.status == "deployed":
        return _deployed(want, seen)
    if seen.status in RETRYABLE:
        # Not the description: helm puts the server's words into it, and they may quote a value.
        return ReleaseAction("retry-failed", f"revision {seen.revision} is {seen.status}", ("apply",))
    return _refuse(
        "refuse-state",
        want,
        f"the release is {seen.status}",
        seen.status,
        f"Find what holds it with `helm status {want.name} -n {want.namespace}`; mend the hook or finalizer, repeat "
        f"`helm uninstall {want.name} -n {want.namespace}`, or go back with `helm rollback`.",
        wanted="deployed",
    )


def _foreign(want: ReleaseWant, seen: Release) -> ReleaseAction | None:
    owner = seen.labels.get(SITE_LABEL)
    if owner is not None and want.site and owner != want.site:
        remedy = f"Use the site file of {owner}; if that site is gone, uninstall the release first."
        return _refuse("refuse-foreign", want, "the release belongs to another site", owner, remedy, wanted=want.site)
    if owner is None and VALUES_LABEL not in seen.labels and not want.adopt:
        remedy = (
            "Set `adopt: true` for this layer to take the release over (it gets new values), or uninstall it first."
        )
        return _refuse(
            "refuse-foreign", want, "the release was not made by Stackwright", f"{seen.chart} {seen.version}", remedy
        )
    if seen.chart != want.named:
        remedy = (
            f"Moving to {want.named} is a migration: follow the vendor's procedure, or uninstall {want.name} first."
        )
        return _refuse(
            "refuse-foreign", want, "the release was made from another chart", seen.chart, remedy, wanted=want.named
        )
    return None


def _downgrade(want: ReleaseWant, seen: Release) -> ReleaseAction | None:
    newer, wanted = parse_chart(seen.version), parse_chart(want.version)
    if newer is None or wanted is None or newer <= wanted:
        return None
    remedy = (
        f"Set the layer's version to {seen.version} or newer; to go back, restore a backup from before the upgrade."
    )
    return _refuse(
        "refuse-downgrade", want, "the release is newer than wanted", seen.version, remedy, wanted=want.version
    )


def _pending(want: ReleaseWant, seen: Release, facts: ReleaseFacts) -> ReleaseAction:
    age_s = (facts.now - seen.updated).total_seconds() if seen.updated else math.inf
    if not facts.run_dead and age_s <= facts.pending_limit_s:
        until = timedelta(seconds=round(facts.pending_limit_s - age_s))
        remedy = f"Let that run end. If it is dead, start again in {until}, or after it lost the site's lease."
        return _refuse(
            "refuse-busy",
            want,
            f"another helm is at work for {round(age_s)} s",
            seen.status,
            remedy,
            wanted="no pending change",
        )
    why = f"revision {seen.revision} was left {seen.status}" + (
        ", its run is dead" if facts.run_dead else f" for {age_s:.0f} s"
    )
    if seen.status == "pending-install":
        # Where the data would suffer, the objects stay and the install takes them over: they carry the release's name.
        return ReleaseAction(
            "recover-pending-install", why, ("uninstall" if want.rollback_ok else "drop-revision", "apply")
        )
    return ReleaseAction("recover-pending-upgrade", why, ("rollback" if want.rollback_ok else "drop-revision", "apply"))


def _deployed(want: ReleaseWant, seen: Release) -> ReleaseAction:
    reasons = []
    if seen.version.removeprefix("v") != want.version.removeprefix("v"):
        reasons.append(f"version {seen.version} -> {want.version}")
    if seen.values_hash != want.hash:
        reasons.append("adopted" if not seen.values_hash else "values changed")
    if reasons:
        return ReleaseAction("upgrade", ", ".join(reasons), ("apply",))
    return ReleaseAction("nothing", f"revision {seen.revision} has this version and these values")


def _refuse(
    kind: ActionKind, want: ReleaseWant, what: str, seen: str, remedy: str, *, wanted: str = ""
) -> ReleaseAction:
    where = f"release {want.namespace}/{want.name}"
    return ReleaseAction(kind, what, (), Problem(where, what, remedy, wanted or f"{want.named} {want.version}", seen))


def _canonical(value: Any, salt: str, path: str = "") -> Any:
    if isinstance(value, SecretStr):
        key = f"stackwright/{salt}/{path}".encode()
        return {
            "$secret": hashlib.pbkdf2_hmac("sha256", value.get_secret_value().encode(), key, SECRET_DIGEST_ROUNDS).hex()
        }
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, salt, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_canonical(item, salt, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _opened(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return plain_values(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_opened(item) for item in value]
    return value
