"""A file on its way from a node over one SSH channel: its end is seen only when the node's program ended well."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import paramiko

WINDOW, PACKET = 1 << 24, 1 << 18  # of this channel alone: fewer, longer messages are what makes the library quick
SILENCE_S = 60.0
"""How long a node may give nothing before it is given up."""


class Fetched(io.RawIOBase):
    """What a channel's program prints. `ended` judges its exit code (-1 when there was none) and its error output.

    `lost` returns the error for a link that broke.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        ended: Callable[[int, str], None],
        lost: Callable[[BaseException | None], Exception],
    ) -> None:
        self._channel, self._ended, self._lost = channel, ended, lost
        channel.settimeout(SILENCE_S)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._channel.recv(len(buffer))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(error) from error
        if not data:
            self._judge()
        buffer[: len(data)] = data
        return len(data)

    def _judge(self) -> None:
        if not self._channel.status_event.wait(SILENCE_S) or self._channel.exit_status < 0:
            raise self._lost(None)
        said = b""
        while self._channel.recv_stderr_ready():
            said += self._channel.recv_stderr(1 << 16)
        self._ended(self._channel.exit_status, said.decode("utf-8", "replace"))
