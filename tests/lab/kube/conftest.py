"""A served cluster for one test file's worth of tests, and the real helm and kubectl driven against it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stackwright.lab.kube.alone import kube_alone
from stackwright.lab.tools import Tools, ensure_helm3, ensure_tools

CHART = Path(__file__).parent / "chart"


@dataclass
class Driver:
    """Real clients with a home of their own, logged in as the administrator."""

    cluster: object
    tools: Tools
    home: Path
    journal: list

    def run(self, *argv, kubeconfig=None, ok=True, stdin=None):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(kubeconfig or self.cluster.kubeconfig),
        }
        done = subprocess.run(
            [str(part) for part in argv],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            input=stdin,
            check=False,
        )
        assert not ok or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done

    def helm(self, *argv, **more):
        return self.run(self.tools.helm, *argv, **more)

    def helm3(self, *argv, **more):
        return self.run(ensure_helm3(), *argv, **more)

    def kubectl(self, *argv, **more):
        return self.run(self.tools.kubectl, *argv, **more)

    def get(self, kind, name, namespace):
        return json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json").stdout)

    def until(self, check, what):
        deadline = time.monotonic() + 60
        while not (found := check()):
            assert time.monotonic() < deadline, what
            time.sleep(0.02)
        return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    journal = []
    with kube_alone(tmp_path_factory.mktemp("kube"), record=lambda *entry: journal.append(entry)) as cluster:
        yield Driver(cluster, ensure_tools(), home, journal)
