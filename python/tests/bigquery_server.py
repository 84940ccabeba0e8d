"""BigQuery on loopback, for tests: servers that Google's own client talks to.

``Front`` is what the client sees: it gives access tokens, counts calls, and fails them on demand. Behind it is either ``Memory``,
jobs whose states a test sets, or ``Emulator``, which runs the SQL. As a script it is the latter:

usage: bigquery_server.py      prints {"url": ..., "env": {...}} on the first line, the environment in which Google's client, so
                               flyte_backend.plugins.bigquery, talks to it; runs until its standard input closes or SIGTERM
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).parent.parent.parent

Json = Any
Answer = tuple[int, Json]
# method, path, query, body
Backend = Callable[[str, str, dict[str, list[str]], Json], Answer]

_OPS = (
    ("insert", "POST", re.compile(r"/bigquery/v2/projects/(?P<project>[^/]+)/jobs")),
    ("list", "GET", re.compile(r"/bigquery/v2/projects/(?P<project>[^/]+)/jobs")),
    ("get", "GET", re.compile(r"/bigquery/v2/projects/(?P<project>[^/]+)/jobs/(?P<job>[^/]+)")),
    ("cancel", "POST", re.compile(r"/bigquery/v2/projects/(?P<project>[^/]+)/jobs/(?P<job>[^/]+)/cancel")),
)


def error(status: int, reason: str, message: str = "") -> Json:
    """An error as BigQuery answers it."""
    text = message or f"it is {reason}"
    return {"error": {"code": status, "message": text, "errors": [{"reason": reason, "message": text, "domain": "global"}]}}


@dataclass
class Fault:
    """How a call fails; a body that is text is that of a proxy. With ``lost`` the call is carried out, and its answer is not
    sent."""

    status: int = 0
    body: Json = None
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False


@dataclass
class Seen:
    """A call that arrived."""

    op: str
    path: str
    query: dict[str, list[str]]
    body: Json
    token: str
    agent: str


class Front:
    """The server that clients see. ``faults`` holds what becomes of the next calls of an op: insert, list, get, cancel, token."""

    def __init__(self, backend: Backend, *, completes: bool = False) -> None:
        """``completes`` puts what a job was asked to do into answers about it: the emulator forgets labels, and the destination."""
        self.backend = backend
        self.completes = completes
        self.calls: Counter[str] = Counter()
        self.seen: list[Seen] = []
        self.faults: dict[str, list[Fault]] = {}
        #: How many connections clients have made.
        self.connections = 0
        #: How many calls are under way, and were at once, at most.
        self.now = self.most = 0
        #: Calls are answered while it is set.
        self.open = threading.Event()
        self.open.set()
        #: How long a call takes, in seconds.
        self.delay = 0.0
        self._taken: dict[tuple[str, str], Json] = {}  # what was asked for, by project and job id
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                with contextlib.suppress(ConnectionError):
                    front._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def process_request(self, *args: Any) -> None:
                front.connections += 1
                super().process_request(*args)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Forget the calls and the faults."""
        with self._lock:
            self.calls, self.seen, self.faults, self.most, self.delay = Counter(), [], {}, 0, 0.0

    def fail(self, op: str, *faults: Fault) -> None:
        with self._lock:
            self.faults.setdefault(op, []).extend(faults)

    def bodies(self, op: str) -> list[Json]:
        return [seen.body for seen in self.seen if seen.op == op]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        raw = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        op, project = "other", ""
        body: Json = None
        if url.path == "/token":
            op, body = "token", raw.decode()
        else:
            for name, method, pattern in _OPS:
                if method == handler.command and (match := pattern.fullmatch(url.path)):
                    op, project = name, match["project"]
            body = json.loads(raw) if raw else None
        token = handler.headers.get("authorization", "").removeprefix("Bearer ")
        query = parse_qs(url.query)
        with self._lock:
            self.calls[op] += 1
            self.seen.append(Seen(op, url.path, query, body, token, handler.headers.get("user-agent", "")))
            self.now += 1
            self.most = max(self.most, self.now)
            waiting = self.faults.get(op)
            fault = waiting.pop(0) if waiting else None
        try:
            self.open.wait(60)
            if self.delay:
                time.sleep(self.delay)
            if fault is not None and not fault.lost:
                return _answer(handler, fault.status, fault.body, fault.headers)
            status, answer = self._carry_out(op, project, handler.command, url.path, query, body)
            if fault is not None:
                handler.close_connection = True
                return None
            return _answer(handler, status, answer, {})
        finally:
            with self._lock:
                self.now -= 1

    def _carry_out(self, op: str, project: str, method: str, path: str, query: dict[str, list[str]], body: Json) -> Answer:
        if op == "token":
            return 200, {"access_token": f"ya29.secret-{self.calls['token']}", "expires_in": 3600, "token_type": "Bearer"}
        if op == "insert":
            name = body["jobReference"]["jobId"]
            with self._lock:
                taken = (project, name) in self._taken
                self._taken.setdefault((project, name), json.loads(json.dumps(body["configuration"])))
            if taken:  # the emulator would run it again
                place = f"{project}:{body['jobReference'].get('location', 'US')}.{name}"
                return 409, error(409, "duplicate", f"Already Exists: Job {place}")
        status, answer = self.backend(method, path, query, body)
        asked = self._taken.get((project, path.rpartition("/")[2])) if op == "get" else None
        if asked is not None and status == 200 and self.completes:
            own = answer["configuration"]
            answer["configuration"] = {**own, **asked, "query": {**own.get("query", {}), **asked["query"]}}
        return status, answer


