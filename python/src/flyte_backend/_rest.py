"""REST, as api/openapi.yaml has it. The routes are Starlette's: FastAPI's own layer would cost two thirds of the speed.

A path is looked at as it was sent: a task type's own slashes are escaped in it.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from ._binding import Call, to_json
from ._errors import BackendError, Cancelled, NotFound, Overloaded, SystemError_, Unauthenticated, Unimplemented, UserError
from ._jobids import MAX_IN_URL, decode_job_id, encode_job_id
from ._metrics import CONTENT_TYPE as METRICS_TYPE
from ._protojson import Invalid, check_message, contract_text, timestamp
from ._service import MAX_JOBS_IN_POLL, Service

log = logging.getLogger("flyte_backend")

ROOT = "/plugins/v1"
JSON_TYPE = "application/json; charset=utf-8"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_KEY = re.compile(r"[!-~]{1,64}")
_MAX_MESSAGE = 4096
# A body of more bytes is read in a thread, so that other calls go on meanwhile.
LARGE = 256 << 10


class Answer(Exception):
    """An answer that is not a result."""

    def __init__(self, status: int, error: BackendError) -> None:
        self.status = status
        self.error = error


class _HungUp(Exception):
    """Nobody waits for the answer."""


class Request:
    """A call on its way to the service."""

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        self.scope = scope
        self.receive = receive
        self.service = service
        self.task_type = ""
        self.version = ""
        self.body: dict[str, Any] = {}
        self.query: dict[str, list[str]] = {}
        self.key = ""
        self.is_large = False

    def headers(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]

    def call(self, **more: Any) -> Call:
        return Call(self.task_type, self.version, key=self.key, transport="rest", **more)


Handler = Callable[[Request], Awaitable[Any]]


# ---- reading


def malformed(text: str) -> UserError:
    return UserError(text if len(text) <= 1024 else text[:1024] + "…")


def _percent(raw: bytes, what: str) -> str:
    if b"%" in raw:
        if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
            raise malformed(f"{what} has a % that no two hexadecimal digits follow")
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise malformed(f"{what} is not UTF-8") from None


def _read_query(raw: bytes) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for pair in raw.split(b"&"):
        if pair:
            name, _, value = (part.replace(b"+", b" ") for part in pair.partition(b"="))
            out.setdefault(_percent(name, "the query"), []).append(_percent(value, "the query"))
    return out


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise malformed(f"the body has {name!r} twice")
            seen.add(name)
    return out


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_json(raw: bytes) -> dict[str, Any]:
    """The JSON object that a body is."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise malformed("the body is not UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
        if "\\u" in text:  # half a character can stand there
            json.dumps(value, ensure_ascii=False).encode()
    except BackendError:
        raise
    except json.JSONDecodeError as e:
        raise malformed(f"the body is not JSON: {e.msg}, at character {e.pos}") from None
    except UnicodeEncodeError:
        raise malformed("the body holds text with half a character") from None
    except RecursionError:
        raise malformed("the body nests too deep") from None
    except ValueError as e:
        raise malformed(f"the body is not JSON: {e}") from None
    if not isinstance(value, dict):
        raise malformed("the body is not a JSON object")
    return value


async def _read_body(request: Request) -> None:
    kind, *parameters = (part.strip() for part in (request.headers(b"content-type") or [""])[0].lower().split(";"))
    charsets = [p.partition("=")[2].strip('" ') for p in parameters if p.startswith("charset")]
    if kind != "application/json" or any(c != "utf-8" for c in charsets):
        given = (request.headers(b"content-type") or [""])[0][:200]
        raise Answer(415, UserError(f"the body is {given!r}; application/json is due"))
    encoding = (request.headers(b"content-encoding") or ["identity"])[0][:200]
    if encoding.lower() not in ("", "identity"):
        raise Answer(415, UserError(f"the body is encoded as {encoding!r}, which this service does not read"))
    limit = request.service.options.max_request_bytes
    large = Answer(
        413, Overloaded(f"the request is larger than {limit} bytes, the limit of this service (--max-request-bytes)")
    )
    length = (request.headers(b"content-length") or ["0"])[0]
    if length.isdigit() and int(length[:20]) > limit:
        raise large
    chunks: list[bytes] = []

    async def read() -> None:
        size = 0
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise large
            chunks.append(chunk)
            if not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(read(), request.service.options.body_timeout or None)
    except asyncio.TimeoutError:
        raise malformed("the body was too slow to arrive") from None
    whole = b"".join(chunks)
    request.is_large = len(whole) > LARGE
    request.body = await asyncio.to_thread(read_json, whole) if request.is_large else read_json(whole)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise malformed(f"{name} is not a string")
    return value


