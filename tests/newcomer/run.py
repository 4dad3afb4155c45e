"""A newcomer's way, timed: `python -m tests.newcomer.run`.

Clones the repository into an empty folder, and types what the README says there: first to the finished demo, then to a
first plan against hosts of his own. Home, pip's cache and environment are new; what pip needs to find its index is
handed on. Ends with one line NEWCOMER ...; a command that fails ends it at once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml
from cryptography.fernet import Fernet

from tests.newcomer import readme
from tests.newcomer.hosts import NAME, Own, own_hosts, site_file

ROOT = Path(__file__).parents[2]
DEMO_LIMIT_S, COMMAND_LIMIT_S, SERVER_LIMIT_S = 3600, 600, 180
HANDED_ON = ("LANG", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
PORT = 4200
MAY_FAIL = {"stackwright check": 1}
"""`check` ends with 1 while something stands in the way: on hosts of one's own that is its use."""


class StoppedError(Exception):
    """A command of the README did not do what the README says."""


class Newcomer:
    """Somebody with a terminal in a clone, who types command after command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.commands = folder, folder / "stackwright", 0
        self.server: subprocess.Popen[bytes] | None = None
        self.env = {name: value for name, value in os.environ.items() if name in HANDED_ON or name.startswith("PIP_")}
        config = Path.home() / ".config" / "pip" / "pip.conf"
        if config.is_file():
            self.env.setdefault("PIP_CONFIG_FILE", str(config))
        home = folder / "home"
        home.mkdir()
        system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.env |= {"HOME": str(home), "PATH": f"{self.clone / '.venv/bin'}:{system}"}

    def type(self, line: str, limit_s: float = COMMAND_LIMIT_S, where: Path | None = None) -> str:
        """Type a line, wait for its end, and return what it said. A variable stays, a server runs on beside."""
        self.commands += 1
        print(f"$ {hidden(line)}", flush=True)
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.env[name] = value
            return ""
        if line == "prefect server start":
            return self._start_server()
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", line], cwd=where or self.clone, env=self.env, stdin=subprocess.DEVNULL, timeout=limit_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        took = time.monotonic() - began
        allowed = {0, *(code for words, code in MAY_FAIL.items() if line.startswith(words))}
        if done.returncode not in allowed:
            raise StoppedError(
                f"{hidden(line)} ended with {done.returncode} after {took:.0f} s:\n{done.stdout[-3000:]}"
            )
        last = done.stdout.strip().splitlines()[-1:] or [""]
        print(f"  ({took:.1f} s) {last[0][:300]}", flush=True)
        return done.stdout

    def _start_server(self) -> str:
        log = self.folder / "server.log"
        with log.open("wb") as sink:
            self.server = subprocess.Popen(
                ["prefect", "server", "start"], cwd=self.clone, env=self.env, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=sink, start_new_session=True, executable=str(self.clone / ".venv/bin/prefect"),
            )  # fmt: skip
        deadline = time.monotonic() + SERVER_LIMIT_S
        while not answers(f"http://127.0.0.1:{PORT}/api/health"):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise StoppedError(f"the Prefect server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.5)
        return ""

    def leave(self) -> None:
        """Stop what still runs."""
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            try:
                self.server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.server.pid, signal.SIGKILL)
                self.server.wait()


def hidden(line: str) -> str:
    """Return a command as it may be shown."""
    return re.sub(r"(ENCRYPTION_KEY=)\S+", r"\1...", line)


def answers(url: str) -> bool:
    """Tell whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - an address of our own
            return bool(answer.status == 200)
    except OSError:
        return False


def free() -> bool:
    """Tell whether the port that the README names is free."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) != 0


def read_host_keys(own: Own, newcomer: Newcomer) -> dict[str, str]:
    """Read the hosts' keys as docs/real-hosts.md says: with ssh-keyscan."""
    words = "ssh-keyscan"
    if f"`{words}`" not in (newcomer.clone / "docs" / "real-hosts.md").read_text(encoding="utf-8"):
        raise StoppedError(f"docs/real-hosts.md does not say {words} any more")
    found = {}
    for name, address in own.addresses.items():
        said = newcomer.type(f"{words} -t ed25519 -p {own.port} {address}")
        line = next(line for line in said.splitlines() if "ssh-ed25519" in line and not line.startswith("#"))
        found[name] = " ".join(line.split()[1:3])
    return found


def go_to_the_demo(newcomer: Newcomer) -> str:
    """Clone, and follow the README to the finished demo. Return the demo's last line."""
    newcomer.type(
        f"git clone --quiet {shlex.quote(str(ROOT))} {shlex.quote(str(newcomer.clone))}", where=newcomer.folder
    )
    text = (newcomer.clone / "README.md").read_text(encoding="utf-8")
    said = ""
    for line in readme.to_the_demo(text):
        said = newcomer.type(line, DEMO_LIMIT_S)
    found = re.search(r"^DEMO ok .*$", said, re.M)
    if found is None:
        raise StoppedError(f"the demo did not end as the README says:\n{said[-2000:]}")
    return found[0]


def go_to_the_plan(newcomer: Newcomer, own: Own) -> str:
    """Write a site file for the hosts, and follow the README to the first plan. Return the plan's last line."""
    key = newcomer.folder / "id_ed25519"
    key.touch(mode=0o600)
    key.write_text(own.private_key)
    (newcomer.folder / "scc").write_text("INVENTED-CODE")
    document = site_file(own, read_host_keys(own, newcomer))
    path = newcomer.clone / "deployments" / "sites" / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    values = {"NAME": NAME, "=...": f"={Fernet.generate_key().decode()}", "@/secure/id_ed25519": f"@{key}"}
    said = ""
    for line in readme.to_the_plan((newcomer.clone / "README.md").read_text(encoding="utf-8")):
        said = newcomer.type(readme.filled_in(line, values))
        if line.startswith("stackwright block set"):  # in the same words, the other block that the site file names
            newcomer.type(f"stackwright block set registration suse-registration code=@{newcomer.folder / 'scc'}")
    found = re.search(r"^plan [0-9a-f]{12}: [1-9]\d* step\(s\).*$", said, re.M)
    if found is None:
        raise StoppedError(f"no plan was shown:\n{said[-3000:]}")
    return found[0]


def main() -> int:
    """Go the whole way once."""
    if not free():
        print(f"NEWCOMER failed: port {PORT}, which the README names, is taken on this machine")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="newcomer-"))
    newcomer = Newcomer(folder)
    try:
        began = time.monotonic()
        print(go_to_the_demo(newcomer), flush=True)
        demo_s = time.monotonic() - began
        with own_hosts(folder) as own:  # hosts are there before anybody plans for them: their start is not counted
            began = time.monotonic()
            plan = go_to_the_plan(newcomer, own)
            plan_s = time.monotonic() - began
    except StoppedError as error:
        print(f"NEWCOMER failed: {error}")
        return 1
    finally:
        newcomer.leave()
        shutil.rmtree(folder, ignore_errors=True)
    print(plan)
    print(
        f"NEWCOMER clone_to_demo_s={demo_s:.0f} first_plan_s={plan_s:.0f} commands={newcomer.commands} hosts={own.kind}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
