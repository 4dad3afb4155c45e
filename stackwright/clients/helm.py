"""The helm wire: the helm CLI (3 and 4) driven as a process with JSON output, as an operator would type it.

Deciding what to do with a release is in domain/releases.py. No secret stands in an argument: values and passwords go
through standard input, and what helm prints is redacted before it reaches an error or a log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import SecretStr

from stackwright.clients.kube import Kube
from stackwright.clients.trips import trip
from stackwright.domain.errors import ApiUnavailableError, ReleaseStateError, StackError, ToolError
from stackwright.domain.figures import FAILED
from stackwright.domain.redaction import Redactor
from stackwright.domain.releases import Release, ReleaseWant, plain_values, secrets_in, storage_secret

log = logging.getLogger(__name__)

LAST_LINES = 12
SETTLE_S = 5.0  # what a stopped helm gets to write down that its release failed
HISTORY_KEPT = 10
OWN_LABELS = frozenset({"owner", "name", "status", "version", "createdAt", "modifiedAt"})  # helm's, in its storage


@dataclass(frozen=True)
class Dialect:
    """What differs between the majors of helm. Helm 4: Upgrading from Helm 3."""

    list_all: tuple[str, ...]  # flags so that a listing shows releases in every state
    apply: tuple[str, ...]
    force_conflicts: tuple[str, ...]
    rollback: tuple[str, ...]


DIALECTS: Mapping[int, Dialect] = {
    3: Dialect(list_all=("--all",), apply=(), force_conflicts=(), rollback=()),
    4: Dialect(
        list_all=(),  # lists every state by itself
        apply=("--server-side=auto", "--wait=hookOnly"),
        force_conflicts=("--server-side=true", "--force-conflicts", "--wait=hookOnly"),
        rollback=("--server-side=auto", "--wait=hookOnly"),
    ),
}

OK = "exit status 0"
# helm has one exit status for every failure, so its words are all there is to tell them apart. First match counts.
UNAVAILABLE_WORDS = (
    "cluster unreachable",
    "connection refused",
    "connection reset by peer",
    "i/o timeout",
    "tls handshake timeout",
    "no route to host",
    "unexpected eof",
    "the server is currently unable to handle the request",
    "etcdserver: request timed out",
    "etcdserver: leader changed",
    "too many requests",
    "internal error occurred: failed calling webhook",
    "response status code 502",
    "response status code 503",
    "response status code 504",
)
STATE_WORDS = {
    "another operation (install/upgrade/rollback) is in progress": "Another helm works on it, or one was killed at it.",
    "cannot reuse a name that is still in use": "The release appeared in between: start again, it is looked at first.",
    "cannot re-use a name that is still in use": "The release appeared in between: start again, it is looked at first.",
    "has no deployed releases": "No revision ever succeeded: look at `helm history`, then uninstall the release.",
    "invalid ownership metadata": "An object of this chart belongs to another release: remove it there.",
}


class HelmClient(Protocol):
    """What tasks ask of helm."""

    def version(self) -> str: ...
    def release(self, name: str, ns: str) -> Release | None: ...
    def history(self, name: str, ns: str) -> tuple[Release, ...]: ...
    def releases(self, ns: str | None = None) -> tuple[Release, ...]: ...
    def registry_login(self, host: str, user: str, password: SecretStr) -> None: ...
    def pull(self, chart: str, version: str, repo: str | None = None) -> Path: ...
    def upgrade_install(self, want: ReleaseWant) -> Release: ...
    def rollback(self, name: str, ns: str, revision: int = 0, *, timeout_s: int = 300) -> None: ...
    def uninstall(self, name: str, ns: str, *, hooks: bool = True, timeout_s: int = 300) -> None: ...
    def template(
        self, want: ReleaseWant, *, kube_version: str = "", api_versions: Sequence[str] = ()
    ) -> list[dict[str, Any]]: ...
    def show_values(self, chart: str, version: str, repo: str | None = None) -> dict[str, Any]: ...


class Helm:
    """The helm CLI, with a home of its own below `workdir` so that runs share no login, cache or repository list.

    `kubeconfig` may be None for what needs no cluster (pull, template). `timeout_s` limits each process; a change gets
    its own `timeout_s` on top. `on_command` is told each command before it runs; none holds a secret.
    """

    def __init__(
        self,
        binary: str,
        kubeconfig: Path | None,
        workdir: Path,
        ca_file: Path | None = None,
        timeout_s: float = 120.0,
        on_command: Callable[[list[str]], None] | None = None,
    ) -> None:
        self._binary = binary
        self._kubeconfig = kubeconfig
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._on_command = on_command or (lambda argv: log.debug("%s", " ".join(argv)))
        self._home = workdir / "helm"
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Lock] = {}
        self._version = ""
        self._secrets: set[str] = set()
        self._redactor = Redactor(())

    # --- looking -----------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return helm's own version, such as v4.1.4."""
        if not self._version:
            self._version = self._run(["version", "--template", "{{.Version}}"], cluster=False).strip()
        return self._version

    def release(self, name: str, ns: str) -> Release | None:
        """Return the newest revision of a release in whatever state, or None where there is none."""
        rows = self._json(["list", "--namespace", ns, "--filter", f"^{re.escape(name)}$", *self._dialect.list_all])
        if not rows:
            return None
        seen = self._json(["get", "metadata", name, "--namespace", ns])
        description = ""
        if rows[0]["status"] != "deployed":
            description = next((row.description for row in self.history(name, ns)[-1:]), "")
        return Release(
            name=name,
            namespace=ns,
            status=rows[0]["status"],
            chart=seen["chart"],
            version=seen["version"],
            revision=int(seen["revision"]),
            labels=self._labels(name, ns, int(seen["revision"])) if seen.get("labels") is None else seen["labels"],
            description=self._redacted(description),
            updated=_time(seen.get("deployedAt") or rows[0].get("updated")),
            app_version=seen.get("appVersion", ""),
        )

    def _labels(self, name: str, ns: str, revision: int) -> Mapping[str, str]:
        """Read a revision's labels where it is kept: helm before 3.18 does not print them."""
        if self._kubeconfig is None:
            return {}
        kube = Kube(self._kubeconfig, timeout_s=self._timeout_s)
        try:
            kept = kube.get("v1", "Secret", storage_secret(name, revision), ns) or {"metadata": {}}
        finally:
            kube.close()
        return {key: value for key, value in (kept["metadata"].get("labels") or {}).items() if key not in OWN_LABELS}

    def history(self, name: str, ns: str) -> tuple[Release, ...]:
        """Return the kept revisions of a release that exists, oldest first, without labels."""
        return tuple(_row(row, name, ns) for row in self._json(["history", name, "--namespace", ns]))

    def releases(self, ns: str | None = None) -> tuple[Release, ...]:
        """Return the newest revision of every release, of one namespace or of all, without labels."""
        scope = ["--namespace", ns] if ns else ["--all-namespaces"]
        rows = self._json(["list", *scope, "--max", "0", *self._dialect.list_all])
        return tuple(_row(row, row["name"], row["namespace"]) for row in rows)

    def template(
        self, want: ReleaseWant, *, kube_version: str = "", api_versions: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Render a release without a cluster, CRDs and hooks included. The result holds secrets."""
        argv = [
            "template",
            want.name,
            *self._chart(want),
            "--namespace",
            want.namespace,
            "--include-crds",
            "--values",
            "-",
        ]
        argv += ["--kube-version", kube_version] if kube_version else []
        argv += [part for version in api_versions for part in ("--api-versions", version)]
        text = self._run(argv, stdin=_stdin(want), secrets=secrets_in(want.values), where=_where(want), cluster=False)
        return [item for item in yaml.safe_load_all(text) if item]

    def show_values(self, chart: str, version: str, repo: str | None = None) -> dict[str, Any]:
        """Return a chart's default values."""
        local = str(self.pull(chart, version, repo)) if _is_remote(chart, repo) else chart
        return yaml.safe_load(self._run(["show", "values", local], cluster=False)) or {}

    # --- charts ------------------------------------------------------------------------------------------------------

    def registry_login(self, host: str, user: str, password: SecretStr) -> None:
        """Log in to a registry; the login is kept in this instance's own registry configuration (0600)."""
        bare = host.removeprefix("oci://").removeprefix("https://").split("/")[0]  # helm 4 refuses anything but a host
        argv = ["registry", "login", bare, "--username", user, "--password-stdin", *self._tls()]
        secret = password.get_secret_value()
        self._run(argv, stdin=secret, secrets=[secret], where=f"registry {bare}", cluster=False)

    def pull(self, chart: str, version: str, repo: str | None = None) -> Path:
        """Download a chart once and return its archive, kept below its digest.

        A chart of an exact version is taken from the cache; that archive's digest is verified each time.
        """
        key = hashlib.sha256(f"{repo}|{chart}|{version}".encode()).hexdigest()
        with self._lock:
            lock = self._pulls.setdefault(key, threading.Lock())
        with lock:
            note = self._folder("charts", "index") / key
            found = _cached(note)
            return found or self._download(chart, version, repo, note)

    def _download(self, chart: str, version: str, repo: str | None, note: Path) -> Path:
        scratch = Path(tempfile.mkdtemp(prefix="pull-", dir=self._folder("charts")))
        try:
            source = [chart, "--repo", repo] if repo else [chart]
            argv = ["pull", *source, "--version", version, "--destination", str(scratch), *self._tls()]
            self._run(argv, where=f"chart {chart} {version}", cluster=False)
            archive = next(scratch.glob("*.tgz"), None)
            if archive is None:
                raise ToolError(
                    "helm pull reported success but wrote no archive", where=f"chart {chart}", wanted=version
                )
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            kept = self._folder("charts", digest) / archive.name
            archive.replace(kept)
            fresh = scratch / "note"
            fresh.write_text(f"{digest}/{archive.name}\n")
            fresh.replace(note)
            return kept
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    # --- changing ----------------------------------------------------------------------------------------------------

    def upgrade_install(self, want: ReleaseWant) -> Release:
        """Install or upgrade a release and return it. Waits for hooks only: the layer's gate waits for the rest.

        The values replace those of the release; nothing of an older revision is merged in.
        """
        flags = self._dialect.force_conflicts if want.force_conflicts else self._dialect.apply
        labels = ",".join(f"{key}={value}" for key, value in sorted(want.all_labels().items()))
        argv = ["upgrade", want.name, *self._chart(want), "--install", "--namespace", want.namespace, "--values", "-"]
        argv += ["--reset-values", "--labels", labels, "--history-max", str(HISTORY_KEPT)]
        argv += ["--timeout", f"{want.timeout_s}s", "--output", "json", *flags]
        argv += ["--create-namespace"] if want.create_namespace else []
        out = self._run(
            argv,
            stdin=_stdin(want),
            secrets=secrets_in(want.values),
            where=_where(want),
            timeout_s=self._timeout_s + want.timeout_s,
        )
        return _applied(json.loads(out), want)

    def rollback(self, name: str, ns: str, revision: int = 0, *, timeout_s: int = 300) -> None:
        """Go back to a revision; 0 is the one before the newest."""
        argv = [
            "rollback",
            name,
            *([str(revision)] if revision else []),
            "--namespace",
            ns,
            "--history-max",
            str(HISTORY_KEPT),
        ]
        argv += ["--timeout", f"{timeout_s}s", *self._dialect.rollback]
        self._run(argv, where=f"release {ns}/{name}", timeout_s=self._timeout_s + timeout_s)

    def uninstall(self, name: str, ns: str, *, hooks: bool = True, timeout_s: int = 300) -> None:
        """Remove a release and its history. Nothing happens where there is none."""
        argv = ["uninstall", name, "--namespace", ns, "--ignore-not-found", "--timeout", f"{timeout_s}s"]
        argv += [] if hooks else ["--no-hooks"]
        self._run(argv, where=f"release {ns}/{name}", timeout_s=self._timeout_s + timeout_s)

    # --- the process -------------------------------------------------------------------------------------------------

    @property
    def _dialect(self) -> Dialect:
        found = re.match(r"v?(\d+)\.", self.version())
        dialect = DIALECTS.get(int(found.group(1))) if found else None
        if dialect is None:
            raise ToolError("this helm is not supported", where=self._binary, wanted="helm 3 or 4", seen=self.version())
        return dialect

    def _chart(self, want: ReleaseWant) -> list[str]:
        if _is_remote(want.chart, want.repo):
            return [str(self.pull(want.chart, want.version, want.repo))]
        return [want.chart]

    def _tls(self) -> list[str]:
        return ["--ca-file", str(self._ca_file)] if self._ca_file else []

    def _folder(self, *parts: str) -> Path:
        folder = self._home.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _environment(self) -> dict[str, str]:
        kept = (
            "PATH",
            "LANG",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        )
        config = self._folder("config")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self._folder("home")),
            "HELM_CACHE_HOME": str(self._folder("cache")),
            "HELM_CONFIG_HOME": str(config),
            "HELM_DATA_HOME": str(self._folder("data")),
            "HELM_REGISTRY_CONFIG": str(config / "registry.json"),
            "HELM_REPOSITORY_CONFIG": str(config / "repositories.yaml"),
            "HELM_REPOSITORY_CACHE": str(self._folder("cache", "repository")),
        }

    def _json(self, argv: Sequence[str]) -> Any:
        return json.loads(self._run([*argv, "--output", "json"]) or "null")

    def _run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        secrets: Iterable[str] = (),
        where: str = "",
        timeout_s: float | None = None,
        cluster: bool = True,
    ) -> str:
        """Run helm and return its standard output. Raises one of our errors, redacted, with helm's last lines."""
        limit_s = timeout_s or self._timeout_s
        with self._lock:
            if fresh := {text for text in secrets if text} - self._secrets:
                self._secrets |= fresh
                self._redactor = Redactor(self._secrets)
        command = [
            self._binary,
            *argv,
            *(("--kubeconfig", str(self._kubeconfig)) if cluster and self._kubeconfig else ()),
        ]
        self._on_command(command)
        failure: StackError | None = None
        with trip("helm", argv[0]) as made:
            out, err, code = self._carry_out(command, argv[0], stdin, limit_s, where)
            if code != 0:
                failure = self._failure(argv[0], where, err or out, code)
                made.outcome = FAILED if isinstance(failure, ApiUnavailableError) else made.outcome
        if failure is not None:
            raise failure
        return out

    def _carry_out(self, command: list[str], verb: str, stdin: str, limit_s: float, where: str) -> tuple[str, str, int]:
        """Run a command to its end or its limit; return both outputs and the exit status."""
        try:
            process = subprocess.Popen(
                [*_tied(self._binary), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                text=True,
                start_new_session=True,  # so that its plugins and post-renderers end with it
            )
        except OSError as error:
            remedy = "Install helm 3.17 or newer, or helm 4, on this machine, and name it in the site's settings."
            raise ToolError(
                "helm cannot be started", where=self._binary, seen=error.strerror or "", remedy=remedy
            ) from error
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            err = _stop(process)
            raise ToolError(
                f"helm {verb} did not end within {limit_s:.0f} s and was stopped",
                where=where,
                seen=self._last_lines(err),
                remedy="Look at the release's hooks and events, then start the flow again: it looks first.",
            ) from None
        finally:
            if process.poll() is None:
                _stop(process)
        return out, err, process.returncode

    def _failure(self, verb: str, where: str, text: str, code: int) -> StackError:
        seen, low = self._last_lines(text), text.lower()
        for words, remedy in STATE_WORDS.items():
            if words in low:
                return ReleaseStateError(f"helm {verb} refused", where=where, wanted=OK, seen=seen, remedy=remedy)
        if any(words in low for words in UNAVAILABLE_WORDS):
            return ApiUnavailableError(f"helm {verb} could not reach what it needs", where=where, wanted=OK, seen=seen)
        return ToolError(f"helm {verb} failed with exit status {code}", where=where, wanted=OK, seen=seen)

    def _last_lines(self, text: str) -> str:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return self._redacted(" / ".join(lines[-LAST_LINES:]))[-2000:]

    def _redacted(self, text: str) -> str:
        return self._redactor.clean(text)[0]


def _tied(program: str) -> list[str]:
    """Return the prefix with which a program dies with this process, where util-linux offers it.

    Otherwise a helm that outlives a killed run would still be at work when the next run recovers its release.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv and shutil.which(program) else []


def _stop(process: subprocess.Popen[str]) -> str:
    """End a process group and return what it said last: asked first, so that helm can note the failure, then killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            log.debug("process group %s is gone already", process.pid)
        try:
            return process.communicate(timeout=SETTLE_S)[1] or ""
        except subprocess.TimeoutExpired:
            continue
    return ""


def _is_remote(chart: str, repo: str | None) -> bool:
    return chart.startswith("oci://") or repo is not None


def _where(want: ReleaseWant) -> str:
    return f"release {want.namespace}/{want.name}"


def _stdin(want: ReleaseWant) -> str:
    return json.dumps(plain_values(want.values))


def _cached(note: Path) -> Path | None:
    if not note.exists():
        return None
    digest, _, name = note.read_text().strip().partition("/")
    kept = note.parent.parent / digest / name
    whole = kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == digest
    return kept if whole else None


def _time(text: str | None) -> datetime | None:
    """Read helm's two ways to write a time: RFC 3339, and Go's own with the zone's name at its end."""
    if not text:
        return None
    found = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)? ?(Z|[+-]\d\d:?\d\d)", text)
    if not found:
        return None
    day, clock, fraction, zone = found.groups()
    return datetime.fromisoformat(
        f"{day}T{clock}{(fraction or '.0')[:7].ljust(7, '0')}{'+00:00' if zone == 'Z' else zone}"
    )


def _row(row: Mapping[str, Any], name: str, ns: str) -> Release:
    chart, version = _split_chart(row["chart"])
    return Release(
        name=name,
        namespace=ns,
        status=row["status"],
        chart=chart,
        version=version,
        revision=int(row["revision"]),
        description=row.get("description", ""),
        updated=_time(row.get("updated")),
        app_version=row.get("app_version", ""),
    )


def _split_chart(text: str) -> tuple[str, str]:
    """Split helm's `name-version`: the version starts at the first dash before a number with dots."""
    found = re.match(r"(.+?)-(v?\d+\.\d+\.\d+.*)$", text)
    return (found.group(1), found.group(2)) if found else (text, "")


def _applied(answer: Mapping[str, Any], want: ReleaseWant) -> Release:
    meta = answer["chart"]["metadata"]
    return Release(
        name=answer["name"],
        namespace=answer["namespace"],
        status=answer["info"]["status"],
        chart=meta["name"],
        version=meta["version"],
        revision=int(answer["version"]),
        labels=want.all_labels(),
        description=answer["info"].get("description", ""),
        updated=_time(answer["info"].get("last_deployed")),
        app_version=meta.get("appVersion", ""),
    )
