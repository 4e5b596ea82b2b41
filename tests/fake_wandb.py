"""A wandb server in a hundred lines, for the real wandb client to talk to at both ends.

It keeps runs in memory: `runs[id] = {"config", "summary", "history", "state", ...}`. GraphQL is dispatched on
the text of the query, because the client often leaves `operationName` empty.
"""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeWandb:
    """`with FakeWandb() as server: ... server.url`; `down = True` makes it answer 503 to everything."""

    def __init__(self, entity: str = "lab", project: str = "laws") -> None:
        self.entity, self.project = entity, project
        self.runs: dict[str, dict[str, Any]] = {}
        self.queries: list[str] = []
        self.down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeWandb:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self, run_id: str, config: dict[str, Any], summary: dict[str, Any], state: str = "finished"
    ) -> None:
        self.runs[run_id] = {"config": config, "summary": summary, "history": [], "state": state}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.queries.append(query)
        if "mutation UpsertBucket" in query:
            return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
        if "query RunResumeStatus" in query:
            return {"model": self._resumed(variables["name"])}
        if "mutation CreateRunFiles" in query:
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": []}}
        if "query Runs(" in query:
            known = (variables["entity"], variables["project"]) == (self.entity, self.project)
            return {"project": self._page(variables) if known else None}
        if "iewer" in query:
            return {
                "viewer": {
                    "id": "v",
                    "entity": self.entity,
                    "username": "me",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        return {}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """One chunk of a run's file stream: new history rows, the whole summary, the end."""
        run = self.runs[run_id]
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run["history"] += [json.loads(line) for line in chunk["content"]]
            elif name == "wandb-summary.json":
                run["summary"] = json.loads(chunk["content"][-1])
        if body.get("complete"):
            run["state"] = "finished" if body.get("exitcode") == 0 else "failed"

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables["name"]
        run = self.runs.setdefault(run_id, {"config": {}, "summary": {}, "history": [], "state": "running"})
        if variables.get("config"):
            config = json.loads(variables["config"])
            run["config"] = {k: v["value"] for k, v in config.items() if not k.startswith("_")}
        run["group"] = variables.get("groupName") or run.get("group")
        run["tags"] = variables.get("tags") or run.get("tags", [])
        owner = {"id": "e", "name": self.entity}
        project = {"id": "p", "name": self.project, "entity": owner}
        return {"id": run_id, "name": run_id, "displayName": run_id, "config": "{}", "project": project}

    def _resumed(self, run_id: str) -> dict[str, Any] | None:
        """What a client is told that goes on with a run."""
        if run_id not in self.runs:
            return None
        run = self.runs[run_id]
        bucket = {
            "name": run_id, "displayName": run_id, "id": run_id, "tags": run.get("tags", []),
            "summaryMetrics": json.dumps(run["summary"]), "wandbConfig": '{"t": 1}',
            "config": json.dumps({k: {"value": v} for k, v in run["config"].items()}),
            "historyLineCount": len(run["history"]), "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]",
        }  # fmt: skip
        return {"name": self.project, "bucket": bucket}

    def _page(self, variables: dict[str, Any]) -> dict[str, Any]:
        first, size = int(variables.get("cursor") or 0), int(variables.get("perPage") or 50)
        ids = list(self.runs)[first : first + size]
        edges = [{"node": self._node(i), "cursor": str(first + n + 1)} for n, i in enumerate(ids)]
        last = first + len(ids)
        page = {"endCursor": str(last), "hasNextPage": last < len(self.runs)}
        return {
            "internalId": "1",
            "runCount": len(self.runs),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": page},
        }

    def _node(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        config = {k: {"value": v, "desc": None} for k, v in run["config"].items()}
        return {
            "id": run_id,
            "name": run_id,
            "displayName": f"name of {run_id}",
            "projectId": "1",
            "state": run["state"],
            "group": run.get("group"),
            "config": json.dumps(config),
            "summaryMetrics": json.dumps(run["summary"]),
            "systemMetrics": "{}",
            "tags": [],
            "sweepName": None,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "user": {"name": "me", "username": "me"},
            "historyKeys": None,
        }


def _handler(fake: FakeWandb) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if fake.down:
                return self._answer(503, {})
            if self.path == "/graphql":
                request = json.loads(body)
                return self._answer(
                    200, {"data": fake.graphql(request["query"], request.get("variables") or {})}
                )
            if self.path.endswith("/file_stream"):
                fake.stream(self.path.split("/")[-2], json.loads(body))
            return self._answer(200, {})

        def _answer(self, code: int, value: dict[str, Any]) -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
