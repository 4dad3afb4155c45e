"""Headless Chromium over its own debugging protocol: a page at a width, in a colour scheme, measured and pictured.

No package of its own is needed: the wire is a WebSocket, which Prefect brings.
"""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
    "--no-first-run", "--remote-debugging-port=0", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
LIMIT_S = 60
MOST_PX = 12_000
# Contrast as WCAG 2.1 has it, of every text against what lies behind it; and what is wider than the page.
MEASURE = r"""
(() => {
  const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const back = parse(getComputedStyle(one).backgroundColor);
      if (back.length === 3 || back[3] > 0.99) return back.slice(0, 3);
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  };
  for (const one of document.querySelectorAll('details')) one.open = true;
  const faint = {}, wide = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const one = node.parentElement, text = node.textContent.trim();
    const box = one && one.getBoundingClientRect();
    if (!text || !box.width || !box.height || ['STYLE', 'SCRIPT', 'TITLE'].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const ink = light(parse(one.closest('svg') ? style.fill : style.color)), back = light(behind(one));
    const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (ratio < 4.5) faint[`${ratio.toFixed(2)} ${one.tagName}.${one.className.baseVal ?? one.className}: ${text.slice(0, 40)}`] = 1;
    if (box.right > innerWidth + 1 && !one.closest('.scroll')) wide.push(`${one.tagName}: ${text.slice(0, 60)}`);
  }
  return JSON.stringify({
    page: document.documentElement.scrollWidth, width: innerWidth, faint: Object.keys(faint).slice(0, 8),
    wide: wide.slice(0, 8), loaded: performance.getEntriesByType('resource').map((one) => one.name.slice(0, 80))
      .filter((name) => !name.startsWith('data:')),
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
  });
})()
"""  # noqa: E501 - a program's line


class Tab:
    """One tab. Commands and answers are those of the Chrome DevTools protocol."""

    def __init__(self, wire: ClientConnection) -> None:
        self.wire, self.number = wire, 0

    def ask(self, method: str, **more: Any) -> dict[str, Any]:
        """Send a command and return its answer; events in between are dropped."""
        self.number += 1
        self.wire.send(json.dumps({"id": self.number, "method": method, "params": more}))
        while True:
            answer = json.loads(self.wire.recv(timeout=LIMIT_S))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def show(self, page: Path, width: int, scheme: str) -> dict[str, Any]:
        """Show a page, and return what was measured of it."""
        self.ask("Page.enable")
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.number += 1
        self.wire.send(json.dumps({"id": self.number, "method": "Page.navigate", "params": {"url": page.as_uri()}}))
        while json.loads(self.wire.recv(timeout=LIMIT_S)).get("method") != "Page.loadEventFired":
            pass
        found = self.ask("Runtime.evaluate", expression=MEASURE)
        return dict(json.loads(found["result"]["value"]))

    def keep(self, picture: Path) -> None:
        """Keep the page as a picture, a very long one as far as a picture goes."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], MOST_PX), "scale": 1}
        made = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        picture.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """Run Chromium for the time of the block; no name on any network is found by it."""
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        port = next(line.rpartition(":")[2].split("/")[0] for line in process.stderr if "DevTools listening" in line)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=LIMIT_S) as answer:
            place = next(one for one in json.load(answer) if one["type"] == "page")["webSocketDebuggerUrl"]
        with connect(place, max_size=None, proxy=None, open_timeout=LIMIT_S) as wire:
            yield Tab(wire)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()