def _number(fields: Mapping[str, Any], name: str, limit: float) -> float:
    value = fields.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise malformed(f"{name} is not a number")
    if not 0 <= value <= limit:
        raise malformed(f"{name} is {str(value)[:40]}, which is not from 0 to {limit:g}")
    return value


def _whole(fields: Mapping[str, Any], name: str, limit: int) -> int:
    value = _number(fields, name, limit)
    if value != math.trunc(value):
        raise malformed(f"{name} is {value}, which is no integer")
    return int(value)


def _time(fields: Mapping[str, Any], name: str) -> datetime | None:
    if name not in fields:
        return None
    text = _text(fields, name)
    try:
        return timestamp(re.sub(r"(\.[0-9]{9})[0-9]+", r"\1", text.upper()))
    except Invalid:
        raise malformed(f"{name} is {text[:60]!r}, which is no time as RFC 3339 has it") from None


def _message(fields: Mapping[str, Any], name: str, kind: str) -> dict[str, Any]:
    try:
        return check_message(kind, fields[name])
    except Invalid as e:
        e.place.append(name)
        raise malformed(str(e)) from None


_MAX_VERSION = (1 << 31) - 1


def _job_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    text = _text(fields, "job_id")
    if not text:
        raise malformed("job_id is missing or empty")
    return {
        "job_id": decode_job_id(text),
        "task_type_version": _whole(fields, "task_type_version", _MAX_VERSION),
        "output_prefix": _text(fields, "output_prefix"),
    }


def _job_in_query(request: Request) -> Call:
    for name in ("job_id", "output_prefix", "task_type_version"):
        if len(request.query.get(name, ())) > 1:
            raise malformed(f"{name} stands in the query more than once")
    values: dict[str, Any] = {name: found[0] for name, found in request.query.items()}
    if len(values.get("job_id", "").encode()) > MAX_IN_URL:
        raise malformed(f"job_id has over {MAX_IN_URL} bytes; then it goes into the body of POST …/poll or POST …/delete")
    if "task_type_version" in values:
        text = values["task_type_version"]
        if not re.fullmatch(r"\+?[0-9]{1,20}", text, re.ASCII) or int(text) > _MAX_VERSION:
            raise malformed(f"task_type_version is {text[:40]!r}, which is not an integer from 0 to {_MAX_VERSION}")
        values["task_type_version"] = int(text)
    return request.call(**_job_of(values))


async def _task(request: Request) -> Call:
    return await asyncio.to_thread(_read_task, request) if request.is_large else _read_task(request)


def _read_task(request: Request) -> Call:
    body = request.body
    if "template" not in body:
        raise malformed("template is missing")
    template = _message(body, "template", "flyteidl.core.TaskTemplate")
    if template.setdefault("type", request.task_type) != request.task_type:
        if template["type"]:
            raise malformed(f"template.type is {template['type'][:100]!r}, and the path's is {request.task_type[:100]!r}")
        template["type"] = request.task_type
    call = request.call(template=template, task_type_version=template.get("taskTypeVersion", 0))
    if "inputs" in body:
        call.literals = _message(body, "inputs", "flyteidl.core.LiteralMap").get("literals", {})
    if "metadata" in body:
        call.metadata = _message(body, "metadata", "flyteidl.admin.TaskExecutionMetadata")
    call.output_prefix = _text(body, "output_prefix")
    call.max_output_bytes = _whole(body, "max_output_bytes", (1 << 63) - 1)
    return call


# ---- calls


def _job_status(wire: Mapping[str, Any], task_type: str, version: str) -> dict[str, Any]:
    return {"job_spec": {"task_type": task_type, "plugin_version": version}, **wire}


async def list_plugins(request: Request) -> Any:
    return {"plugins": request.service.listing()}


async def create_job(request: Request) -> Any:
    job_id = await request.service.create(await _task(request))
    return {"job_id": encode_job_id(job_id), "error_code": "", "message": ""}


async def get_job(request: Request) -> Any:
    wire, version = await request.service.poll(_job_in_query(request))
    return _job_status(wire, request.task_type, version)


