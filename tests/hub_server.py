"""A small hub: the few endpoints of the Hugging Face hub that publishing and fetching a circuit need.

Run as a program it prints its address and serves until it is stopped. Repositories live in memory; a token that is not
``good`` may not write.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REPOS: dict[str, dict[str, dict[str, bytes]]] = {}
"""Files by repository, branch or commit, and name."""


class Hub(BaseHTTPRequestHandler):
    """See the module's docstring."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _reply(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._reply(404, X_Error_Code=code, X_Error_Message=code)

    def _home(self) -> str:
        return f"http://{self.headers['Host']}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        path, body = unquote(self.path), self._body()
        if "validate-yaml" in path:
            return self._reply(200, b'{"errors": [], "warnings": []}')
        if self.headers.get("Authorization") != "Bearer good":
            return self._reply(401, b'{"error": "Invalid credentials"}')
        if path.endswith("/repos/create"):
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            answer = json.dumps({"url": f"{self._home()}/{name}", "name": name}).encode()
            status = 409 if name in REPOS else 200
            REPOS.setdefault(name, {"main": {}})
            return self._reply(status, answer)
        found = re.fullmatch(r"/api/models/(.+)/(preupload|commit|branch)/([^/]+)", path)
        if found is None or found[1] not in REPOS:
            return self._missing("RepoNotFound")
        repo, verb, branch = REPOS[found[1]], found[2], found[3]
        if verb == "branch":
            repo.setdefault(branch, dict(repo["main"]))
            return self._reply(200)
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._reply(200, json.dumps({"files": files}).encode())
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                repo[branch] = repo[branch] | {entry["value"]["path"]: base64.b64decode(entry["value"]["content"])}
        commit = hashlib.sha1(repr(sorted(repo[branch].items())).encode()).hexdigest()
        repo[commit] = repo[branch]
        done = {"commitUrl": f"{self._home()}/{found[1]}/commit/{commit}", "commitOid": commit, "success": True}
        return self._reply(200, json.dumps(done).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", unquote(self.path.split("?")[0]))
        if found is None or found[1] not in REPOS:
            return self._missing("RepoNotFound")
        files = REPOS[found[1]].get(found[2])
        if files is None:
            return self._missing("RevisionNotFound")
        if found[3] not in files:
            return self._missing("EntryNotFound")
        content = files[found[3]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        return self._reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)


def start() -> ThreadingHTTPServer:
    """A server on a free port; its address is ``server.server_address``."""
    return ThreadingHTTPServer(("127.0.0.1", 0), Hub)
