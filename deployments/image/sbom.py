"""Write what the image holds as CycloneDX 1.5: packages of the base, Python distributions, helm and kubectl.

Runs inside the image while it is built, so it lists what is there and not what was asked for. Standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import uuid
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
TOOLS = Path("/usr/local/bin")
LIB = "/opt/stackwright/lib"
Component = dict[str, Any]


def package_url(kind: str, name: str, version: str, **qualifiers: str) -> str:
    """Return a package URL; the version of a package may hold signs that mean something else in it."""
    said = "&".join(f"{key}={quote(value)}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{quote(name)}@{quote(version, safe=':')}" + (f"?{said}" if said else "")


def component(kind: str, name: str, version: str, purl: str, licence: str = "") -> Component:
    """Return one entry; the reference is its package URL."""
    found: Component = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**found, "licenses": [{"license": {"name": licence[:200]}}]} if licence else found


def debian(text: str, release: str) -> list[Component]:
    """Return the installed packages of a dpkg status file."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = package_url("deb/debian", name, version, arch=fields["Architecture"], distro=release)
            found.append(component("library", name, version, purl))
    return found


def suse(lines: list[str], release: str) -> list[Component]:
    """Return the packages that rpm lists, as `name version arch licence` separated by tabs."""
    rows = [line.split("\t") for line in lines]
    return [
        component("library", name, version, package_url("rpm/suse", name, version, arch=arch, distro=release), licence)
        for name, version, arch, licence in rows
    ]


def python(path: str) -> list[Component]:
    """Return the distributions of a folder."""
    found = {}
    for one in distributions(path=[path]):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        licence = one.metadata.get("License-Expression") or (one.metadata.get("License") or "").split("\n")[0]
        found[name] = component("library", name, one.version, package_url("pypi", name, one.version), licence)
    return [found[name] for name in sorted(found)]


def tool(name: str, version: str) -> Component:
    """Return a binary with the digest of its file."""
    digest = hashlib.sha256((TOOLS / name).read_bytes()).hexdigest()
    hashes = {"hashes": [{"alg": "SHA-256", "content": digest}]}
    return component("application", name, version, package_url("generic", name, version)) | hashes


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def base_packages() -> list[Component]:
    """Return the packages of the base image, whichever kind it has. Exits when it has neither: unknown is not none."""
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    release = f"{fields.get('ID', '')}-{fields.get('VERSION_ID', '')}".replace('"', "")
    if DPKG.exists():
        return debian(DPKG.read_text(encoding="utf-8"), release)
    try:
        text = _output("rpm", "-qa", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{LICENSE}\\n")
    except FileNotFoundError:
        sys.exit("the base has neither dpkg's status nor rpm: its packages cannot be listed")
    return suse(sorted(text.splitlines()), release)


def main(version: str, commit: str, created: str) -> None:
    """Print the document. The same contents of the same commit give the same one."""
    helm = _output(str(TOOLS / "helm"), "version", "--template", "{{.Version}}")
    kubectl = json.loads(_output(str(TOOLS / "kubectl"), "version", "--client", "-o", "json"))
    tools = [tool("helm", helm), tool("kubectl", kubectl["clientVersion"]["gitVersion"])]
    purl = package_url("generic", "stackwright", version, vcs_ref=commit)
    own = component("application", "stackwright", version, purl)
    components = [*base_packages(), *python(LIB), *tools]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([own, components])).urn,
        "version": 1,
        "metadata": {"timestamp": created, "component": own},
        "components": components,
        "dependencies": [{"ref": purl, "dependsOn": [part["bom-ref"] for part in components]}],
    }
    json.dump(document, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