async def poll_jobs(request: Request) -> Any:
    jobs = request.body.get("jobs")
    if not isinstance(jobs, list):
        raise malformed("jobs is missing" if "jobs" not in request.body else "jobs is not an array")
    if not 0 < len(jobs) <= MAX_JOBS_IN_POLL:
        raise malformed(f"jobs has {len(jobs)} items; 1 to {MAX_JOBS_IN_POLL} are due")
    calls = []
    for i, job in enumerate(jobs):
        if not isinstance(job, dict):
            raise malformed(f"jobs[{i}] is not a JSON object")
        try:
            calls.append(request.call(**_job_of(job)))
        except UserError as e:
            raise malformed(f"jobs[{i}].{e.message}") from None
    results = await request.service.poll_many(calls)
    out: list[dict[str, Any]] = []
    for result in results:
        if isinstance(result, BackendError):
            error = {"status": result.code.http_status, "error_code": result.code.value, "message": _said(result)}
            out.append({"error": {**error, "retry_after_seconds": result.after} if result.after else error})
        else:
            out.append({"job": _job_status(result, request.task_type, request.version)})
    return {"results": out}


async def delete_job(request: Request) -> Any:
    await request.service.delete(_job_in_query(request))
    return {"error_code": "", "message": ""}


async def delete_job_by_body(request: Request) -> Any:
    await request.service.delete(request.call(**_job_of(request.body)))
    return {"error_code": "", "message": ""}


