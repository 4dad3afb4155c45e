"""Opening references to secrets: variables, files that only their owner reads, a Vault. No value is ever rendered."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.vault import Vault
from stackwright.domain.errors import Problem, StackError
from stackwright.domain.references import Reference, VaultAccess

LARGEST = 256 * 1024
OPEN_TO_OTHERS = stat.S_IRWXO | stat.S_IWGRP


class References:
    """Open references; what goes wrong comes back as problems, one for each."""

    def __init__(self, access: VaultAccess, environment: Mapping[str, str] | None = None) -> None:
        self._access = access
        self._environment = os.environ if environment is None else environment
        self._vault: Vault | Problem | None = None

    def open(self, reference: Reference, where: str) -> SecretStr | Problem:
        """Return the value, or the problem with it. A one-line value loses its line's end."""
        if reference.source == "env":
            found = self._variable(reference.place, where)
        elif reference.source == "file":
            found = read_secret_file(Path(reference.place), where)
        else:
            found = self._from_vault(reference, where)
        if isinstance(found, SecretStr) and not found.get_secret_value().strip():
            return Problem(where, "is empty", "write the value there", seen=str(reference))
        return found

    def _variable(self, name: str, where: str) -> SecretStr | Problem:
        if name not in self._environment:
            return Problem(where, "the variable is not set", f"export {name}, or name another", seen=f"env:{name}")
        return SecretStr(_line(self._environment[name]))

    def _from_vault(self, reference: Reference, where: str) -> SecretStr | Problem:
        if self._vault is None:
            token = self.open(self._access.token, "vault.token")
            made = token if isinstance(token, Problem) else Vault(token, self._access.ca, self._access.namespace)
            self._vault = made
        if isinstance(self._vault, Problem):
            return self._vault
        try:
            return self._vault.read(reference.place, reference.key)
        except StackError as error:
            return Problem(where, error.what, error.how_to_fix, error.wanted, f"{error.where} {error.seen}".strip())


def read_secret_file(path: Path, where: str) -> SecretStr | Problem:
    """Read a file that nobody but its owner, root, and readers of its group may read.

    Looked at after opening, so that it is the file that is read. Links are followed, as Kubernetes mounts secrets.
    """
    try:
        # Not blocking: a pipe would wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            seen = os.fstat(file.fileno())
            if not stat.S_ISREG(seen.st_mode):
                return Problem(where, "is no regular file", "name a file", seen=str(path))
            if seen.st_mode & OPEN_TO_OTHERS:
                mode = f"mode {stat.S_IMODE(seen.st_mode):04o}"
                remedy = f"chmod 0600 {path}; if others had it, exchange the secret"
                return Problem(where, "the file is open to others", remedy, "mode 0600", f"{path} {mode}")
            if seen.st_uid not in (0, os.geteuid()):
                return Problem(where, "the file is another user's", f"chown it to uid {os.geteuid()}", seen=str(path))
            raw = file.read(LARGEST + 1)
    except OSError as error:
        return Problem(where, "the file cannot be read", "correct the path or the mode",
                       seen=f"{path} {error.strerror}")  # fmt: skip
    if len(raw) > LARGEST:
        return Problem(where, "the file is too large for a secret", "name another", f"<= {LARGEST} bytes", str(path))
    try:
        return SecretStr(_line(raw.decode()))
    except UnicodeDecodeError:
        return Problem(where, "the file is no text (UTF-8)", "keep it as text, such as base64", seen=str(path))


def _line(text: str) -> str:
    """Drop the end of a single line: `echo` adds one. Keys and certificates keep theirs."""
    return text.rstrip("\r\n") if "\n" not in text.rstrip("\r\n") else text
