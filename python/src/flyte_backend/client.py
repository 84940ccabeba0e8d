"""A client of services, for notebooks, scripts and tests: it submits tasks as propeller does, follows them, and gives results.

It speaks REST. Errors of calls are the exceptions that plugins raise; a job that ends without success is :class:`JobFailed`.
"""

from __future__ import annotations

import asyncio
import html
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from ._binding import python_outputs
from ._errors import BackendError, JobFailed, Retry, SystemError_, code_of_status, error_of, retry_after
from ._jobids import MAX_IN_URL
from ._plugin import JobState
from ._protojson import Invalid
from ._values import encode_outputs, encode_struct, literal_type

__all__ = ["AsyncBackendClient", "AsyncJob", "BackendClient", "Job", "JobView", "task_template"]

# How long a job is left alone between two looks, in seconds: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


def task_template(
    task_type: str,
    *,
    custom: Any = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    name: str = "",
    task_type_version: int = 0,
) -> dict[str, Any]:
    """A task as propeller would send it, in protobuf's JSON form. ``inputs`` are values, ``outputs`` Python types, by name."""
    template: dict[str, Any] = {
        "id": {"resourceType": "TASK", "project": "local", "domain": "local", "name": name or task_type, "version": "1"},
        "type": task_type,
        "interface": {
            "inputs": {"variables": {key: {"type": _type_of(value)} for key, value in (inputs or {}).items()}},
            "outputs": {"variables": {key: {"type": literal_type(of)} for key, of in (outputs or {}).items()}},
        },
    }
    if task_type_version:
        template["taskTypeVersion"] = task_type_version
    if custom is not None:
        template["custom"] = encode_struct(custom)
    return template


def _type_of(value: Any) -> Any:
    """The Flyte type of a value; a structure for what has none of its own."""
    if isinstance(value, (list, tuple)):
        return {"collectionType": _type_of(value[0]) if value else {"simple": "NONE"}}
    try:
        return literal_type(type(value)) or {"simple": "STRUCT"}
    except Invalid:
        return {"simple": "STRUCT"}


def _error(response: httpx.Response) -> BackendError:
    """What an answer that is no success says. Without an error_code it is from something on the way, and may pass."""
    try:
        body = response.json()
        code, message = body["error_code"], body["message"]
    except (ValueError, KeyError, TypeError):
        message = f"something on the way answered {response.status_code}"
        error = error_of(code_of_status(response.status_code), message, after=retry_after(response.headers))
        return error if isinstance(error, Retry) else Retry(message, after=error.after)
    return error_of(code, message, after=retry_after(response.headers))


