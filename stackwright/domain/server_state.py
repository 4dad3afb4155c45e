"""What a bundle takes from a server beside the snapshot: configuration, tokens, encryption configuration, certificates.

The script reads secrets: its answer is kept in secret values and goes nowhere but into the bundle's sealed state. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.certificates import split_files
from stackwright.domain.errors import StackError
from stackwright.domain.rke2_facts import DATA, ETC, env_file
from stackwright.domain.shell import Section, file_section, read_script, shell_section

TLS = f"{DATA}/server/tls"
LARGEST = 1 << 20  # of one file: what is larger is no configuration


@dataclass(frozen=True)
class ServerState:
    """What was read of one server. `files` maps paths to their content in base64; `certificates` maps paths below
    server/tls to the text of their certificates, without what else is in the file. A token that is not there is empty.
    """

    token: SecretStr
    agent_token: SecretStr
    files: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)
    certificates: Mapping[str, str] = field(default_factory=dict, repr=False)


def state_script() -> str:
    """Return the script that reads all of it in one round trip."""
    files = _FILES.replace("@ETC@", ETC).replace("@MORE@", f"{env_file('server')} {ENCRYPTION_CONFIG}")
    return read_script(
        shell_section("files", files.replace("@LARGEST@", str(LARGEST)))
        + file_section("token", f"{DATA}/server/token")
        + file_section("agent_token", f"{DATA}/server/agent-token")
        + shell_section("certificates", _CERTIFICATES.replace("@TLS@", TLS))
    )


def parse_server_state(seen: Mapping[str, Section], where: str) -> ServerState:
    """Read the script's answer. Raises StackError for what could not be read; its text quotes no content."""
    for name in ("files", "certificates"):
        if seen[name].rc:
            what = f"the server's {name} cannot be read"
            raise StackError(what, where=where, wanted="exit code 0", seen=f"exit code {seen[name].rc}")
    for name in ("token", "agent_token"):
        if seen[name].rc and not seen[name].absent:
            raise StackError(f"the server's {name} file cannot be read", where=where, seen=f"exit code {seen[name].rc}")
    files = {}
    for line in seen["files"].out.splitlines():
        kind, _, rest = line.partition(" ")
        content, _, path = rest.partition(" ")
        if kind == "large":
            remedy = "Move it out of RKE2's configuration folder: a bundle keeps configuration, no other files."
            wanted = f"at most {LARGEST} bytes"
            raise StackError(
                f"{path} is too large for a bundle", where=where, wanted=wanted, seen=content, remedy=remedy
            )
        files[path] = SecretStr(content)
    texts = {path.removeprefix(f"{TLS}/"): text for path, text in split_files(seen["certificates"].out).items()}
    return ServerState(
        SecretStr(seen["token"].out.strip()), SecretStr(seen["agent_token"].out.strip()), files, texts
    )  # fmt: skip


# RKE2 writes its kubeconfig into the same folder, anew at each start.
_FILES = """\
{ if [ -d @ETC@ ]; then find -L @ETC@ -type f ! -path @ETC@/rke2.yaml | sort; fi
for f in @MORE@; do if [ -f "$f" ]; then echo "$f"; fi; done
} | while IFS= read -r f; do
s=$(stat -L -c %s "$f") || exit 1
if [ "$s" -gt @LARGEST@ ]; then echo "large $s $f"; continue; fi
b=$(base64 -w 0 "$f") || exit 1
echo "file $b $f"
done
"""
# Only what stands between the marks of a certificate leaves the node here.
_CERTIFICATES = """\
if [ -d @TLS@ ]; then find -L @TLS@ -type f -name '*.crt' | sort; fi | while IFS= read -r f; do
printf '== %s\\n' "$f"
sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' "$f" || exit 1
done
"""
