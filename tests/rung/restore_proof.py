"""The proof of a restore: a bundle, then other writes, then all servers lost, then three new ones and `stackwright
restore` in a shell without a Prefect server. Everything of the bundle is back, nothing later is.

`python -m tests.rung.restore_proof [--objects N]`; the last line is `RESTORE objects=N/N rto_s=S`, exit code 1 when
anything differs. What it is made of: real etcd, SSH, systemd and S3 protocol; RKE2 is the stand-in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import SecretStr

from stackwright.clients.sealing import new_identity
from stackwright.clients.site import Site
from stackwright.domain.spec import Backup, StackSpec
from tasks.bundle_making import make_bundle
from tests.rung import engine, image
from tests.rung.engine import ROOT, CannotRunError
from tests.rung.hosts import Hosts
from tests.rung.sites import bring, site_of, spec_of, with_spec
from tests.store_server import ACCESS, SECRET, StoreServer, running_store
from tests.tasks.test_nodes import Held

SERVERS = ("s1", "s2", "s3")
ROLES = {**{name: ["server"] for name in SERVERS}, "a1": ["worker"]}
SPACE = "restore-proof"
NOBODY = "http://127.0.0.1:9/api"  # the discard port: whoever asks a Prefect server here gets no answer


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def digest(obj: dict) -> tuple[str, str]:
    """Return an object's UID and a sum over what it holds."""
    held = json.dumps({key: obj.get(key) for key in ("data", "type", "secrets")}, sort_keys=True)
    return obj["metadata"]["uid"], hashlib.sha256(held.encode()).hexdigest()


def objects_of(site: Site) -> dict[str, tuple[str, str]]:
    """Return every object of the proof's namespace, by kind and name."""
    kube = site.kube()
    return {
        f"{kind}/{obj['metadata']['name']}": digest(obj)
        for kind in ("ConfigMap", "Secret", "ServiceAccount")
        for obj in kube.list("v1", kind, SPACE)
    }


def make_object(index: int, word: str) -> dict:
    """Return one object: every third one is a Secret, every tenth one a ServiceAccount."""
    meta = {"name": f"object-{index:04d}", "namespace": SPACE}
    if index % 10 == 9:
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "secrets": [{"name": word}]}
    if index % 3 == 0:
        text = {"word": SECRET_WORD[word]}
        return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": meta, "data": text}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"word": word, "filler": "x" * 500}}


SECRET_WORD = {"before": "YmVmb3Jl", "after": "YWZ0ZXI="}


