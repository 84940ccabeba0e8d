"""A small Databricks: the vendor's REST API over TLS on 127.0.0.1, which really runs what is submitted, as processes of this
machine.

What it has is what https://docs.databricks.com/api/workspace/jobs says of ``runs/submit``, ``get``, ``get-output``, ``list``,
``cancel`` and ``delete`` (2.1), and ``/oidc/v1/token``. Its answers are read by the vendor's own client in a test, and it is as
strict as the vendor: no floats for whole numbers, no text for run ids, no token, no answer.

There is no Spark in it. A process has DATABRICKS_SERVERLESS=true, which is how flytekit's Spark tasks are told that they find
their session instead of making one, and finds none: a task's function runs, with ``SPARK_SESSION`` being None. Files "from git"
are those of :data:`ENTRYPOINTS`, in place of those that flytekit's connector names: examples/python/databricks_entrypoint.py.

As a script it prints one line of JSON (url, instance, ca, and env, which is the environment of a service that uses it) and runs
until its standard input ends or it gets SIGTERM.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "dapi-the-token-of-the-tests"
CLIENT_ID, CLIENT_SECRET = "sp-1", "the-secret-of-the-service-principal"
SUBJECT_TOKEN = "jwt-of-a-workload"
PAGE_LIMIT = 25  # a page may hold less than this

_RUN = (Path(__file__).parents[2] / "examples/python/databricks_entrypoint.py").read_text()
ENTRYPOINTS = {
    "flytekitplugins/databricks/entrypoint.py": _RUN,
    "flytekitplugins/databricks/entrypoint_serverless.py": "import sys\n"
    "sys.argv = [a for a in sys.argv if not a.startswith('--flyte-credential-provider=')]\n" + _RUN,
}

_ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")


class ApiError(Exception):
    """An error as the vendor words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Fault:
    """What goes wrong with the next calls of a path's end, such as ``runs/submit``."""

    path: str
    status: int = 0
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: The call is carried out, and its answer lost.
    lost: bool = False
    #: Seconds until an answer.
    late: float = 0.0
    times: int = 1


