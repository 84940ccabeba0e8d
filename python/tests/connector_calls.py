"""Calls of a service with flyteidl's messages, the same over REST and gRPC."""

from __future__ import annotations

from typing import Any, Protocol

import grpc
import httpx
from flyte_backend import BackendError
from flyte_backend._errors import Code, error_of
from flyte_backend._jobids import decode_job_id, encode_job_id
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, literals_pb2
from flyteidl.service import agent_pb2_grpc
from google.protobuf import json_format, struct_pb2

Lines = list[tuple[str, bool]]


class Calls(Protocol):
    """What is called. Errors are the package's own."""

    def create(self, template: Any, inputs: Any = None, *, prefix: str = "", metadata: Any = None, key: str = "") -> bytes: ...

    def poll(self, task_type: str, job_id: bytes, *, version: int = 0, prefix: str = "") -> Any:
        """A Resource."""

    def delete(self, task_type: str, job_id: bytes) -> None: ...

    def execute(self, template: Any, inputs: Any = None) -> Any:
        """A Resource."""

    def logs(self, task_type: str, job_id: bytes, *, version: int = 0, lines: int = 0, token: str = "") -> tuple[Lines, str]:
        """Lines, each with whether the system wrote it, and the token of the next page."""

    def metrics(self, task_type: str, job_id: bytes, queries: list[str]) -> dict[str, Any]: ...


class OverREST:
    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=f"{url}/plugins/v1", timeout=20)

    def _call(self, method: str, path: str, **more: Any) -> Any:
        answer = self.client.request(method, path, **more)
        body = answer.json()
        if answer.status_code != 200:
            raise error_of(body["error_code"], body["message"])
        return body

    def _task(self, template: Any, inputs: Any) -> dict[str, Any]:
        inputs = inputs or literals_pb2.LiteralMap()
        return {"template": json_format.MessageToDict(template), "inputs": json_format.MessageToDict(inputs)}

    def create(self, template: Any, inputs: Any = None, *, prefix: str = "", metadata: Any = None, key: str = "") -> bytes:
        body = {**self._task(template, inputs), "output_prefix": prefix}
        if metadata is not None:
            body["metadata"] = json_format.MessageToDict(metadata)
        headers = {"Idempotency-Key": key} if key else {}
        return decode_job_id(self._call("PUT", f"/{template.type}/v1", json=body, headers=headers)["job_id"])

    def _job(self, job_id: bytes, version: int = 0) -> dict[str, Any]:
        return {"job_id": encode_job_id(job_id), "task_type_version": version}

    def poll(self, task_type: str, job_id: bytes, *, version: int = 0, prefix: str = "") -> Any:
        query = {**self._job(job_id, version), "output_prefix": prefix}
        return self._resource(self._call("GET", f"/{task_type}/v1", params=query))

    def _resource(self, body: Any) -> Any:
        resource = agent_pb2.Resource(phase=execution_pb2.TaskExecution.Phase.Value(body["job_state"]), message=body["message"])
        if "outputs" in body:
            json_format.ParseDict(body["outputs"], resource.outputs)
            resource.outputs.SetInParent()
        if "custom_info" in body:
            json_format.ParseDict(body["custom_info"], resource.custom_info)
        for link in body.get("log_links", ()):
            json_format.ParseDict(link, resource.log_links.add())
        if body["error_code"]:
            resource.agent_error.code = body["error_code"]
        return resource

    def delete(self, task_type: str, job_id: bytes) -> None:
        self._call("DELETE", f"/{task_type}/v1", params=self._job(job_id))

    def execute(self, template: Any, inputs: Any = None) -> Any:
        return self._resource(self._call("POST", f"/{template.type}/v1/execute", json=self._task(template, inputs)))

    def logs(self, task_type: str, job_id: bytes, *, version: int = 0, lines: int = 0, token: str = "") -> tuple[Lines, str]:
        body = {**self._job(job_id, version), "lines": lines, "token": token}
        page = self._call("POST", f"/{task_type}/v1/logs", json=body)
        return [(line["message"], line["system"]) for line in page["lines"]], page["next"]

    def metrics(self, task_type: str, job_id: bytes, queries: list[str]) -> dict[str, Any]:
        body = {**self._job(job_id), "queries": queries}
        return {one["name"]: one["data"] for one in self._call("POST", f"/{task_type}/v1/metrics", json=body)["metrics"]}


def _error(e: grpc.RpcError) -> BackendError:
    return error_of(Code[e.code().name], e.details() or "")


class OverGRPC:
    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.agents = agent_pb2_grpc.AsyncAgentServiceStub(self.channel)
        self.sync = agent_pb2_grpc.SyncAgentServiceStub(self.channel)

    def _call(self, method: Any, request: Any, **more: Any) -> Any:
        try:
            return method(request, timeout=20, **more)
        except grpc.RpcError as e:
            raise _error(e) from None

    def create(self, template: Any, inputs: Any = None, *, prefix: str = "", metadata: Any = None, key: str = "") -> bytes:
        request = agent_pb2.CreateTaskRequest(
            template=template, inputs=inputs, output_prefix=prefix, task_execution_metadata=metadata
        )
        sent = [("flyte-backend-idempotency-key", key)] if key else []
        found: bytes = self._call(self.agents.CreateTask, request, metadata=sent).resource_meta
        return found

    def poll(self, task_type: str, job_id: bytes, *, version: int = 0, prefix: str = "") -> Any:
        category = agent_pb2.TaskCategory(name=task_type, version=version)
        request = agent_pb2.GetTaskRequest(task_category=category, resource_meta=job_id, output_prefix=prefix)
        resource = self._call(self.agents.GetTask, request).resource
        resource.ClearField("state")
        return resource

    def delete(self, task_type: str, job_id: bytes) -> None:
        category = agent_pb2.TaskCategory(name=task_type)
        self._call(self.agents.DeleteTask, agent_pb2.DeleteTaskRequest(task_category=category, resource_meta=job_id))

    def execute(self, template: Any, inputs: Any = None) -> Any:
        header = agent_pb2.CreateRequestHeader(template=template)
        parts = [agent_pb2.ExecuteTaskSyncRequest(header=header)]
        if inputs is not None:
            parts.append(agent_pb2.ExecuteTaskSyncRequest(inputs=inputs))
        try:
            (answer,) = self.sync.ExecuteTaskSync(iter(parts), timeout=20)
        except grpc.RpcError as e:
            raise _error(e) from None
        answer.header.resource.ClearField("state")
        return answer.header.resource

    def logs(self, task_type: str, job_id: bytes, *, version: int = 0, lines: int = 0, token: str = "") -> tuple[Lines, str]:
        category = agent_pb2.TaskCategory(name=task_type, version=version)
        request = agent_pb2.GetTaskLogsRequest(task_category=category, resource_meta=job_id, lines=lines, token=token)
        try:
            header, body = self.agents.GetTaskLogs(request, timeout=20)
        except grpc.RpcError as e:
            raise _error(e) from None
        found = body.body.structured_lines
        return [(line.message, line.originator == agent_pb2.SYSTEM) for line in found], header.header.token

    def metrics(self, task_type: str, job_id: bytes, queries: list[str]) -> dict[str, Any]:
        category = agent_pb2.TaskCategory(name=task_type)
        request = agent_pb2.GetTaskMetricsRequest(task_category=category, resource_meta=job_id, queries=queries)
        found = self._call(self.agents.GetTaskMetrics, request).results
        return {one.metric: json_format.MessageToDict(one.data) for one in found}


def struct(**values: Any) -> Any:
    return json_format.ParseDict(values, struct_pb2.Struct())
