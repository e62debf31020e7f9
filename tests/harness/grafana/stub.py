"""A small HTTP server that behaves as our OpenAPI subset of Grafana does, keeps what it gets, and fails on demand."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "glsa_test"
ROUTES = (
    ("GET", "/health"),
    ("GET", "/datasources"),
    ("GET", "/folders/{uid}"),
    ("POST", "/folders"),
    ("PUT", "/folders/{uid}"),
    ("GET", "/dashboards/uid/{uid}"),
    ("POST", "/dashboards/db"),
)


@dataclass(frozen=True)
class Fault:
    """An answer given instead of the real one."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    # True: the request is carried out all the same, and only its answer is lost.
    applied: bool = False


@dataclass
class StubState:
    """Objects that the server holds and requests that it received."""

    version: str = "13.0.1"
    prefix: str = ""
    folders: dict[str, str] = field(default_factory=dict)
    dashboards: dict[str, dict[str, object]] = field(default_factory=dict)
    dashboard_folders: dict[str, str] = field(default_factory=dict)
    provisioned: set[str] = field(default_factory=set)
    datasources: list[str] = field(default_factory=lambda: ["prometheus", "grafana-postgresql-datasource"])
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    forget_writes: bool = False

    def answer(self, method: str, template: str, uid: str, body: dict[str, object]) -> tuple[int, object]:
        """Carry out one request."""
        match (method, template):
            case ("GET", "/health"):
                return 200, {"commit": "0", "database": "ok", "version": self.version}
            case ("GET", "/datasources"):
                return 200, [{"id": n, "uid": f"d{n}", "type": t} for n, t in enumerate(self.datasources)]
            case ("GET", "/folders/{uid}"):
                return self._folder(uid)
            case ("POST", "/folders"):
                return self._create_folder(str(body["uid"]), str(body["title"]))
            case ("PUT", "/folders/{uid}"):
                self.folders[uid] = str(body["title"])
                return self._folder(uid)
            case ("GET", "/dashboards/uid/{uid}"):
                return self._dashboard(uid)
            case _:
                return self._save(body)

    def _folder(self, uid: str) -> tuple[int, object]:
        if uid not in self.folders:
            return 404, {"message": "folder not found"}
        return 200, {"id": 7, "uid": uid, "title": self.folders[uid], "version": 1}

    def _create_folder(self, uid: str, title: str) -> tuple[int, object]:
        if uid in self.folders:
            return 409, {"message": "a folder with the same uid already exists"}
        self.folders[uid] = title
        return self._folder(uid)

    def _dashboard(self, uid: str) -> tuple[int, object]:
        if uid not in self.dashboards:
            return 404, {"message": "Dashboard not found"}
        model = {**self.dashboards[uid], "id": 11, "version": 4, "preload": False}
        meta = {"folderUid": self.dashboard_folders[uid], "provisioned": uid in self.provisioned}
        return 200, {"dashboard": model, "meta": meta}

    def _save(self, body: dict[str, object]) -> tuple[int, object]:
        model = body["dashboard"]
        assert isinstance(model, dict)
        uid = str(model["uid"])
        if uid in self.provisioned:
            return 400, {"message": "Cannot save provisioned dashboard"}
        if uid in self.dashboards and body.get("overwrite") is not True:
            return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        if not self.forget_writes:
            self.dashboards[uid] = model
            self.dashboard_folders[uid] = str(body.get("folderUid", ""))
        return 200, {"id": 11, "uid": uid, "status": "success", "version": 4}


def _route(method: str, path: str) -> tuple[str, str] | None:
    for known, template in ROUTES:
        found = re.fullmatch(template.replace("{uid}", "([^/]+)"), path)
        if known == method and found:
            return template, unquote(found[1]) if found.groups() else ""
    return None


@contextmanager
def grafana_stub(state: StubState) -> Iterator[str]:
    """Serve `state` on a free loopback port; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            route = _route(self.command, self.path.removeprefix(f"{state.prefix}/api"))
            if route is None:
                self._send(404, b'{"message": "not a route of the subset"}', ())
                return
            state.calls.append((self.command, route[0]))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and route[0] != "/health":
                self._send(401, b'{"message": "Unauthorized"}', ())
                return
            fault = state.faults.pop(0) if state.faults else None
            if fault is None or fault.applied:
                status, document = state.answer(self.command, *route, body or {})
            if fault is not None:
                self._send(fault.status, fault.body, fault.headers)
            else:
                self._send(status, json.dumps(document).encode(), ())

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

        def _send(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{state.prefix}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