@dataclass
class Proof:
    """One run: its hosts, its store, and what the bundle must bring back."""

    hosts: Hosts
    store: StoreServer
    count: int
    identity: SecretStr = field(default_factory=new_identity)

    def spec(self) -> StackSpec:
        """Return the site file for the hosts that there are now."""
        spec = spec_of(self.hosts, ROLES, join_timeout_s=600)
        settings = self.store.settings().model_dump()
        return spec.model_copy(update={"backup": Backup(**{**settings, "credentials_block": "backup-store"})})

    def run(self) -> int:
        """Do all of it; return the exit code."""
        self.hosts.add(*ROLES)
        self.hosts.use(*SERVERS)
        site = site_of(self.hosts, self.spec(), self.hosts.folder / "work")
        site.secrets.write("s3", "backup-store", {"access_key": SecretStr(ACCESS), "secret_key": SecretStr(SECRET)})
        site.secrets.write("secret-text", "backup-key", {"value": self.identity})
        bring(site)
        say("three servers and an agent run")
        wanted, bundle, nodes = self._fill_and_bundle(site)
        self._write_on(site)
        for name in SERVERS:
            self.hosts.drop(name)
        self.hosts.use()
        self.hosts.add(*SERVERS)
        self.hosts.use(*SERVERS)
        say(f"all servers destroyed; new ones at {', '.join(self.hosts[name].address for name in SERVERS)}")
        seconds = self._restore(bundle)
        return self._judge(site, wanted, nodes, seconds)

    def _fill_and_bundle(self, site: Site) -> tuple[dict, str, dict[str, str]]:
        kube = site.kube()
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        for index in range(self.count):
            kube.apply(make_object(index, "before"))
        wanted = objects_of(site)
        manifest = make_bundle(site, site.spec.servers[1], Held())
        say(f"bundle {manifest.id}: {manifest.snapshot.keys} keys, {manifest.bytes} bytes sealed")
        return wanted, manifest.id, {note.name: note.uid for note in manifest.nodes}

    def _write_on(self, site: Site) -> None:
        """Change a quarter, delete a quarter, add as many: none of that may be seen again."""
        kube, quarter = site.kube(), self.count // 4
        for index in range(quarter):
            kube.apply(make_object(index, "after"))
        for index in range(quarter, 2 * quarter):
            made = make_object(index, "before")
            kube.delete("v1", made["kind"], made["metadata"]["name"], SPACE)
        for index in range(self.count, self.count + quarter):
            kube.apply(make_object(index, "after"))
        say(f"{quarter} objects changed, {quarter} deleted, {quarter} added since the bundle")

    def _restore(self, bundle: str) -> float:
        """Run `stackwright restore` twice: to see the plan, and to carry it out under its hash. Return the seconds."""
        folder = self.hosts.folder / "shell"
        (folder / "sites").mkdir(parents=True)
        tree = self.spec().model_dump(mode="json", exclude_defaults=True)
        (folder / "sites/rung.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        for name, text in (("ssh", self.hosts.private_key), ("age", self.identity.get_secret_value())):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)
        planned = self._shell(folder)
        found = re.search(r"--bundle (\S+) --plan ([0-9a-f]{12})", planned)
        assert found and found.group(1) == bundle, planned
        say(f"plan {found.group(2)} was shown")
        started = time.monotonic()
        self._shell(folder, "--bundle", bundle, "--plan", found.group(2))
        return time.monotonic() - started

    def _shell(self, folder: Path, *more: str) -> str:
        secrets = [
            "ssh-key/ssh.private_key=@" + str(folder / "ssh"), "s3/backup-store.access_key=env:PROOF_ACCESS",
            "s3/backup-store.secret_key=env:PROOF_SECRET", "secret-text/backup-key.value=@" + str(folder / "age"),
            "registration/suse-registration.code=env:PROOF_CODE",
        ]  # fmt: skip
        secrets[0] = secrets[0].replace("ssh-key/ssh.", f"ssh-key/{self.spec().ssh.key_block}.")
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "STACKWRIGHT_SITES": str(folder / "sites"),
            "STACKWRIGHT_STATE": str(folder / "state"),
            "PREFECT_API_URL": NOBODY,
            "PREFECT_HOME": str(folder / "prefect"),
            "PROOF_ACCESS": ACCESS,
            "PROOF_SECRET": SECRET,
            "PROOF_CODE": "RUNG-PLANTED-REGCODE",
        }
        argv = [sys.executable, "-m", "stackwright.cli", "restore", "rung", *secrets, *more]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=folder)
        for line in (done.stdout + done.stderr).splitlines():
            print(f"    {line}", flush=True)
        if done.returncode != 0:
            raise SystemExit(f"stackwright restore ended with {done.returncode}")
        return done.stdout

    def _judge(self, site: Site, wanted: dict, nodes: dict[str, str], seconds: float) -> int:
        """Compare through the registration address, with the access that the restore has kept."""
        kubeconfig = (self.hosts.folder / "shell/state/stackwright/rung/restored.kubeconfig").read_text()
        site.secrets.write("cluster-access", site.spec.rke2.kubeconfig_block, {"kubeconfig": SecretStr(kubeconfig)})
        now = with_spec(site, self.spec())
        seen = objects_of(now)
        same = sum(seen.get(name) == value for name, value in wanted.items())
        wrong = [f"{name} is not as in the bundle" for name, value in wanted.items() if seen.get(name) != value]
        wrong += [f"{name} is younger than the bundle" for name in seen.keys() - wanted.keys()]
        have = {obj["metadata"]["name"]: obj["metadata"]["uid"] for obj in now.kube().list("v1", "Node")}
        wrong += [f"Node {name} is another one" for name, uid in nodes.items() if have.get(name) != uid]
        ready = sorted(node.name for node in now.kube().nodes() if node.ready)
        wrong += [f"Ready are only {', '.join(ready)}"] if ready != sorted(ROLES) else []
        for line in wrong[:20]:
            say(line)
        print(f"RESTORE objects={same}/{len(wanted)} rto_s={seconds:.0f}", flush=True)
        return 1 if wrong or not wanted else 0


def main(words: list[str]) -> int:
    """Run the proof; say why it cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m tests.rung.restore_proof")
    parser.add_argument("--objects", type=int, default=200)
    count = parser.parse_args(words).objects
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the store says every request
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="restore-proof-")))
        try:
            missing = engine.missing_programs()
            if missing:
                raise CannotRunError(f"not installed: {', '.join(missing)} (apt-get install)")
            stack.enter_context(engine.running())
            hosts = Hosts(image.ensure_image(), folder / "hosts")
        except CannotRunError as error:
            print(f"RESTORE cannot run: {error}")
            return 1
        stack.callback(hosts.stop)
        store = stack.enter_context(running_store(folder / "store"))
        return Proof(hosts, store, count).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
