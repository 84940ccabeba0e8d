"""What is submitted for a task: the settings that flytekit writes, in the form of the vendor's ``runs/submit``.

The rules are those of flytekitplugins-spark 1.16.31, so that a task that ran under flytekit's connector runs here.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ..._errors import UserError
from ..._plugin import TaskInfo
from ._settings import Settings

# The files that flytekit's connector runs, at the commit that it names. They need flytekit on the cluster, and find the task.
_GIT_SOURCE = {
    "git_url": "https://github.com/flyteorg/flytetools",
    "git_provider": "gitHub",
    "git_commit": "572298df1f971fb58c258398bd70a6372f811c96",
}
_CLASSIC, _SERVERLESS = "flytekitplugins/databricks/entrypoint.py", "flytekitplugins/databricks/entrypoint_serverless.py"

# What propeller fills in, and at registration flytekit. Anything else is the task's own, such as {{secrets/scope/key}}.
_PLACEHOLDER = re.compile(
    r"\{\{\s*[.$](input|inputPrefix|inputs\.[^}\s]+|outputPrefix|rawOutputDataPrefix|checkpointOutputPrefix|prevCheckpointPrefix"
    r"|perRetryUniqueKey|taskTemplatePath|namespace|remote_package_path|dest_dir)\s*\}\}",
    re.IGNORECASE,
)

_MAX_TOKEN = 64  # of the vendor's idempotency_token


def request_of(task: TaskInfo, settings: Settings) -> dict[str, Any]:
    """The body of ``runs/submit``. Raises :class:`UserError` for a task that cannot be submitted."""
    custom = task.custom
    conf = custom.get("databricksConf")
    if not isinstance(conf, Mapping) or not conf:
        raise UserError(
            f"task {task.name!r} has no databricks_conf, so it is none for Databricks: "
            "give it task_config=DatabricksV2(databricks_conf=…), or have it run by the plugin for Spark on Kubernetes"
        )
    body: dict[str, Any] = copy.deepcopy(dict(conf))
    is_classic = body.get("existing_cluster_id") is not None or body.get("new_cluster") is not None
    if not is_classic and not body.get("environment_key") and not body.get("environments"):
        raise UserError(
            f"the databricks_conf of task {task.name!r} says nothing of what to run on; "
            "it takes existing_cluster_id or new_cluster, or for serverless environment_key or environments"
        )
    container = task.template.get("container") or {}
    env = _environment(task, container)
    if custom.get("notebookPath"):
        work = _notebook(custom, body)
    else:
        work = _python_file(custom, body, container, settings, is_classic)
    if is_classic:
        _configure_cluster(custom, body, container, env)
        body |= work
    else:
        key = _configure_serverless(body, env)
        name = "flyte_notebook_task" if "notebook_task" in work else "flyte_task"
        body["tasks"] = [{"task_key": name, **work, "environment_key": key}]
    if not body.get("run_name"):
        body["run_name"] = _run_name(task)
    if task.idempotency_key:
        body["idempotency_token"] = token_of(task.idempotency_key)
    return body


def token_of(key: str) -> str:
    """The vendor's idempotency token of a key: the key itself, which is 64 characters of propeller, or a digest of it."""
    return key if len(key) <= _MAX_TOKEN else hashlib.sha256(key.encode()).hexdigest()


def _python_file(
    custom: Mapping[str, Any], body: dict[str, Any], container: Mapping[str, Any], settings: Settings, is_classic: bool
) -> dict[str, Any]:
    arguments = [str(argument) for argument in container.get("args", ())]
    for argument in arguments:
        if left := _PLACEHOLDER.search(argument):
            raise UserError(
                f"the container's argument {left.group()} is not filled in, so the task would find no inputs; "
                "propeller fills it in, and so does flytekit's local execution"
            )
    git, file = body.pop("git_source", None), body.pop("python_file", None)
    application = str(custom.get("mainApplicationFile") or "")
    if not file and not git and _is_reachable(application):
        file = application
    if not file and not git and is_classic:
        file = settings.entrypoint
    task: dict[str, Any] = {"python_file": file or (_CLASSIC if is_classic else _SERVERLESS), "parameters": arguments}
    if git or not _is_reachable(str(file or "")):
        task["source"] = "GIT"
        body["git_source"] = git or dict(_GIT_SOURCE)
    provider = custom.get("databricksServiceCredentialProvider") or settings.credential_provider
    if provider and not is_classic:
        arguments.append(f"--flyte-credential-provider={provider}")
    return {"spark_python_task": task}


