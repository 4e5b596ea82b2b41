"""A page on this machine that shows a sweep while it runs: `scaling dashboard`.

Everything on it is computed from the run folders when it is asked for, and only what has changed is read and
sent: of a log the new bytes, of the table the runs that moved since the version that the page has.

    /              the page, with its own style and scripts; nothing is fetched from elsewhere
    /api/sweep     totals, rate, cost, time left, and the runs that changed after `since`
    /api/curves    loss curves of `runs`, those that grew after `since`
    /api/fit       the law so far (launch/dashboard_fit.py)

It listens on this machine alone unless told otherwise, answers to its own names only (a page elsewhere could
else reach it under a name of its own that points here), serves four files by name, and changes nothing.
"""

from __future__ import annotations

import json
import mimetypes
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from launch.dashboard_curves import Curves
from launch.dashboard_fit import FitSoFar
from launch.status import Reader, RunStatus, SweepStatus
from scaling.errors import UserError

PAGE = {"/": "index.html", "/style.css": "style.css", "/plot.js": "plot.js", "/app.js": "app.js"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
LOOK_SECONDS = 1.0  # between two looks at the folders, or ten times what a look takes
MOST_CURVES = 120
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass
class Watched:
    """A sweep as the page has seen it. Every change of a run gets the next number of `version`."""

    reader: Reader
    epoch: str = ""  # another one: the page starts over, runs have come or gone
    version: int = 0
    found: SweepStatus | None = None
    _rows: dict[str, tuple[int, RunStatus]] = field(default_factory=dict)
    _due: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.curves = Curves(self.reader.folder)
        self.fit = FitSoFar(self.reader.folder)

    def look(self) -> SweepStatus:
        """The sweep, not much older than LOOK_SECONDS."""
        with self._lock:
            began = time.monotonic()
            if self.found is None or began >= self._due:
                self._take(self.reader.read())
                self._due = time.monotonic() + max(LOOK_SECONDS, 10 * (time.monotonic() - began))
            assert self.found is not None
            return self.found

    def _take(self, found: SweepStatus) -> None:
        if not self.epoch or {run.run_id for run in found.runs} != self._rows.keys():
            self.epoch, self._rows = secrets.token_hex(4), {}
        self.version += 1
        for run in found.runs:
            known = self._rows.get(run.run_id)
            if known is None or known[1] != run:
                self._rows[run.run_id] = (self.version, run)
        self.found = found

    def sweep(self, epoch: str, since: int) -> dict[str, Any]:
        """Totals, and the rows that changed after version `since` of that epoch."""
        found = self.look()
        with self._lock:
            after = since if epoch == self.epoch else -1
            rows = [_row(run) for version, run in self._rows.values() if version > after]
            head = {"epoch": self.epoch, "version": self.version, "name": found.name}
        sums = vars(found.sums())
        return head | {
            "folder": str(found.folder), "totals": found.totals(), "count": len(found.runs),
            "fraction": found.fraction, **sums, "others": found.others, "stale": found.stale,
            "notes": list(found.notes), "time": time.time(), "runs": rows,
        }  # fmt: skip

    def curves_of(self, asked: list[str], epoch: str, since: int) -> dict[str, Any]:
        self.look()
        with self._lock:
            known = [run for run in asked[:MOST_CURVES] if run in self._rows]
            after = since if epoch == self.epoch else -1
        return {"epoch": self.epoch, **self.curves.read(known, after)}

    def fitted(self) -> dict[str, Any]:
        return self.fit.so_far(self.look())


def _row(run: RunStatus) -> dict[str, Any]:
    """What the page shows of a run."""
    names = ("label", "status", "loss", "budget", "tokens", "seconds", "error", "remark", "where")
    return {name: getattr(run, name) for name in names} | {
        "id": run.run_id,
        "n": run.n_total,
        "planned": run.tokens_planned,
        "flops_per_token": run.flops / max(1, run.tokens_planned - run.start_tokens),
        "share": run.share,
        "rate": run.tokens_per_second,
        "left": run.seconds_left,
        "logged_at": run.logged_at,
    }


class Dashboard:
    """The server. `with Dashboard(reader) as page: page.url`, or `serve` until interrupted.

    Raises UserError when the address cannot be had.
    """

    def __init__(self, reader: Reader, host: str = "127.0.0.1", port: int = 0) -> None:
        self.watched = Watched(reader)
        self.watched.look()
        try:
            self._server = _Server((host, port), _handler(self.watched, host))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error}); give another --port, or none for a free one."
            ) from None
        name = host if host not in ("0.0.0.0", "::", "") else "localhost"
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def __enter__(self) -> Dashboard:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that has gone is nothing to report."""


def _handler(watched: Watched, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not _own_name(self.headers.get("host", ""), host):
                return self._send(403, b"not a name of this page", "text/plain")
            address = urlsplit(self.path)
            if address.path in PAGE:
                return self._file(PAGE[address.path])
            try:
                value = _answer(watched, address.path, parse_qs(address.query))
            except ValueError:
                return self._send(400, b"since is a whole number", "text/plain")
            if value is None:
                return self._send(404, b"nothing here", "text/plain")
            # NaN is no JSON: whatever is not finite has been made None before.
            body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
            self._send(200, body, "application/json")

        def _file(self, name: str) -> None:
            content = (files("launch") / "page" / name).read_bytes()
            self._send(200, content, f"{mimetypes.types_map[name[name.rindex('.') :]]}; charset=utf-8")

        def _send(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            for name, value in (
                ("content-type", kind), ("content-length", str(len(body))), ("cache-control", "no-store"),
                ("content-security-policy", POLICY), ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
            ):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _own_name(header: str, host: str) -> bool:
    """Whether a request names this page: any name does where it was told to listen to others."""
    if host not in LOCAL:
        return True
    return urlsplit(f"//{header}").hostname in LOCAL


def _answer(watched: Watched, path: str, query: dict[str, list[str]]) -> dict[str, Any] | None:
    epoch, since = query.get("epoch", [""])[0], int(query.get("since", ["-1"])[0])
    if path == "/api/sweep":
        return watched.sweep(epoch, since)
    if path == "/api/curves":
        return watched.curves_of(query.get("runs", [""])[0].split(","), epoch, since)
    if path == "/api/fit":
        return watched.fitted()
    return None
