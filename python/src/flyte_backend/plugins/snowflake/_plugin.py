"""The plugin for task type ``snowflake``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import DeadlineExceeded, NotFound, Overloaded, Retry, SecretError, SystemError_, UserError
from ..._plugin import BackendPluginBase, JobRef, JobStatus, Logger, TaskInfo, aborted, failed, running, succeeded
from ..._secrets import Secrets
from ..._types import Dataset
from ._account import Accounts, console
from ._api import Answer, SqlApi, failed_call
from ._auth import Credentials, jwt_module
from ._settings import Settings, settings_of
from ._sql import bind
from ._states import CANCELED, error_of_statement, is_timeout, refused

POLLS_AT_ONCE = 32
# What a poll of many has not learned after so many seconds is asked for again, so that the rest is told within propeller's ten.
POLL_MANY_TIMEOUT = 8.0
LATE = "Snowflake did not tell in time how the statement is; it is asked again"
# Makes request ids of idempotency keys. It must stay as it is: replicas of two versions answer for the same task.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/flyte-backend/flyte-backend#snowflake")


@dataclass(frozen=True)
class Job:
    """The job id: what finds the statement again, and what its result is called. Nothing of it is secret."""

    account: str
    user: str
    handle: str
    #: The output that gets the result; empty when the task declares none.
    output: str = ""
    warehouse: str = ""
    database: str = ""
    schema: str = ""
    #: The request has several statements, of which the last one has the result.
    many: bool = False


class SnowflakePlugin(BackendPluginBase):
    """Runs the statement of a ``SnowflakeTask`` and gives where its result is, for flytekit to read."""

    def __init__(self, *, host: str = "", accounts: Sequence[str] = ()) -> None:
        """``host`` and ``accounts`` overrule the environment: see :class:`Accounts`."""
        super().__init__(task_type="snowflake", version="v1", name="Snowflake")
        self._host, self._only = host, tuple(accounts)
        self._api: SqlApi | None = None

    async def configure(self, secrets: Secrets, log: Logger) -> None:
        jwt_module()  # a missing extra stops the service now, and not the first task
        self._api = SqlApi(Accounts(self._host, self._only))
        try:
            Credentials().headers(secrets, "account", "user")
        except SecretError as e:
            log.warning("no task will run: %s", e)

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    @property
    def api(self) -> SqlApi:
        if self._api is None:
            raise SystemError_("the Snowflake plugin has not been configured")
        return self._api

    async def create(self, task: TaskInfo, secrets: Secrets) -> Job:
        settings = settings_of({**task.custom, **task.template.get("config", {})})
        self.api.accounts.check(settings.account)
        output = _output(task.template)
        if output:
            _check_uri(settings)
        text = task.template.get("sql", {}).get("statement", "")
        if not text.strip():
            raise UserError("the task has no statement; SnowflakeTask has it as query_template")
        statement = bind(text, task.inputs)
        if settings.is_many and statement.bindings:
            raise UserError("the task has several statements and inputs in them, and Snowflake binds no variables in several")
        body = {"statement": statement.text, **settings.body()}
        if statement.bindings:
            body["bindings"] = statement.bindings
        # Without a key nobody repeats the call.
        request_id = uuid.uuid5(_NAMESPACE, task.idempotency_key) if task.idempotency_key else uuid.uuid4()
        answer = await self.api.submit(secrets, settings.account, settings.user, str(request_id), body)
        if (error := refused(answer, settings.account, settings.user) or failed_call(answer)) is not None:
            raise error
        if answer.status not in (200, 202):
            raise error_of_statement(answer)
        if not answer.handle:
            raise Retry("Snowflake's answer names no statement; asking again finds the same one")
        return Job(
            account=settings.account,
            user=settings.user,
            handle=answer.handle,
            output=output,
            warehouse=settings.warehouse,
            database=settings.database,
            schema=settings.schema,
            many=settings.is_many,
        )

    async def poll(self, job_id: Job, secrets: Secrets) -> JobStatus:
        return _status(job_id, await self.api.look(secrets, job_id.account, job_id.user, job_id.handle))

    async def poll_many(self, jobs: Sequence[JobRef], secrets: Secrets) -> list[JobStatus | BaseException]:
        """The API has no call for many statements. Asking the history of statements by SQL would be one, but needs a warehouse
        that runs, and costs what keeping it so costs. So each is asked for, some at once, over connections that stay open."""
        at_once = asyncio.Semaphore(POLLS_AT_ONCE)
        full: dict[str, Overloaded] = {}

        async def one(job: Job) -> JobStatus:
            async with at_once:
                if (error := full.get(job.account)) is not None:
                    raise error  # it has just asked for a pause
                try:
                    return await self.poll(job, secrets)
                except Overloaded as e:
                    full[job.account] = e
                    raise

        looks = [asyncio.ensure_future(one(job.job_id)) for job in jobs]
        try:
            await asyncio.wait(looks, timeout=POLL_MANY_TIMEOUT)
        finally:
            late = [look for look in looks if look.cancel()]
        # A connection that is given up is not back in the pool before its look has ended.
        await asyncio.gather(*late, return_exceptions=True)
        return [DeadlineExceeded(LATE) if look.cancelled() else look.exception() or look.result() for look in looks]

    async def delete(self, job_id: Job, secrets: Secrets) -> None:
        answer = await self.api.cancel(secrets, job_id.account, job_id.user, job_id.handle)
        if (error := failed_call(answer)) is not None:
            raise error
        if answer.status == 200:
            return
        # It cannot be canceled, which is as well for one that has ended, or is not there.
        seen = await self.api.look(secrets, job_id.account, job_id.user, job_id.handle)
        if (error := failed_call(seen)) is not None:
            raise error
        if seen.status == 202:
            raise Retry(f"Snowflake did not cancel statement {job_id.handle}: {answer.code} {answer.text('message')}")


def _status(job: Job, answer: Answer) -> JobStatus:
    if (error := failed_call(answer)) is not None:
        raise error
    links = {"Snowflake Query Details": console(job.account, job.handle)}
    info = {"statement": job.handle, "warehouse": job.warehouse}
    if answer.status == 202:
        return running(f"statement {job.handle} runs", log_links=links, custom_info=info)
    if answer.status == 200:
        outputs = {job.output: Dataset(_uri(job, answer))} if job.output else {}
        return succeeded(outputs, message=_rows(answer), log_links=links, custom_info=info)
    if answer.code == CANCELED:
        return aborted(f"{answer.code}: {answer.text('message')}", log_links=links, custom_info=info)
    why = error_of_statement(answer)
    if isinstance(why, NotFound):
        raise why
    return failed(why, recoverable=True if is_timeout(why) else None, log_links=links, custom_info=info)


def _rows(answer: Answer) -> str:
    about = answer.body.get("resultSetMetaData")
    rows = about.get("numRows") if isinstance(about, Mapping) else None
    return f"{rows} rows" if isinstance(rows, int) else ""


def _uri(job: Job, answer: Answer) -> str:
    """Where flytekit's decoder for pandas looks: the result of a statement, by its id."""
    handle = answer.last_handle if job.many else ""
    places = (job.warehouse, job.database, job.schema, handle or job.handle)
    return f"snowflake://{job.user}:{job.account}/{'/'.join(places)}"


def _check_uri(settings: Settings) -> None:
    """flytekit's decoder takes the URI apart at every slash and colon, and knows no escapes."""
    for name in ("user", "account", "warehouse", "database", "schema"):
        value = getattr(settings, name)
        if "/" in value or ":" in value:
            raise UserError(f"{name} of the task's config is {value!r}; with / or : in it flytekit cannot read the result")


def _output(template: Mapping[str, Any]) -> str:
    """The name of the output that the task declares; empty for none."""
    declared = template.get("interface", {}).get("outputs", {}).get("variables", {})
    for name, variable in declared.items():
        if "structuredDatasetType" not in variable.get("type", {}):
            raise UserError(f"the task declares output {name!r}, which is no StructuredDataset; a statement gives nothing else")
    if len(declared) > 1:
        raise UserError(f"the task declares outputs {', '.join(sorted(declared))}; a statement gives one StructuredDataset")
    return next(iter(declared), "")