@dataclass
class Run:
    """A run, with or without a process."""

    run_id: int
    request: Mapping[str, Any]
    started: float = field(default_factory=time.time)
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    is_cancelled: bool = False
    is_late: bool = False
    run_type: str = "SUBMIT_RUN"

    @property
    def is_active(self) -> bool:
        return self.state.get("life_cycle_state") in ("QUEUED", "PENDING", "RUNNING", "TERMINATING")

    def settle(self, pending: float) -> None:
        """Bring its state up to date with its process."""
        if self.process is None or self.state.get("life_cycle_state") in _ENDED:
            return
        code = self.process.poll()
        timeout = self.request.get("timeout_seconds", 0)
        if code is None and timeout and time.time() - self.started > timeout:
            self.is_late = True
            self.kill()
        if code is None:
            if self.is_cancelled or self.is_late:
                self.state = {"life_cycle_state": "TERMINATING", "state_message": "Run is ending."}
            elif time.time() - self.started < pending:
                self.state = {"life_cycle_state": "PENDING", "state_message": "Waiting for cluster"}
            else:
                self.state = {"life_cycle_state": "RUNNING", "state_message": "In run"}
            return
        if self.is_cancelled:
            result, told, why, kind = "CANCELED", "Run cancelled.", "USER_CANCELED", "SUCCESS"
        elif self.is_late:
            result, told, why, kind = "TIMEDOUT", "Run timed out.", "CANCELED", "CLIENT_ERROR"
        elif code == 0:
            result, told, why, kind = "SUCCESS", "", "SUCCESS", "SUCCESS"
        else:
            result, told, why, kind = (
                "FAILED",
                "Workload failed, see run output for details",
                "RUN_EXECUTION_ERROR",
                "CLIENT_ERROR",
            )
        self.end("TERMINATED", result, told, why, kind)

    def end(self, life: str, result: str, message: str = "", code: str = "", kind: str = "") -> None:
        self.state = {"life_cycle_state": life, "state_message": message}
        if result:
            self.state["result_state"] = result
        self.status = {"state": "TERMINATED"}
        if code:
            self.status["termination_details"] = {"code": code, "type": kind, "message": message}

    def kill(self) -> None:
        """End its process and what that has started, as the end of a cluster does."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def output(self) -> str:
        return (self.folder / "log").read_text(errors="replace") if self.folder else ""


class Databricks:
    """The server. ``with Databricks(certificate, key) as server`` runs it; ``server.instance`` is its host and port."""

    def __init__(self, certificate: Path, key: Path, *, pending: float = 0.0, env: Mapping[str, str] | None = None) -> None:
        """``pending`` is how long a run waits for its "cluster" in seconds, and ``env`` is more environment of runs."""
        self.pending, self.env = pending, dict(env or {})
        self.lock = threading.RLock()
        self.runs: dict[int, Run] = {}
        self.by_token: dict[str, int] = {}
        self.deleted: set[int] = set()
        self.tokens: dict[str, float] = {TOKEN: float("inf")}
        self.token_life = 3600
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = self.connections = 0
        self.next_id = (1 << 53) + 1  # which no float holds
        self._folder = tempfile.TemporaryDirectory(prefix="databricks-")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = self

        class Handler(_Handler):
            databricks = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.context, self._http.databricks = context, self
        self.instance = f"127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Databricks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.forget()
        self._folder.cleanup()

    def forget(self) -> None:
        """End all runs, and count from the beginning."""
        with self.lock:
            for run in self.runs.values():
                run.kill()
                if run.process is not None:
                    run.process.wait()
            for kept in (self.runs, self.by_token, self.deleted, self.faults, self.calls, self.requests):
                kept.clear()
            self.most_at_once, self.connections, self.token_life, self.pending = 0, 0, 3600, 0.0
            self.tokens = {TOKEN: float("inf")}

    def add(self, life: str, result: str = "", message: str = "", code: str = "", kind: str = "", **more: Any) -> Run:
        """A run without a process, in a state that stays."""
        with self.lock:
            run = Run(self._new_id(), {"run_name": "added"}, **more)
            run.end(life, result, message, code, kind)
            if not code:
                run.status = {}
            self.runs[run.run_id] = run
            return run

    def _new_id(self) -> int:
        self.next_id += 2
        return self.next_id

    # ---- calls: each gives an answer, or raises ApiError

    def token(self, form: Mapping[str, str], basic: str) -> dict[str, Any]:
        user, _, password = base64.b64decode(basic).decode().partition(":") if basic else ("", "", "")
        client_id, secret = form.get("client_id", user), form.get("client_secret", password)
        if form.get("scope") != "all-apis":
            raise ApiError(400, "invalid_scope", "the scope is not all-apis")
        if form.get("grant_type") == "client_credentials":
            good = (client_id, secret) == (CLIENT_ID, CLIENT_SECRET)
        else:
            good = (client_id, form.get("subject_token")) == (CLIENT_ID, SUBJECT_TOKEN)
        if not good:
            raise ApiError(401, "invalid_client", "Client authentication failed")
        token = secrets.token_hex(16)
        self.tokens[token] = time.time() + self.token_life
        return {"access_token": token, "token_type": "Bearer", "expires_in": self.token_life}

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        _check(body)
        key = body.get("idempotency_token")
        if key is not None and (not isinstance(key, str) or len(key) > 64):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "idempotency_token has at most 64 characters")
        with self.lock:
            if key in self.by_token:
                if self.by_token[key] in self.deleted:
                    raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Run {self.by_token[key]} does not exist.")
                return {"run_id": self.by_token[key]}
            self.requests.append(body)
            run = Run(self._new_id(), body)
            self._start(run)
            self.runs[run.run_id] = run
            if key:
                self.by_token[key] = run.run_id
            return {"run_id": run.run_id}

    def _start(self, run: Run) -> None:
        body = run.request
        task = body.get("spark_python_task") or next(
            (one["spark_python_task"] for one in body.get("tasks", ()) if "spark_python_task" in one), None
        )
        if task is None:  # there are no notebooks here
            run.state = {"life_cycle_state": "PENDING", "state_message": "Waiting for cluster"}
            return
        run.folder = Path(self._folder.name) / str(run.run_id)
        run.folder.mkdir()
        file = Path(task["python_file"])
        if task.get("source") == "GIT":
            file = run.folder / "entrypoint.py"
            file.write_text(ENTRYPOINTS[task["python_file"]])
        env: dict[str, str] = dict(body.get("new_cluster", {}).get("spark_env_vars", {}))
        for one in body.get("environments", ()):
            env |= one["spec"].get("environment_vars", {})
        with (run.folder / "log").open("wb") as log:
            run.process = subprocess.Popen(
                [sys.executable, str(file), *task["parameters"]],
                cwd=run.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(run.folder), "DATABRICKS_SERVERLESS": "true", **self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _find(self, run_id: Any) -> Run:
        run = self.runs.get(run_id)
        if run is None or run_id in self.deleted:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Run {run_id} does not exist.")
        run.settle(self.pending)
        return run

    def get(self, run_id: int) -> dict[str, Any]:
        with self.lock:
            return self._shown(self._find(run_id))

    def get_output(self, run_id: int) -> dict[str, Any]:
        with self.lock:
            run = self._find(run_id)
            answer: dict[str, Any] = {"metadata": self._shown(run), "logs": run.output(), "logs_truncated": False}
            if run.state.get("result_state") == "FAILED" and run.process is not None:
                answer["error"] = f"SystemExit: {run.process.poll()}"
                answer["error_trace"] = run.output()[-2000:]
            return answer

    def list(self, query: Mapping[str, str]) -> dict[str, Any]:
        limit = int(query.get("limit", 20))
        if not 0 < limit < PAGE_LIMIT:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Invalid limit: {limit}")
        before = int(query.get("page_token") or 1 << 62)
        with self.lock:
            found = []
            for run in sorted(self.runs.values(), key=lambda run: -run.run_id):
                run.settle(self.pending)
                if run.run_id >= before or run.run_id in self.deleted:
                    continue
                if query.get("active_only") == "true" and not run.is_active:
                    continue
                if query.get("run_type", run.run_type) == run.run_type:
                    found.append(run)
            page, more = found[:limit], len(found) > limit
            answer: dict[str, Any] = {"runs": [self._shown(run) for run in page], "has_more": more}
            if more:
                answer["next_page_token"] = str(page[-1].run_id)
            return answer

    def cancel(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self.lock:
            run = self._find(_whole(body, "run_id"))
            if run.state.get("life_cycle_state") not in _ENDED:
                run.is_cancelled = True
                run.kill()
                if run.process is None:
                    run.end("TERMINATED", "CANCELED", "Run cancelled.", "USER_CANCELED", "SUCCESS")
            return {}

    def delete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self.lock:
            run = self._find(_whole(body, "run_id"))
            if run.is_active:
                raise ApiError(400, "INVALID_STATE", "Cannot delete an active run.")
            self.deleted.add(run.run_id)
            return {}

    def _shown(self, run: Run) -> dict[str, Any]:
        return {
            "job_id": run.run_id + 1,
            "run_id": run.run_id,
            "run_name": run.request.get("run_name", "Untitled"),
            "run_type": run.run_type,
            "run_page_url": f"https://{self.instance}/?o=1#job/{run.run_id + 1}/run/{run.run_id}",
            "start_time": int(run.started * 1000),
            "state": run.state,
            **({"status": run.status} if run.status else {}),
            "tasks": [{"run_id": run.run_id, "task_key": "flyte_task", "state": run.state}],
        }


def _whole(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(400, "MALFORMED_REQUEST", f"Could not parse request object: {name} is no number: {value!r}")
    return value


def _check(body: Mapping[str, Any]) -> None:
    """What the vendor says of a request that it cannot run."""

    def numbers(value: Any, at: str) -> None:
        if isinstance(value, float):
            raise ApiError(400, "MALFORMED_REQUEST", f"Could not parse request object: Expected 'int' at {at}")
        for name, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
            numbers(one, f"{at}.{name}")

    numbers(body, "")
    tasks = body.get("tasks") or [body]
    for task in tasks:
        kinds = [kind for kind in ("spark_python_task", "notebook_task") if kind in task]
        if len(kinds) != 1:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"A task has one of spark_python_task, notebook_task; not {kinds}")
        if task[kinds[0]].get("source") == "GIT" and "git_source" not in body:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "A task with source GIT needs git_source")
        known = [one["environment_key"] for one in body.get("environments", ())]
        if "new_cluster" in task:
            if not {"spark_version", "node_type_id", "num_workers"} <= task["new_cluster"].keys():
                raise ApiError(400, "INVALID_PARAMETER_VALUE", "Missing required field: settings.cluster_spec.new_cluster.size")
        elif "existing_cluster_id" not in task and task.get("environment_key") not in known:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "A task names what to run on")
    for stray in ("python_file", "environment_key"):
        if stray in body:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"{stray} is no field of a run")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    context: ssl.SSLContext
    databricks: Databricks

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread, so that one that does not greet keeps nobody waiting.
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as secured:
            with self.databricks.lock:
                self.databricks.connections += 1
            super().finish_request(secured, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    databricks: Databricks

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        server, url = self.databricks, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = re.sub(
            "^(/api/2[.][12]/jobs/|/oidc/v1/)", "", url.path
        )  # the vendor's Python client calls 2.2, which has the same
        with server.lock:
            server.calls[call] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            fault = next((fault for fault in server.faults if fault.path == call and fault.times > 0), None)
            if fault is not None:
                fault.times -= 1
        try:
            if fault is not None:
                time.sleep(fault.late)
                if fault.status:
                    self._send(fault.status, fault.body, fault.headers)
                    return
            try:
                status, answer = 200, self._do(method, call, url.query, body)
            except ApiError as e:
                server.calls["refused"] += e.status == 401
                status, answer = e.status, {"error_code": e.code, "message": e.message}
                if call == "token":
                    answer = {"error": e.code, "error_description": e.message}
            if fault is not None and fault.lost:
                self.close_connection = True
                return
            self._send(status, answer, {})
        finally:
            with server.lock:
                server.at_once -= 1

    def _do(self, method: str, call: str, query: str, body: bytes) -> dict[str, Any]:
        server, asked = self.databricks, {name: values[-1] for name, values in parse_qs(query).items()}
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if (method, call) == ("POST", "token"):
            form = {name: values[-1] for name, values in parse_qs(body.decode()).items()}
            return server.token(form, value if kind == "Basic" else "")
        if kind != "Bearer":
            raise ApiError(401, "UNAUTHENTICATED", "Credential was not sent or was of an unsupported type for this API.")
        if value not in server.tokens:
            raise ApiError(403, "403", "Invalid access token.")
        if server.tokens[value] < time.time():
            raise ApiError(401, "UNAUTHENTICATED", "Access token has expired.")
        if (method, call) == ("GET", "runs/list"):
            return server.list(asked)
        if method == "GET" and call in ("runs/get", "runs/get-output"):
            run_id = int(asked.get("run_id", ""))
            return server.get(run_id) if call == "runs/get" else server.get_output(run_id)
        if method == "POST" and call in ("runs/submit", "runs/cancel", "runs/delete"):
            if self.headers.get_content_type() != "application/json":
                raise ApiError(400, "MALFORMED_REQUEST", "Could not parse request object: it is no JSON")
            told = json.loads(body)
            return {"runs/submit": server.submit, "runs/cancel": server.cancel, "runs/delete": server.delete}[call](told)
        raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{method} {self.path}'")

    def _send(self, status: int, answer: Any, headers: Mapping[str, str]) -> None:
        raw = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(raw)


@contextlib.contextmanager
def serve(folder: Path, **more: Any) -> Iterator[tuple[Databricks, Path]]:
    """The server with a certificate of its own, and the file of the authority that signed it."""
    from tests.conftest import Authority

    authority = Authority(folder / "authority")
    with Databricks(*authority.issue("databricks"), **more) as server:
        yield server, authority.ca


def environment(server: Databricks, ca: Path) -> dict[str, str]:
    """What a service needs in its environment to use the server."""
    return {
        "FLYTE_DATABRICKS_INSTANCE": server.instance,
        "_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": TOKEN,
        "SSL_CERT_FILE": str(ca),
    }


def main() -> None:
    """Serve until the standard input ends or SIGTERM comes. PYTHONPATH of the script is that of runs, so that they find the
    modules of their tasks; FLYTE_* and *_AWS_* settings of storage are theirs too."""
    kept = {
        name: value for name, value in os.environ.items() if name == "PYTHONPATH" or name.startswith(("FLYTE_AWS_", "AWS_"))
    }
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with (
        tempfile.TemporaryDirectory(prefix="databricks-") as folder,
        serve(Path(folder), pending=float(os.environ.get("DATABRICKS_PENDING", "0")), env=kept) as (server, ca),
    ):
        about = {
            "url": f"https://{server.instance}",
            "instance": server.instance,
            "ca": str(ca),
            "env": environment(server, ca),
        }
        print(json.dumps(about), flush=True)

        def wait() -> None:
            while sys.stdin.buffer.read(4096):
                pass
            ended.set()

        threading.Thread(target=wait, daemon=True).start()
        while not ended.wait(0.5):
            pass


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
