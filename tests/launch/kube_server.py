"""The part of a Kubernetes API server that `kubectl` needs for JobSets, on this machine, without a cluster.

It keeps what is created and answers as the real one: one object of a name, labels selected, 404 for what is
gone. No controller runs: a test writes the status that a cluster would.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

JOBSETS = re.compile(r"/apis/jobset\.x-k8s\.io/v1alpha2/namespaces/([\w-]+)/jobsets(?:/([\w-]+))?")
PODS = re.compile(r"/api/v1/namespaces/([\w-]+)/pods(?:/([\w-]+)(/log)?)?")


class Api:
    """Its objects: JobSets by name, pods by name, and what the pods printed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.jobsets: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.refuses = 0  # 401: nobody knows the user; 403: the user may not see JobSets
        self.lock = threading.Lock()

    def configure(self, path: Path, monkeypatch: Any) -> None:
        """Have `kubectl` talk to it, by a file as `gcloud container clusters get-credentials` writes."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "here", "cluster": {"server": self.url}}],
                    "users": [{"name": "me", "user": {"token": "t"}}],
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                    "current-context": "here",
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setenv("HOME", str(path.parent))  # kubectl keeps there what it has found of a server
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)


@contextmanager
def serving() -> Iterator[Api]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    api = _Handler.api = Api(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def _resource(name: str, kind: str) -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list"]
    return {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}


def _resources(version: str, *resources: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": list(resources),
    }


_VERSION = {"groupVersion": "jobset.x-k8s.io/v1alpha2", "version": "v1alpha2"}
DISCOVERY: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": _resources("v1", _resource("pods", "Pod")),
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "jobset.x-k8s.io", "versions": [_VERSION], "preferredVersion": _VERSION}],
    },
    "/apis/jobset.x-k8s.io/v1alpha2": _resources("jobset.x-k8s.io/v1alpha2", _resource("jobsets", "JobSet")),
}


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if self.api.refuses == 401:
            self._fail(401, "Unauthorized", "Unauthorized")
        elif self.api.refuses == 403 and JOBSETS.fullmatch(url.path):
            self._fail(403, "Forbidden", 'jobsets.jobset.x-k8s.io is forbidden: User "me" cannot list it')
        elif url.path in DISCOVERY:
            self._answer(200, DISCOVERY[url.path])
        elif match := JOBSETS.fullmatch(url.path):
            self._read("JobSet", self.api.jobsets, match[2], url.query)
        elif (match := PODS.fullmatch(url.path)) and match[3]:
            tail = int(parse_qs(url.query)["tailLines"][0])
            self._text("".join(self.api.logs[match[2]].splitlines(keepends=True)[-tail:]))
        elif match:
            self._read("Pod", self.api.pods, match[2], url.query)
        else:
            self._fail(404, "NotFound", "the server could not find the requested resource")

    def do_POST(self) -> None:
        value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match = JOBSETS.fullmatch(urlparse(self.path).path)
        assert match and value["metadata"]["namespace"] == match[1]
        name = value["metadata"]["name"]
        with self.api.lock:
            if name in self.api.jobsets:
                said = f'jobsets.jobset.x-k8s.io "{name}" already exists'
                self._fail(409, "AlreadyExists", said)
                return
            value["metadata"] |= {"uid": str(len(self.api.created)), "resourceVersion": "1"}
            self.api.jobsets[name] = value
            self.api.created.append(name)
        self._answer(201, value)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        match = JOBSETS.fullmatch(urlparse(self.path).path)
        assert match and match[2]
        with self.api.lock:
            if self.api.jobsets.pop(match[2], None) is None:
                self._fail(404, "NotFound", f'jobsets.jobset.x-k8s.io "{match[2]}" not found')
                return
            self.api.deleted.append(match[2])
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _read(self, kind: str, objects: dict[str, dict[str, Any]], name: str | None, query: str) -> None:
        if name is None:
            wanted, named = (parse_qs(query).get(key, [""])[0] for key in ("labelSelector", "fieldSelector"))
            items = [
                one
                for name, one in objects.items()
                if _selected(one["metadata"]["labels"], wanted) and _selected({"metadata.name": name}, named)
            ]
            version = items[0]["apiVersion"] if items else "v1"
            listed = {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}}
            self._answer(200, listed | {"items": items})
        elif name in objects:
            self._answer(200, objects[name])
        else:
            self._fail(404, "NotFound", f'{kind.lower()}s "{name}" not found')

    def _fail(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
        self._answer(code, status | {"reason": reason, "message": message, "code": code})

    def _answer(self, code: int, value: dict[str, Any]) -> None:
        self._text(json.dumps(value), code, "application/json")

    def _text(self, text: str, code: int = 200, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _selected(labels: dict[str, str], selector: str) -> bool:
    terms = [term.partition("=") for term in selector.split(",") if term]
    return all(name in labels and (not sign or labels[name] == value) for name, sign, value in terms)
