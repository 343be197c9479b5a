"""`fedbox watch --web`: the report of a run as a live page, served on loopback alone.

Three addresses, to be read only: `/` the report with a bar above it, `/state` where the run is, `/live.js` the page's
script. A name other than that of loopback is refused, so that no page of the web can read the report by a name of its
own that leads here.
"""

import json
import math
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from ..configs import ConfigError, Fault
from .follow import RUNNING, Follower, View
from .page import page
from .report import report_text
from .runs import ReportError
from .stats import duration
from .watch import headline

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TYPES = {"/": "text/html; charset=utf-8", "/state": "application/json", "/live.js": "text/javascript; charset=utf-8"}


class LivePage:
    """The page of a run that goes on, rendered anew when a round was recorded and somebody asks."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._lock = threading.Lock()
        self._rendered: tuple[int, bytes] = (-1, b"")
        self._script = resources.files(__package__).joinpath("live.js").read_bytes()

    def look(self) -> View:
        """Look at the run; one at a time."""
        with self._lock:
            return self._follower.look()

    def answer(self, path: str) -> bytes | None:
        """Give what stands at an address; None for any other."""
        if path == "/live.js":
            return self._script
        if path == "/state":
            return json.dumps(state(self.look())).encode()
        return self._page() if path == "/" else None

    def _page(self) -> bytes:
        with self._lock:
            view = self._follower.look()
            if self._rendered[0] != view.version:
                told = state(view)
                try:
                    text = report_text([view.folder], told)
                except ReportError:
                    text = page("waiting.html", live=told)
                self._rendered = view.version, text.encode(errors="replace")
            return self._rendered[1]


def state(view: View) -> dict[str, Any]:
    """Give what the bar of the live page shows."""
    text = headline(view)
    if view.state == RUNNING:
        text = f"{view.run.name}: round {view.done + 1} of {view.total}"
        text += f", about {duration(view.left)} left" if math.isfinite(view.left) else ""
    return {"version": view.version, "state": view.state, "text": text, "done": view.done, "total": view.total}


class _Handler(BaseHTTPRequestHandler):
    live: LivePage
    server_version, sys_version = "fedbox", ""

    def do_GET(self) -> None:
        """Answer a question."""
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in _NAMES:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"ask 127.0.0.1\n", "text/plain")
            return
        path = self.path.partition("?")[0]
        data = self.live.answer(path)
        if data is None:
            self._send(HTTPStatus.NOT_FOUND, b"there is /, /state and /live.js\n", "text/plain")
        else:
            self._send(HTTPStatus.OK, data, _TYPES[path])

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in {**headers, "Cross-Origin-Resource-Policy": "same-origin"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the terminal tells of the run."""


class LiveServer:
    """Serves the live page of a run until it is closed. `port` 0 takes a free one. Raises ConfigError."""

    def __init__(self, follower: Follower, port: int) -> None:
        self.page = LivePage(follower)
        handler = type("Handler", (_Handler,), {"live": self.page})
        try:
            self._server = ThreadingHTTPServer((HOST, port), handler)
        except (OSError, OverflowError) as error:
            problem = f"cannot listen on {HOST}:{port}: {error}; give another port, or 0 for a free one"
            raise ConfigError("given", [Fault("--port", problem)]) from error
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="fedbox-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
