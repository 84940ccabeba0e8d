"""Stand-ins for vendors, on 127.0.0.1: the few calls that flytekit's connectors make."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class Vendor:
    """Answers HTTP. What was called is in ``calls``: method, path, query, body, and the token."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any], Any, str]] = []
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self, certificate: tuple[Path, Path] | None = None) -> Iterator[None]:
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlparse(self.path)
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                body: Any = raw.decode()
                with contextlib.suppress(ValueError):
                    body = json.loads(raw)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                vendor.calls.append((self.command, parts.path, query, body, self.headers.get("authorization", "")))
                status, answer = vendor.answer(self.command, parts.path, query, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


class BigQuery(Vendor):
    """Queries are done when they are looked at for the second time. ``fail`` in a statement fails them, ``slow`` never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        if path == "/token":
            return 200, {"access_token": "of-loopback", "expires_in": 3600, "token_type": "Bearer"}
        found = re.fullmatch(r"/bigquery/v2/projects/([^/]+)/jobs(?:/([^/]+)(/cancel)?)?", path)
        if not found:
            return 404, {"error": {"code": 404, "message": f"no such path: {path}"}}
        project, job_id, cancel = found.groups()
        if method == "POST" and not job_id:
            statement = body["configuration"]["query"]["query"]
            if "syntax error" in statement:
                return 400, {"error": {"code": 400, "message": "Syntax error", "errors": [{"reason": "invalidQuery"}]}}
            job_id = body["jobReference"]["jobId"]
            self.jobs[job_id] = {"looks": 0, "configuration": body["configuration"], "state": "RUNNING"}
        job = self.jobs.get(job_id)
        if job is None:
            return 404, {"error": {"code": 404, "message": f"Not found: Job {job_id}", "errors": [{"reason": "notFound"}]}}
        statement = job["configuration"]["query"]["query"]
        job["looks"] += method == "GET"
        if cancel or job["looks"] > 1 and "slow" not in statement:
            job["state"] = "DONE"
        status: dict[str, Any] = {"state": job["state"]}
        if cancel:
            job["cancelled"] = True
        if job["state"] == "DONE" and "fail" in statement:
            error = {"reason": "invalid", "message": "division by zero"}
            status |= {"errorResult": error, "errors": [error]}
        configuration = json.loads(json.dumps(job["configuration"]))
        configuration["query"]["destinationTable"] = {"projectId": project, "datasetId": "d", "tableId": "t"}
        reference = {"projectId": project, "jobId": job_id, "location": query.get("location", "EU")}
        resource = {"kind": "bigquery#job", "jobReference": reference, "status": status, "configuration": configuration}
        return 200, {"job": resource} if cancel else resource


def google_credentials(folder: Path, url: str) -> Path:
    """A service account whose tokens come from the stand-in."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = rsa.generate_private_key(65537, 2048).private_bytes(encoding, form, serialization.NoEncryption())
    file = folder / "google.json"
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "a@p.example",
        "client_id": "1",
        "token_uri": f"{url}/token",
    }
    file.write_text(json.dumps(account))
    return file


class Databricks(Vendor):
    """Runs of the Jobs API 2.1, which end when they are looked at for the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: dict[str, int] = {}
        self.cancelled: set[str] = set()

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        match method, path:
            case "POST", "/api/2.1/jobs/runs/submit":
                run = str(len(self.looks) + 1)
                self.looks[run] = 0
                return 200, {"run_id": int(run)}
            case "GET", "/api/2.1/jobs/runs/get" if query["run_id"] in self.looks:
                run = query["run_id"]
                self.looks[run] += 1
                state = {"life_cycle_state": "RUNNING", "state_message": "In run"}
                if run in self.cancelled:
                    state = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED", "state_message": "cancelled"}
                elif self.looks[run] > 1:
                    state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS", "state_message": ""}
                return 200, {"job_id": 7, "run_id": int(run), "state": state}
            case "POST", "/api/2.1/jobs/runs/cancel":
                self.cancelled.add(str(body["run_id"]))
                return 200, {}
        return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}


class Hook(Vendor):
    """Takes whatever comes, except at /refused."""

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        return (500, "no") if path == "/refused" else (200, "taken")
