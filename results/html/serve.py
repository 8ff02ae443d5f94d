"""A page on 127.0.0.1 that follows its records: made anew when they change, and loaded anew by whoever looks at it."""

from __future__ import annotations

import hashlib
import html
import os
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

__all__ = ["Server", "state_of", "with_news"]

_FILES = ("result.json", "failure.json")
_NEWS = """<script>setInterval(async () => {
  try { if (await (await fetch("/state")).text() !== "STATE") location.reload(); } catch { /* the server has ended */ }
}, 3000);</script>
"""
_WAITING = "<!doctype html><meta charset='utf-8'><title>waiting for runs</title><pre>{}</pre>"


def state_of(dirs: Sequence[Path]) -> str:
    """A digest of which results and failures there are; another one when a run ends, fails or is made again."""
    seen = hashlib.sha256()
    parents = [directory / kind for directory in dirs for kind in ("runs", "speed")]
    for path in sorted(folder for parent in parents for folder in _folders(parent)):
        for name in _FILES:
            try:
                found = os.stat(f"{path}/{name}")
            except OSError:
                continue
            seen.update(f"{path}/{name} {found.st_mtime_ns} {found.st_size}\\n".encode(errors="surrogateescape"))
    return seen.hexdigest()[:16]


def with_news(page: str, state: str) -> str:
    """`page` with a script that asks its own server for news, and the right to do so."""
    page = page.replace("img-src data: blob:", "img-src data: blob:; connect-src 'self'", 1)
    return page.removesuffix("\\n").removesuffix("</html>").removesuffix("\\n").removesuffix("</body>") + _NEWS.replace(
        "STATE", state
    )


class Server(ThreadingHTTPServer):
    """Answers `/` with the page of `dirs` and `/state` with their state, to this machine alone. `make` writes the page
    and returns its path, or raises ValueError where there is nothing to report yet. Port 0: any that is free."""

    daemon_threads = True

    def __init__(self, dirs: Sequence[Path], make: Callable[[], Path], port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.dirs, self.make = dirs, make
        self._lock, self._state, self._page = Lock(), "", b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def page(self) -> bytes:
        """The page of what is there now; made once for each state."""
        with self._lock:
            if (state := state_of(self.dirs)) != self._state:
                try:
                    text = self.make().read_text()
                except ValueError as error:
                    text = _WAITING.format(html.escape(str(error)))
                self._state, self._page = state, with_news(text, state).encode()
            return self._page


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        host, _, _ = self.headers.get("Host", "").partition(":")
        if host not in ("127.0.0.1", "localhost"):  # a name that somebody else's page made point here
            self.send_error(403)
        elif self.path == "/state":
            self._answer(state_of(self.server.dirs).encode(), "text/plain")
        elif self.path == "/":
            self._answer(self.server.page(), "text/html; charset=utf-8")
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants a line for each question for news."""


def _folders(parent: Path) -> list[str]:
    try:
        with os.scandir(parent) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
