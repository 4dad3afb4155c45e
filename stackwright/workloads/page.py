"""A job that serves one small page over HTTP and asks the application gateway for a route to it.

The page holds the task's id. It is served until the task is aborted or its own limit has passed. Sent as text to a
queue; needs the ClearML SDK.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "1"
LONGEST_S = 900


def make_handler(text: str) -> type[BaseHTTPRequestHandler]:
    """Return a handler that answers every GET with the text."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of each request."""

    return Page


def main() -> None:
    """Serve, ask for the route, and wait; nobody sets the event."""
    from clearml import Task

    task: Any = Task.init(
        project_name="Stackwright", task_name="validation route", auto_connect_frameworks=False,
        auto_connect_arg_parser=False, auto_resource_monitoring=False,
    )  # fmt: skip
    server = ThreadingHTTPServer(("", 0), make_handler(f"stackwright page of task {task.id}\n"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    task.request_external_endpoint(port=server.server_address[1], protocol="http")
    sys.stdout.write(f"serving on port {server.server_address[1]}, version {VERSION}\n")
    sys.stdout.flush()
    threading.Event().wait(LONGEST_S)
    server.shutdown()


if __name__ == "__main__":
    main()