def _is_reachable(file: str) -> bool:
    """Whether Databricks finds a file by itself: in a store, or in the workspace. ``local://`` is inside an image, which is
    what flytekit writes for Spark on Kubernetes."""
    return file.startswith("/") or ":/" in file and not file.startswith("local:")


def _notebook(custom: Mapping[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    notebook: dict[str, Any] = {"notebook_path": custom["notebookPath"]}
    if parameters := custom.get("notebookBaseParameters"):
        notebook["base_parameters"] = parameters
    if body.get("git_source"):
        notebook["source"] = "GIT"
    return {"notebook_task": notebook}


def _configure_cluster(
    custom: Mapping[str, Any], body: dict[str, Any], container: Mapping[str, Any], env: Mapping[str, str]
) -> None:
    """A cluster that exists is as it is; a new one gets the task's image, Spark settings and environment."""
    cluster = body.get("new_cluster")
    if body.get("existing_cluster_id") is not None or not isinstance(cluster, dict):
        return
    if not cluster.get("docker_image") and container.get("image"):
        cluster["docker_image"] = {"url": container["image"]}
    # As Spark on Kubernetes has it, Hadoop's settings are Spark's with a prefix. What the cluster says itself comes last.
    hadoop = {f"spark.hadoop.{name}": value for name, value in (custom.get("hadoopConf") or {}).items()}
    cluster["spark_conf"] = {**hadoop, **(custom.get("sparkConf") or {}), **(cluster.get("spark_conf") or {})}
    cluster["spark_env_vars"] = {**(cluster.get("spark_env_vars") or {}), **env}


def _configure_serverless(body: dict[str, Any], env: Mapping[str, str]) -> str:
    """The key of the environment that the task runs in. It is added when the task does not describe it."""
    key = body.pop("environment_key", None) or "default"
    environments = body.setdefault("environments", [])
    found = next((one for one in environments if one.get("environment_key") == key), None)
    if found is None:
        found = {"environment_key": key, "spec": {"client": "1"}}
        environments.append(found)
    spec = found.setdefault("spec", {})
    spec["environment_vars"] = {**(spec.get("environment_vars") or {}), **env}
    return str(key)


def _environment(task: TaskInfo, container: Mapping[str, Any]) -> dict[str, str]:
    """What the task finds in its environment: its own, the execution's, and what propeller tells a pod of it. An item of a
    map task learns its index from it."""
    env = {str(pair["key"]): str(pair.get("value", "")) for pair in container.get("env", ()) if "key" in pair}
    env |= {str(name): str(value) for name, value in (task.metadata.get("environmentVariables") or {}).items()}
    told = task.metadata.get("taskExecutionId") or {}
    execution = (told.get("nodeExecutionId") or {}).get("executionId") or {}
    if execution:
        env |= {
            "FLYTE_INTERNAL_EXECUTION_ID": str(execution.get("name", "")),
            "FLYTE_INTERNAL_EXECUTION_PROJECT": str(execution.get("project", "")),
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": str(execution.get("domain", "")),
            "FLYTE_ATTEMPT_NUMBER": str(told.get("retryAttempt", 0)),
        }
    # Without it, a task that failed writes why and ends well, and the run would be a success.
    env["FLYTE_FAIL_ON_ERROR"] = "true"
    return env


def _run_name(task: TaskInfo) -> str:
    told = (task.metadata.get("taskExecutionId") or {}).get("nodeExecutionId") or {}
    execution = (told.get("executionId") or {}).get("name")
    return " ".join(part for part in ("flyte", execution, told.get("nodeId"), task.name) if part)
