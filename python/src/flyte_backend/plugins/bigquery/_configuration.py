"""A task as the configuration of a job, in the JSON of BigQuery's REST API (``JobConfiguration``)."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from ..._errors import UserError
from ..._plugin import TaskInfo
from ._parameters import query_parameters
from ._statement import render

# Holds what the job was made of, so that a repeated call knows its job again.
REQUEST_LABEL = "flyte-backend-request"

# Of a task's custom: what flytekit's BigQueryConfig has itself. The rest is its QueryJobConfig.
_OURS = ("ProjectID", "Location", "Domain")
# Parts of a job's configuration that stand beside the query's own.
_OF_JOB = ("jobTimeoutMs", "labels", "maxSlots", "reservation")
# What Google's ids of projects are made of. It goes into the path of calls, so nothing else may be in it.
_PROJECT = re.compile(r"([A-Za-z0-9.-]+:)?[A-Za-z0-9-]+")
# What BigQuery allows in a label's value, and how much.
_NOT_IN_LABEL, _LABEL_LENGTH, _LABELS = re.compile(r"[^a-z0-9_-]"), 63, 64


def project_of(custom: Mapping[str, Any]) -> str:
    project = custom.get("ProjectID")
    if not isinstance(project, str) or not project:
        raise UserError("the task's custom names no ProjectID; BigQueryConfig(ProjectID=…) does", reason="BadConfiguration")
    if not _PROJECT.fullmatch(project):
        raise UserError(f"the task's ProjectID is {project[:80]!r}, which is no id of a project", reason="BadConfiguration")
    return project


def location_of(custom: Mapping[str, Any]) -> str:
    """Empty when BigQuery is to find out by the tables that the query reads."""
    location = custom.get("Location") or ""
    if not isinstance(location, str):
        raise UserError(f"the task's Location is {location!r}; it is text, such as 'EU'", reason="BadConfiguration")
    return location


def output_of(template: Mapping[str, Any]) -> str:
    """The output that the task declares for the query's result; empty when it declares none."""
    outputs = template.get("interface", {}).get("outputs", {}).get("variables", {})
    if not outputs:
        return ""
    if len(outputs) == 1:
        ((name, variable),) = outputs.items()
        if "structuredDatasetType" in variable.get("type", {}):
            return str(name)
    raise UserError(
        f"the task declares the outputs {', '.join(sorted(outputs))}; a query has one, a StructuredDataset", reason="BadOutputs"
    )


def statement_of(template: Mapping[str, Any]) -> str:
    statement = template.get("sql", {}).get("statement", "")
    if not isinstance(statement, str) or not statement.strip():
        raise UserError("the task has no query: its template's sql.statement is empty", reason="BadStatement")
    return statement


def job_configuration(task: TaskInfo) -> dict[str, Any]:
    """The job of a task. What ``custom`` has beside flytekit's own settings goes to BigQuery, which knows what it takes.

    Raises :class:`UserError` for what cannot be right."""
    declared = task.template.get("interface", {}).get("inputs", {}).get("variables", {})
    query: dict[str, Any] = {}
    job: dict[str, Any] = {}
    for name, value in task.custom.items():
        if name in _OURS or value is None:
            continue
        if name[:1].isupper():  # as flytekit writes its own; all of BigQuery's begin with a small letter
            known = ", ".join(_OURS)
            raise UserError(f"the task's custom has {name}, which is not known here; {known} are", reason="BadConfiguration")
        if name == "dryRun":
            if value:
                raise UserError("a dry run makes no job, so it cannot be a task", reason="BadConfiguration")
        elif name in _OF_JOB:
            job[name] = value
        else:
            query[name] = value
    query["query"] = render(statement_of(task.template), {*declared, *task.literals})
    parameters = _merge(query.get("queryParameters", []), query_parameters(task.literals, declared))
    if parameters:
        query["queryParameters"] = parameters
        query["parameterMode"] = "NAMED" if parameters[0].get("name") else "POSITIONAL"
        if query.get("useLegacySql") and task.literals:
            raise UserError("a query in legacy SQL takes no parameters, and so no inputs", reason="BadConfiguration")
    query.setdefault("useLegacySql", False)
    job["query"] = query
    labels = job.get("labels", {})
    about = [job, task.template.get("id"), task.template.get("securityContext"), output_of(task.template), task.output_prefix]
    request = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:40]
    if not isinstance(labels, dict):
        raise UserError("the task's labels are no dictionary", reason="BadConfiguration")
    ours = {**_identity(task), REQUEST_LABEL: request}
    if len(labels) > _LABELS - len(ours):
        raise UserError(f"the task has {len(labels)} labels; {_LABELS - len(ours)} are possible", reason="BadConfiguration")
    job["labels"] = {**labels, **ours}
    return job


def _merge(given: Any, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameters of QueryJobConfig, and the inputs, which replace those of their names."""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise UserError("the task's queryParameters are no list of parameters", reason="BadConfiguration")
    if ours and any(not one.get("name") for one in given):
        raise UserError(
            "the task has parameters without a name and inputs, which are parameters with one; BigQuery takes no mixture",
            reason="BadConfiguration",
        )
    names = {one["name"].lower() for one in ours}
    return [one for one in given if str(one.get("name", "")).lower() not in names] + ours


def _identity(task: TaskInfo) -> dict[str, str]:
    """Who runs it, for people who look at jobs and at bills."""
    attempt = task.metadata.get("taskExecutionId", {})
    node = attempt.get("nodeExecutionId", {})
    execution = node.get("executionId", {})
    of_task = {**task.template.get("id", {}), **attempt.get("taskId", {})}
    found = {
        "flyte-project": execution.get("project") or of_task.get("project"),
        "flyte-domain": execution.get("domain") or of_task.get("domain") or task.custom.get("Domain"),
        "flyte-execution": execution.get("name"),
        "flyte-node": node.get("nodeId"),
        "flyte-task": of_task.get("name"),
        "flyte-task-version": of_task.get("version"),
        "flyte-attempt": str(attempt.get("retryAttempt", 0)) if attempt else None,
    }
    return {name: _NOT_IN_LABEL.sub("-", str(value).lower())[:_LABEL_LENGTH] for name, value in found.items() if value}


def job_id_of(key: str) -> str:
    """The job's id: the same for the same idempotency key. Without a key it is random."""
    return "flyte-" + (hashlib.sha256(b"flyte-backend bigquery " + key.encode()).hexdigest() if key else uuid.uuid4().hex)