def _body(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise _error(response)
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise SystemError_("the service's answer is no JSON object")
    return body


class JobView:
    """What is known of a job. ``state`` is what the last look gave."""

    def __init__(self, task_type: str, version: str, job_id: str, output_prefix: str = "") -> None:
        self.task_type = task_type
        self.version = version
        self.job_id = job_id
        self.output_prefix = output_prefix
        self.state = JobState.QUEUED
        self.message = ""
        self.error_code = ""
        self.recoverable: bool | None = None
        self.outputs: dict[str, Any] | None = None
        self.log_links: dict[str, str] = {}
        self.custom_info: dict[str, Any] = {}
        self.poll_after = 0.0

    def _see(self, body: Mapping[str, Any]) -> None:
        try:
            self.state = JobState(body["job_state"])
            self.outputs = python_outputs(body["outputs"]) if body.get("outputs") is not None else None
            self.log_links = {link.get("name", ""): link.get("uri", "") for link in body.get("log_links", ())}
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise SystemError_(f"the service's answer is no state of a job: {e}") from e
        self.message = str(body.get("message", ""))
        self.error_code = str(body.get("error_code", ""))
        self.recoverable = body.get("recoverable")
        self.custom_info = body.get("custom_info", {})
        self.poll_after = float(body.get("poll_after_seconds", 0))

    def _ended(self) -> dict[str, Any]:
        if self.state is not JobState.SUCCEEDED:
            message = self.message or f"the job ended as {self.state.value}"
            raise JobFailed(message, state=self.state.value, error_code=self.error_code, recoverable=self.recoverable)
        return self.outputs or {}

    def __repr__(self) -> str:
        return f"<Job {self.task_type} {self.job_id[:80]!r} {self.state.value}{': ' + self.message if self.message else ''}>"

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        colour = {"SUCCEEDED": "#1a7f37", "RUNNING": "#0969da", "ABORTED": "#6e7781"}.get(self.state.value)
        colour = colour or ("#cf222e" if self.state.is_final else "#9a6700")
        rows = {"State": f'<b style="color:{colour}">{self.state.value}</b>'}
        rows["Task type"] = html.escape(f"{self.task_type} {self.version}")
        rows["Job"] = f"<code>{html.escape(self.job_id[:200])}</code>"
        if self.message:
            rows["Message"] = html.escape(self.message)
        if self.error_code:
            rows["Error"] = html.escape(self.error_code)
        if self.log_links:
            rows["Logs"] = " ".join(_anchor(name, uri) for name, uri in self.log_links.items())
        for name, value in (self.outputs or {}).items():
            rows[f"Output {html.escape(name)}"] = f"<code>{html.escape(repr(value)[:500])}</code>"
        body = "".join(f'<tr><th style="text-align:left">{name}</th><td>{value}</td></tr>' for name, value in rows.items())
        return f"<table>{body}</table>"


def _anchor(name: str, uri: str) -> str:
    shown = html.escape(name or uri)
    return f'<a href="{html.escape(uri)}">{shown}</a>' if uri.startswith(("http://", "https://")) else shown


def _template_of(given: Any) -> Mapping[str, Any]:
    """A TaskTemplate in protobuf's JSON form."""
    if isinstance(given, (str, bytes)):
        given = json.loads(given)
    if isinstance(given, Mapping):
        return given
    if hasattr(given, "python_interface") and hasattr(given, "task_type"):
        from ._local_template import template_of_task

        return template_of_task(given)
    if hasattr(given, "to_flyte_idl"):
        given = given.to_flyte_idl()
    if not hasattr(given, "DESCRIPTOR"):
        raise TypeError(f"the template is a {type(given).__name__}; a task of flytekit's or a TaskTemplate is due")
    from google.protobuf import json_format

    template: dict[str, Any] = json_format.MessageToDict(given)
    return template


class _Requests:
    """What both clients send."""

    @staticmethod
    def create(
        task_type: str,
        version: str,
        template: Any,
        inputs: Mapping[str, Any] | None,
        custom: Any,
        output_prefix: str,
        metadata: Mapping[str, Any] | None,
        key: str,
    ) -> dict[str, Any]:
        if template is None:
            template = task_template(task_type, custom=custom, inputs=inputs)
        template = dict(_template_of(template))
        if custom is not None:
            template["custom"] = encode_struct(custom)
        variables = template.get("interface", {}).get("inputs", {}).get("variables", {})
        types = {name: variable.get("type") for name, variable in variables.items()}
        body: dict[str, Any] = {"template": template, "inputs": encode_outputs(inputs or {}, types)}
        if output_prefix:
            body["output_prefix"] = output_prefix
        if metadata:
            body["metadata"] = dict(metadata)
        return {"json": body, "headers": {"idempotency-key": key or uuid.uuid4().hex + uuid.uuid4().hex}}

    @staticmethod
    def path(task_type: str, version: str) -> str:
        return f"/plugins/v1/{quote(task_type, safe='')}/{quote(version, safe='')}"

    @classmethod
    def poll(cls, job: JobView) -> tuple[str, str, dict[str, Any]]:
        ref = {"job_id": job.job_id}
        if job.output_prefix:
            ref["output_prefix"] = job.output_prefix
        path = cls.path(job.task_type, job.version)
        if len(job.job_id.encode()) > MAX_IN_URL:
            return "POST", path + "/poll", {"json": {"jobs": [ref]}}
        return "GET", path, {"params": ref}

    @classmethod
    def delete(cls, job: JobView) -> tuple[str, str, dict[str, Any]]:
        path = cls.path(job.task_type, job.version)
        if len(job.job_id.encode()) > MAX_IN_URL:
            return "POST", path + "/delete", {"json": {"job_id": job.job_id}}
        return "DELETE", path, {"params": {"job_id": job.job_id}}

    @staticmethod
    def polled(body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state in the answer of a poll, which may be one of many jobs."""
        if "results" not in body:
            return body
        (result,) = body["results"]
        if "error" in result:
            error = result["error"]
            raise error_of(error["error_code"], error["message"], after=error.get("retry_after_seconds", 0))
        job: Mapping[str, Any] = result["job"]
        return job


class _Pauses:
    """How long to wait between two looks, and until when. Calls that may succeed later are made again."""

    def __init__(self, timeout: float | None) -> None:
        self.deadline = time.monotonic() + timeout if timeout is not None else None
        self._next = FIRST_PAUSE

    def after(self, asked: float, last: str = "") -> float:
        """``last`` is what is known so far, for the error when the time is over."""
        pause = asked or self._next
        self._next = min(self._next * 1.5, LONGEST_PAUSE)
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the job did not end in time" + (f"; at last: {last}" if last else ""))
            pause = min(pause, left)
        return pause


def _retries(error: BackendError, pauses: _Pauses) -> float:
    if not isinstance(error, Retry):
        raise error
    return pauses.after(error.after, f"it could not be looked at: {error}")


class Job(JobView):
    """A job at a service."""

    def __init__(self, client: BackendClient, task_type: str, version: str, job_id: str, output_prefix: str = "") -> None:
        super().__init__(task_type, version, job_id, output_prefix)
        self._client = client

    def poll(self) -> JobState:
        """Look at it once."""
        method, path, more = _Requests.poll(self)
        self._see(_Requests.polled(self._client._call(method, path, **more)))
        return self.state

    def follow(self, timeout: float | None = None) -> Iterator[JobView]:
        """Itself, at once and whenever its state or message changed, until it ended. Outages are waited out.

        Raises TimeoutError after ``timeout`` seconds."""
        pauses = _Pauses(timeout)
        told: tuple[Any, ...] = ()
        while True:
            try:
                self.poll()
            except BackendError as e:
                time.sleep(_retries(e, pauses))
                continue
            if (self.state, self.message) != told:
                told = (self.state, self.message)
                yield self
            if self.state.is_final:
                return
            time.sleep(pauses.after(self.poll_after, f"{self.state.value} {self.message}".strip()))

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for its end, and give its outputs. Raises :class:`JobFailed` when it did not succeed."""
        for _ in self.follow(timeout):
            pass
        return self._ended()

    def cancel(self) -> None:
        """End it. This may be repeated."""
        method, path, more = _Requests.delete(self)
        self._client._call(method, path, **more)


class BackendClient:
    """A client that blocks. Use it as a context manager, or close it.

    ``verify`` and ``cert`` are httpx's: an SSL context, and a client certificate.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] = "",
        timeout: float = 30.0,
        verify: Any = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._token = token
        self._http = httpx.Client(base_url=url, timeout=timeout, verify=verify, transport=transport)

    def __enter__(self) -> BackendClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        headers = {**more.pop("headers", {}), **_authorization(self._token)}
        try:
            return _body(self._http.request(method, path, headers=headers, **more))
        except httpx.TransportError as e:
            raise Retry(f"the service cannot be reached: {type(e).__name__}: {e}") from e

    def plugins(self) -> list[dict[str, Any]]:
        """What the service serves."""
        plugins: list[dict[str, Any]] = self._call("GET", "/plugins/v1")["plugins"]
        return plugins

    def submit(
        self,
        task_type: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        custom: Any = None,
        template: Any = None,
        version: str = "v1",
        output_prefix: str = "",
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
    ) -> Job:
        """Start a job. ``template`` is a task of flytekit's, or a TaskTemplate as flytekit's model, protobuf's message, or its
        JSON form as text or dict. Without one, one is made of the inputs and ``custom``."""
        more = _Requests.create(task_type, version, template, inputs, custom, output_prefix, metadata, idempotency_key)
        body = self._call("PUT", _Requests.path(task_type, version), **more)
        return self.job(task_type, str(body.get("job_id", "")), version=version, output_prefix=output_prefix)

    def job(self, task_type: str, job_id: str, *, version: str = "v1", output_prefix: str = "") -> Job:
        """A job that is known by its id."""
        return Job(self, task_type, version, job_id, output_prefix)

    def execute(
        self,
        task_type: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        custom: Any = None,
        template: Any = None,
        version: str = "v1",
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Run a synchronous task, and give its outputs. Raises :class:`JobFailed` when it did not succeed."""
        more = _Requests.create(task_type, version, template, inputs, custom, "", None, "")
        view = JobView(task_type, version, "")
        view._see(self._call("POST", _Requests.path(task_type, version) + "/execute", timeout=timeout, **more))
        return view._ended()


class AsyncJob(JobView):
    """A job at a service."""

    def __init__(self, client: AsyncBackendClient, task_type: str, version: str, job_id: str, output_prefix: str = "") -> None:
        super().__init__(task_type, version, job_id, output_prefix)
        self._client = client

    async def poll(self) -> JobState:
        """Look at it once."""
        method, path, more = _Requests.poll(self)
        self._see(_Requests.polled(await self._client._call(method, path, **more)))
        return self.state

    async def follow(self, timeout: float | None = None) -> AsyncIterator[JobView]:
        """Itself, at once and whenever its state or message changed, until it ended. Outages are waited out.

        Raises TimeoutError after ``timeout`` seconds."""
        pauses = _Pauses(timeout)
        told: tuple[Any, ...] = ()
        while True:
            try:
                await self.poll()
            except BackendError as e:
                await asyncio.sleep(_retries(e, pauses))
                continue
            if (self.state, self.message) != told:
                told = (self.state, self.message)
                yield self
            if self.state.is_final:
                return
            await asyncio.sleep(pauses.after(self.poll_after, f"{self.state.value} {self.message}".strip()))

    async def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for its end, and give its outputs. Raises :class:`JobFailed` when it did not succeed."""
        async for _ in self.follow(timeout):
            pass
        return self._ended()

    async def cancel(self) -> None:
        """End it. This may be repeated."""
        method, path, more = _Requests.delete(self)
        await self._client._call(method, path, **more)


class AsyncBackendClient:
    """The same for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] = "",
        timeout: float = 30.0,
        verify: Any = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = token
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, verify=verify, transport=transport)

    async def __aenter__(self) -> AsyncBackendClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        headers = {**more.pop("headers", {}), **_authorization(self._token)}
        try:
            return _body(await self._http.request(method, path, headers=headers, **more))
        except httpx.TransportError as e:
            raise Retry(f"the service cannot be reached: {type(e).__name__}: {e}") from e

    async def plugins(self) -> list[dict[str, Any]]:
        """What the service serves."""
        plugins: list[dict[str, Any]] = (await self._call("GET", "/plugins/v1"))["plugins"]
        return plugins

    async def submit(
        self,
        task_type: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        custom: Any = None,
        template: Any = None,
        version: str = "v1",
        output_prefix: str = "",
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
    ) -> AsyncJob:
        """Start a job. ``template`` is a task of flytekit's, or a TaskTemplate as flytekit's model, protobuf's message, or its
        JSON form as text or dict. Without one, one is made of the inputs and ``custom``."""
        more = _Requests.create(task_type, version, template, inputs, custom, output_prefix, metadata, idempotency_key)
        body = await self._call("PUT", _Requests.path(task_type, version), **more)
        return self.job(task_type, str(body.get("job_id", "")), version=version, output_prefix=output_prefix)

    def job(self, task_type: str, job_id: str, *, version: str = "v1", output_prefix: str = "") -> AsyncJob:
        """A job that is known by its id."""
        return AsyncJob(self, task_type, version, job_id, output_prefix)

    async def execute(
        self,
        task_type: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        custom: Any = None,
        template: Any = None,
        version: str = "v1",
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Run a synchronous task, and give its outputs. Raises :class:`JobFailed` when it did not succeed."""
        more = _Requests.create(task_type, version, template, inputs, custom, "", None, "")
        view = JobView(task_type, version, "")
        view._see(await self._call("POST", _Requests.path(task_type, version) + "/execute", timeout=timeout, **more))
        return view._ended()


def _authorization(token: str | Callable[[], str]) -> dict[str, str]:
    found = token() if callable(token) else token
    return {"authorization": f"Bearer {found}"} if found else {}