async def execute_task(request: Request) -> Any:
    call = await _task(request)
    running = asyncio.ensure_future(request.service.execute(call))
    listening = asyncio.ensure_future(_hang_up(request.receive))
    try:
        await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            wire, version = running.result()
            return _job_status(wire, request.task_type, version)
        raise Cancelled("the caller hung up")
    finally:
        running.cancel()
        listening.cancel()
        await asyncio.gather(running, listening, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def get_job_logs(request: Request) -> Any:
    job = _job_of(request.body)
    lines, token = _whole(request.body, "lines", 1_000_000), _text(request.body, "token")
    return await request.service.logs(request.call(**job), lines, token)


async def get_job_metrics(request: Request) -> Any:
    job = _job_of(request.body)
    queries = request.body.get("queries", [])
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        raise malformed("queries is not an array of strings")
    start, end = _time(request.body, "start"), _time(request.body, "end")
    step = _number(request.body, "step_seconds", 31_536_000)
    every = timedelta(seconds=step) if step else None
    return {"metrics": await request.service.job_metrics(request.call(**job), queries, start, end, every)}


# ---- operations


async def health(request: Request) -> Any:
    return {"status": "up"}


async def readiness(request: Request) -> Any:
    now = request.service.readiness
    return Content({"status": now}, status=200 if now == "ready" else 503)


async def metrics(request: Request) -> Any:
    return Content(request.service.metrics.text().encode(), kind=METRICS_TYPE)


async def openapi(request: Request) -> Any:
    return Content(contract_text(), kind=JSON_TYPE)


async def docs(request: Request) -> Any:
    policy = [(b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")]
    return Content(page(request.service).encode(), kind="text/html; charset=utf-8", headers=policy)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Backend plugins</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  table { border-collapse: collapse; width: 100% }
  th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #8885 }
  td { overflow-wrap: anywhere }
</style>
<h1>Backend plugins</h1>
<p>What this service serves to FlytePropeller. The contract of the calls is in <a href="openapi.json">openapi.json</a>.</p>
<table>
<thead><tr><th>Task type<th>Plugin version<th>Task type versions<th>Mode<th>Also<th>About</thead>
<tbody>
ROWS
</tbody>
</table>
</html>
"""


def page(service: Service) -> str:
    """The registered plugins, for people. It loads nothing from other hosts."""
    rows = []
    for plugin in service.plugins.bound:
        modes = ", ".join(mode for mode, is_so in (("async", plugin.is_async), ("sync", plugin.is_sync)) if is_so)
        about = (type(plugin.plugin).__doc__ or "").strip().partition("\n\n")[0]
        versions = ", ".join(map(str, plugin.task_type_versions)) or "any"
        cells = (plugin.task_type, plugin.version, versions, modes, ", ".join(plugin.capabilities), about)
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells))
    return _PAGE.replace("ROWS", "\n".join(rows))


# ---- answering


class Content:
    """An answer that is not 200, or not JSON."""

    def __init__(
        self, content: Any, *, status: int = 200, kind: str = JSON_TYPE, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self.body: bytes = content if isinstance(content, bytes) else to_json(content)
        self.status = status
        self.kind = kind
        self.headers = headers or []

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-type", self.kind.encode()),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _said(e: BackendError) -> str:
    """What an error says, which is never empty and never long: people read it, and it is kept with the task."""
    text = str(e).encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


def failure(e: BackendError, status: int | None = None, headers: list[tuple[bytes, bytes]] | None = None) -> Content:
    """The answer to a call that failed."""
    headers = headers or []
    if e.after > 0:
        headers.append((b"retry-after", str(math.ceil(min(e.after, 1e9))).encode()))
    return Content({"error_code": e.code.value, "message": _said(e)}, status=status or e.code.http_status, headers=headers)


class ContractRoute(BaseRoute):
    """A path of the contract, with its methods."""

    # What is answered without a client certificate, so that kubelet and Prometheus can ask.
    for_all = ("/healthz", "/readyz", "/metrics")

    def __init__(self, path: str, handlers: Mapping[str, Handler], service: Service) -> None:
        self.path = path
        self.name = path
        self.handlers = dict(handlers)
        self.methods = set(self.handlers)
        self.service = service
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
        self._pattern = re.compile(pattern + "/?" if path == ROOT else pattern)
        self._needs_certificate = service.options.needs_client_certificate and path not in self.for_all

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = raw.decode("latin-1").removeprefix(scope.get("root_path", ""))
        found = self._pattern.fullmatch(path)
        return (Match.FULL, {"path_params": found.groupdict()}) if found else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await self._answer(Request(scope, receive, self.service))
        except _HungUp:
            return
        except BackendError as e:
            content = failure(e)
        except Answer as e:
            content = failure(e.error, e.status)
        except Exception:
            log.exception("the service failed")
            content = failure(SystemError_("the service failed; its log has the details"))
        await content.send(send)

    async def _answer(self, request: Request) -> Content:
        method: str = request.scope["method"]
        handler = self.handlers.get("GET" if method == "HEAD" else method)
        if self._needs_certificate and not request.scope.get("state", {}).get("client_certificate"):
            raise Unauthenticated("this service wants a client certificate")
        if handler is None:
            has = ", ".join(sorted(self.methods | ({"HEAD"} if "GET" in self.methods else set())))
            error = Unimplemented(f"{request.scope['path'][:200]} has {has}, not {method[:20]}")
            return failure(error, 405, [(b"allow", has.encode())])
        if request.scope["query_string"]:
            request.query = _read_query(request.scope["query_string"])
        if parts := request.scope["path_params"]:
            request.task_type = _percent(parts["task_type"].encode("latin-1"), "the task type in the path")
            request.version = _percent(parts["version"].encode("latin-1"), "the version in the path")
            if not _VERSION.fullmatch(request.version):
                raise NotFound(f"this service has no plugin in version {request.version[:100]!r}")
            if keys := request.headers(b"idempotency-key"):
                if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
                    raise malformed("Idempotency-Key is not 1 to 64 visible ASCII characters")
                request.key = keys[0]
        if method in ("PUT", "POST"):
            await _read_body(request)
        result = await handler(request)
        return result if isinstance(result, Content) else Content(result)


_JOB = ROOT + "/{task_type}/{version}"

# The contract's paths, the busiest first. A test compares them with the contract.
PATHS: dict[str, dict[str, Handler]] = {
    _JOB: {"GET": get_job, "PUT": create_job, "DELETE": delete_job},
    _JOB + "/poll": {"POST": poll_jobs},
    _JOB + "/delete": {"POST": delete_job_by_body},
    _JOB + "/execute": {"POST": execute_task},
    _JOB + "/logs": {"POST": get_job_logs},
    _JOB + "/metrics": {"POST": get_job_metrics},
    ROOT: {"GET": list_plugins},
    "/healthz": {"GET": health},
    "/readyz": {"GET": readiness},
    "/metrics": {"GET": metrics},
    "/openapi.json": {"GET": openapi},
    "/docs": {"GET": docs},
}


def routes(service: Service) -> list[ContractRoute]:
    return [ContractRoute(path, handlers, service) for path, handlers in PATHS.items()]


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """What every other path is answered with."""
    if scope["type"] == "http":
        await failure(NotFound(f"there is no path {scope['path'][:200]}; the plugins are below {ROOT}")).send(send)
