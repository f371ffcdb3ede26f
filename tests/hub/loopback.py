"""A Hub on the loopback interface: what huggingface_hub asks of one to create, commit to, list and fetch a model repository or a Space.

Weights are sent by Git LFS and everything else in the commit itself, as on the Hub. It keeps a log of requests, and misbehaves where a test
says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "Loopback0" * 4


@dataclass
class Repo:
    """Files by commit, commits by branch; the last commit made for a pull request."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    pull_request: str = ""

    def add(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        """A new commit with these files; an empty branch is a commit that no branch has."""
        sha = hashlib.sha1(f"{message}{len(self.commits)}{sorted(files)}".encode()).hexdigest()  # noqa: S324
        self.commits[sha] = dict(files)
        self.messages.append(message)
        if branch:
            self.branches[branch] = sha
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Fault:
    """How to answer the next `times` requests `METHOD PATH` that match: a status, `drop` in the middle, `stall`, `etag` of another."""

    match: str
    answer: int | str
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server; repositories by name, `spaces/...` those of Spaces; requests in order."""

    def __init__(self) -> None:
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.faults: list[Fault] = []
        self.objects: dict[str, bytes] = {}
        """What was sent by LFS, by its SHA-256."""
        self.sizes: dict[str, int] = {}
        """Of files that are said to have another size than they have."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fetched(self) -> list[str]:
        """Paths of files whose content was asked for."""
        return [
            line.split("/resolve/")[1].partition("/")[2]
            for line in self.log
            if re.match("GET .*/resolve/", line)
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent where a client went away, which one does that was made to wait."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        hub = self.state
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        body = self._body()
        line = f"{self.command} {path}"
        hub.log.append(line)
        fault = next((f for f in hub.faults if f.times > 0 and re.search(f.match, line)), None)
        if fault:
            fault.times -= 1
        if fault and fault.answer == "stall":
            time.sleep(2)
        if fault and isinstance(fault.answer, int):
            self._send(fault.answer, {"error": "as the test says"}, fault.headers)
            return
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups(), fault=fault)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body)["objects"])
        elif found := re.fullmatch(r"/objects/([0-9a-f]{64})", path):
            sent = hashlib.sha256(body).hexdigest() == found[1]
            if sent:
                hub.objects[found[1]] = body
            self._send(200 if sent else 400, {})
        elif found := re.fullmatch(r"/api/(models|spaces)/([^/]+/[^/]+)(?:/([^/]+)(?:/(.+))?)?", path):
            kind, name, action, argument = found.groups()
            name = name if kind == "models" else f"spaces/{name}"
            self._repository(name, action or "info", argument or "main", body, query, fault)
        else:
            self._send(404, {"error": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        """Where each object goes; nowhere for one that is there."""
        for item in objects:
            if item["oid"] not in self.state.objects:
                item["actions"] = {"upload": {"href": f"{self.state.endpoint}/objects/{item['oid']}"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repo(self, name: str) -> Repo | None:
        repo = self.state.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not known):
            self._send(401, {"error": "who are you"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["type"] == "space":
            assert wanted["sdk"] == "gradio"
            name = f"spaces/{name}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid username or password."})
        elif name in self.state.repos:
            self._send(409, {"error": "exists", "url": f"{self.state.endpoint}/{name}"})
        else:
            repo = Repo(private=wanted.get("visibility") == "private" or wanted.get("private") is True)
            repo.add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self.state.repos[name] = repo
            self._send(200, {"url": f"{self.state.endpoint}/{name}"})

    def _repository(self, name: str, action: str, argument: str, body: bytes, query: Any, fault: Any) -> None:
        if (repo := self._repo(name)) is None:
            return
        if (
            action in ("info", "revision", "tree")
            and repo.branches.get(argument, argument) not in repo.commits
        ):
            self._send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif action in ("info", "revision"):
            sizes = {
                path: self.state.sizes.get(path, len(data)) for path, data in repo.files(argument).items()
            }
            siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
            self._send(200, {"id": name, "sha": repo.branches.get(argument, argument), "siblings": siblings})
        elif action == "tree":
            files = repo.files(argument).items()
            self._send(200, [{"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in files])
        elif action == "branch":
            status = 409 if argument in repo.branches else 200
            repo.branches.setdefault(argument, repo.branches["main"])
            self._send(status, {})
        elif action == "preupload":
            files = json.loads(body)["files"]
            for file in files:
                by_lfs = file["path"].endswith(".safetensors")
                file |= {"uploadMode": "lfs" if by_lfs else "regular", "shouldIgnore": False}
            self._send(200, {"files": files})
        elif action == "commit" and fault and fault.answer == "drop":
            self.close_connection = True
        elif action == "commit":
            self._commit(name, repo, argument, body, "create_pr" in query)

    def _commit(self, name: str, repo: Repo, branch: str, body: bytes, pull_request: bool) -> None:
        files, message = dict(repo.files(branch)), ""
        for item in map(json.loads, body.splitlines()):
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.add(files, message, "" if pull_request else branch)
        repo.pull_request = sha if pull_request else ""
        url = f"{self.state.endpoint}/{name}"
        self._send(
            200,
            {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "pullRequestUrl": f"{url}/discussions/1"},
        )

    def _file(self, name: str, revision: str, path: str, fault: Any) -> None:
        if (repo := self._repo(name)) is None:
            return
        files = repo.files(revision)
        if path not in files:
            self._send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = files[path]
        broken = fault is not None and fault.answer
        self.send_response(200)
        self.send_header("X-Repo-Commit", repo.branches.get(revision, revision))
        self.send_header("ETag", f'"{"0" * 40 if broken == "etag" else _oid(data)}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            if broken == "drop":
                self.close_connection = True
                data = data[: len(data) // 2]
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()  # noqa: S324  a name, as git gives it
