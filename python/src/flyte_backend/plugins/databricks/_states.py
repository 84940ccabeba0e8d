"""What a run's state means for its task.

The names are of the vendor's API (https://docs.databricks.com/api/workspace/jobs/getrun), which says that more may come: one
that is not known keeps the task waiting, and shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._errors import Overloaded, SystemError_, UserError
from ..._plugin import JobState, JobStatus, LogLink, aborted, failed, initializing, queued, running, succeeded, waiting

Run = Mapping[str, Any]

#: Life cycle states that are the last.
ENDED = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
_GOOD = ("SUCCESS", "SUCCESS_WITH_FAILURES")

# Why a run ended, where it says no type: whose failure it is.
_USERS = {
    "BREAKING_CHANGE",
    "BUDGET_POLICY_LIMIT_EXCEEDED",
    "DISABLED",
    "FEATURE_DISABLED",
    "INVALID_CLUSTER_REQUEST",
    "INVALID_RUN_CONFIGURATION",
    "LIBRARY_INSTALLATION_ERROR",
    "RESOURCE_NOT_FOUND",
    "SKIPPED",
    "UNAUTHORIZED_ERROR",
}
_LIMITS = {
    "CLUSTER_REQUEST_LIMIT_EXCEEDED",
    "MAXIMUM_CONCURRENT_RUNS_REACHED",
    "MAX_CONCURRENT_RUNS_EXCEEDED",
    "MAX_JOB_QUEUE_SIZE_EXCEEDED",
    "MAX_SPARK_CONTEXTS_EXCEEDED",
    "WORKSPACE_RUN_LIMIT_EXCEEDED",
}
_SYSTEMS = {
    "CANCELED",
    "CLOUD_FAILURE",
    "CLUSTER_ERROR",
    "DRIVER_ERROR",
    "INTERNAL_ERROR",
    "REPOSITORY_CHECKOUT_FAILED",
    "STORAGE_ACCESS_ERROR",
}
_SKIPS = ("DISABLED", "EXCLUDED", "UPSTREAM_CANCELED", "UPSTREAM_FAILED")


def phase_of(run: Run) -> tuple[str, str]:
    """A run's life cycle state and its result, from the older ``state`` or else from the newer ``status``; empty for what it
    does not say."""
    state = run.get("state") or {}
    if state.get("life_cycle_state"):
        return str(state["life_cycle_state"]), str(state.get("result_state") or "")
    status = run.get("status") or {}
    life, code = str(status.get("state") or ""), str((status.get("termination_details") or {}).get("code") or "")
    if life == "TERMINATED" and code:
        result = {"USER_CANCELED": "CANCELED", "CANCELED": "CANCELED", "SKIPPED": "EXCLUDED"}.get(code, code)
        return life, result if result in (*_GOOD, "CANCELED", "EXCLUDED") else "FAILED"
    return {"WAITING": "WAITING_FOR_RETRY"}.get(life, life), ""


def is_own_failure(run: Run) -> bool:
    """Whether the run failed in the task's own code: its output says more."""
    life, result = phase_of(run)
    return life in ENDED and result == "FAILED" and _failure(run) is None


def status_of(run: Run, instance: str, output: str = "") -> JobStatus:
    """The state of a job. ``output`` is what the run's output says of its failure."""
    life, result = phase_of(run)
    message = _message(run)
    about: dict[str, Any] = {"log_links": _links(run, instance), "custom_info": _info(run, instance, life, result)}
    if life not in ENDED:
        told = f"{life}: {message}" if message else life
        if life == "PENDING":
            return initializing(told, **about)
        if life == "QUEUED":
            return queued(told, **about)
        if life in ("BLOCKED", "WAITING_FOR_RETRY"):
            return waiting(told, **about)
        if life in ("RUNNING", "TERMINATING"):
            return running(told, **about)
        return running(f"the run is in state {told or 'none'}, which this plugin does not know; it waits", **about)
    named = f"{life}/{result}" if result else life
    told = f"the run ended as {named}" + (f": {message}" if message else "")
    if life == "TERMINATED" and result in _GOOD:
        # The task itself wrote its outputs, at its output prefix.
        return succeeded(message="" if result == "SUCCESS" else told, **about)
    if life == "TERMINATED" and result == "CANCELED":
        if _termination(run).get("code") == "CANCELED":
            return failed(SystemError_(told, reason="CANCELED"), **about)  # by the platform
        return aborted(told, **about)
    if result == "TIMEDOUT":
        return failed(UserError(told, reason="TIMEDOUT"), recoverable=True, **about)
    if life == "SKIPPED" and not result or result == "MAXIMUM_CONCURRENT_RUNS_REACHED":
        return failed(Overloaded(told, reason=result or "SKIPPED"), **about)
    if result in _SKIPS:
        return failed(UserError(told, reason=result), **about)
    if life == "TERMINATED" and result != "FAILED":
        return running(f"the run is in state {named}, which this plugin does not know; it waits", **about)
    error = _failure(run)
    if error is not None:
        return failed(error, message=told, **about)
    # flytekit has written the exception, and whether it may be tried again, as error.pb: propeller takes that when there is no
    # error here.
    return JobStatus(JobState.FAILED, f"{told}\n{output}" if output else told, **about)


def _failure(run: Run) -> UserError | SystemError_ | Overloaded | None:
    """Whose failure it was that ended a run; None for that of the task's own code."""
    details = _termination(run)
    code, kind = str(details.get("code") or ""), str(details.get("type") or "")
    life, _ = phase_of(run)
    if code in _LIMITS:
        return Overloaded(code, reason=code)
    if code == "RUN_EXECUTION_ERROR":
        return None
    if kind == "CLIENT_ERROR" and code or not kind and code in _USERS:
        return UserError(code, reason=code)
    if kind in ("INTERNAL_ERROR", "CLOUD_FAILURE") or code in _SYSTEMS or life == "INTERNAL_ERROR":
        return SystemError_(code or life, reason=code or life)
    return None


def _termination(run: Run) -> Mapping[str, Any]:
    return (run.get("status") or {}).get("termination_details") or {}


def _message(run: Run) -> str:
    """What the vendor tells people, as long as it tells anything."""
    state, status = run.get("state") or {}, run.get("status") or {}
    parts = (
        state.get("state_message"),
        state.get("queue_reason") or (status.get("queue_details") or {}).get("message"),
        _termination(run).get("message"),
    )
    return "; ".join(dict.fromkeys(str(part).strip() for part in parts if part))


def _links(run: Run, instance: str) -> list[LogLink]:
    page = str(run.get("run_page_url") or "")
    if not page.startswith("https://"):
        page = f"https://{instance}/#job/{run.get('job_id', '')}/run/{run.get('run_id', '')}"
    return [LogLink("Databricks Run", page)]


def _info(run: Run, instance: str, life: str, result: str) -> dict[str, Any]:
    """What is shown beside the task. Ids are text, since a number of a structure holds no more than 53 bits."""
    tasks = run.get("tasks") or [{}]
    cluster = (run.get("cluster_instance") or tasks[0].get("cluster_instance") or {}).get("cluster_id")
    info = {
        "instance": instance,
        "run_id": str(run.get("run_id", "")),
        "job_id": str(run.get("job_id", "")),
        "run_name": run.get("run_name"),
        "life_cycle_state": life,
        "result_state": result,
        "termination_code": _termination(run).get("code"),
        "cluster_id": cluster,
    }
    return {name: value for name, value in info.items() if value}