def _answer(handler: BaseHTTPRequestHandler, status: int, body: Json, headers: dict[str, str]) -> None:
    raw, kind = (body.encode(), "text/html") if isinstance(body, str) else (json.dumps(body).encode(), "application/json")
    handler.send_response(status)
    for name, value in {"content-type": kind, "content-length": str(len(raw)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)


class Memory:
    """Jobs that are what a test makes of them: ``jobs`` has their resources, by project and id."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], Json] = {}
        #: Most jobs of a page, whatever is asked.
        self.page = 1000
        self._lock = threading.Lock()

    def add(self, project: str, name: str, state: str = "RUNNING", location: str = "US", **more: Any) -> Json:
        """A query of this name. ``more`` goes into its resource."""
        made: Json = {
            "kind": "bigquery#job",
            "id": f"{project}:{location}.{name}",
            "jobReference": {"projectId": project, "jobId": name, "location": location},
            "configuration": {"query": {"query": "SELECT 1"}},
            "status": {"state": state},
            "statistics": {"creationTime": str(int(time.time() * 1000))},
            **more,
        }
        with self._lock:
            self.jobs[project, name] = made
        return made

    def __call__(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Answer:
        parts = path.removeprefix("/bigquery/v2/projects/").split("/")
        project = parts[0]
        if method == "POST" and len(parts) == 2:
            reference = body["jobReference"]
            return 200, self.add(
                project, reference["jobId"], "PENDING", reference.get("location", "US"), configuration=body["configuration"]
            )
        if len(parts) == 2:
            return 200, self._list(project, query)
        job = self.jobs.get((project, parts[2]))
        if job is None or query.get("location", [""])[0] not in ("", job["jobReference"]["location"]):
            return 404, error(404, "notFound", f"Not found: Job {project}:{parts[2]}")
        if parts[3:] == ["cancel"]:
            if job["status"]["state"] != "DONE":
                stopped = {"reason": "stopped", "message": "Job execution was cancelled: User requested cancellation"}
                job["status"] = {"state": "DONE", "errorResult": stopped}
            return 200, {"kind": "bigquery#jobCancelResponse", "job": job}
        return 200, job

    def _list(self, project: str, query: dict[str, list[str]]) -> Json:
        states = query.get("stateFilter", [])
        since = int(query.get("minCreationTime", ["0"])[0])
        with self._lock:
            found = [
                job
                for (of, _), job in self.jobs.items()
                if of == project
                and (not states or job["status"]["state"].lower() in states)
                and int(job["statistics"]["creationTime"]) >= since
            ]
        begin = int(query.get("pageToken", ["0"])[0])
        size = min(self.page, int(query.get("maxResults", ["50"])[0]))
        page: Json = {"kind": "bigquery#jobList", "jobs": found[begin : begin + size]}
        if begin + size < len(found):
            page["nextPageToken"] = str(begin + size)
        return page


class Emulator:
    """A process of bqemulator; it runs the SQL that it is sent before it answers."""

    def __init__(self) -> None:
        made = subprocess.run([ROOT / "tools/bqemulator.sh"], check=True, capture_output=True, text=True)
        home = Path(made.stdout.strip())
        self._process = subprocess.Popen(
            [home / "bin/python", "-m", "bqemulator", "start", "--rest-port", "0", "--grpc-port", "0", "--log-format", "json"],
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            with contextlib.suppress(ValueError):
                about = json.loads(line)
                if about.get("event") == "rest.listen":
                    threading.Thread(target=self._process.stdout.read, daemon=True).start()
                    return int(about["port"])
        raise RuntimeError(f"bqemulator ended before it served:\n{''.join(lines[-20:])}")

    def __call__(self, method: str, path: str, query: dict[str, list[str]], body: Json) -> Answer:
        text = urlencode(query, doseq=True)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"content-type": "application/json"}
            raw = None if body is None else json.dumps(body)
            connection.request(method, f"{path}?{text}" if text else path, raw, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else {}
        finally:
            connection.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def service_account(token_uri: str) -> Json:
    """The JSON of a service account's key, as Google gives it out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "credentials-project",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "flyte@credentials-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }


def environment(front: Front, folder: Path) -> dict[str, str]:
    """In which Google's client talks to the server, with credentials that are written to the folder."""
    file = folder / "service-account.json"
    file.write_text(json.dumps(service_account(f"{front.url}/token")))
    return {"BIGQUERY_EMULATOR_HOST": front.url, "GOOGLE_APPLICATION_CREDENTIALS": str(file), "NO_GCE_CHECK": "true"}


@contextlib.contextmanager
def emulator() -> Iterator[Front]:
    """A server that runs SQL, for as long as the block lasts."""
    behind = Emulator()
    try:
        front = Front(behind, completes=True)
        try:
            yield front
        finally:
            front.close()
    finally:
        behind.close()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with emulator() as front, tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"url": front.url, "env": environment(front, Path(folder))}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
