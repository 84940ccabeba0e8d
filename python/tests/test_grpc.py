"""gRPC: flyteidl's services and the extension, over real connections."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from flyte_backend import (
    Code,
    JobStatus,
    Overloaded,
    ServiceOptions,
    SystemError_,
    UserError,
    failed,
    running,
    succeeded,
)
from flyte_backend._errors import error_of
from flyte_backend._proto.flytebackend.v1 import backend_pb2
from flyte_backend.testing import RunningService, serve
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.service import agent_pb2_grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from .conftest import Authority, Start, eventually
from .plugins.anything import Anything
from .plugins.jobs import Jobs

OPTIONS = ServiceOptions(readiness_delay=0, drain_timeout=2, max_request_bytes=100_000)


class Calls:
    """The stubs of a service."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.agents = agent_pb2_grpc.AsyncAgentServiceStub(channel)
        self.sync = agent_pb2_grpc.SyncAgentServiceStub(channel)
        self.metadata = agent_pb2_grpc.AgentMetadataServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        prefix = "/flytebackend.v1.BackendService/"
        self.get_tasks = channel.unary_unary(
            prefix + "GetTasks", backend_pb2.GetTasksRequest.SerializeToString, backend_pb2.GetTasksResponse.FromString
        )
        self.watch_tasks = channel.stream_stream(
            prefix + "WatchTasks", backend_pb2.WatchTasksRequest.SerializeToString, backend_pb2.WatchTasksResponse.FromString
        )

    def create(self, task_type: str = "square", version: str = "", key: str = "", **inputs: Any) -> bytes:
        metadata = [("flyte-backend-plugin-version", version)] if version else []
        metadata += [("flyte-backend-idempotency-key", key)] if key else []
        request = agent_pb2.CreateTaskRequest(template=template(task_type), inputs=literals(**inputs))
        reply: bytes = self.agents.CreateTask(request, metadata=metadata, timeout=10).resource_meta
        return reply

    def get(self, job_id: bytes, task_type: str = "square", **more: Any) -> Any:
        category = agent_pb2.TaskCategory(name=task_type)
        request = agent_pb2.GetTaskRequest(task_category=category, resource_meta=job_id)
        return self.agents.GetTask(request, timeout=10, **more).resource


def template(task_type: str) -> Any:
    return tasks_pb2.TaskTemplate(type=task_type)


def literals(**inputs: Any) -> Any:
    from flyte_backend._values import encode_outputs

    return json_format.ParseDict(encode_outputs(inputs), literals_pb2.LiteralMap())


def connect(service: RunningService) -> grpc.Channel:
    assert service.grpc_address is not None
    return grpc.insecure_channel(service.grpc_address)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    with (
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("JOBS_FOLDER", str(tmp_path_factory.mktemp("jobs")))
        with serve(Jobs(), Jobs("v2"), Anything(), options=OPTIONS, grpc=True) as service, connect(service) as channel:
            yield Calls(channel)


def test_list(calls: Calls) -> None:
    agents = calls.metadata.ListAgents(agent_pb2.ListAgentsRequest()).agents
    assert [(a.name, a.is_sync) for a in agents] == [
        ("square", True),
        ("square@v2", True),
        ("anything", True),
        ("square", False),
        ("square@v2", False),
        ("anything", False),
    ]
    assert [(c.name, c.version) for c in agents[0].supported_task_categories] == [("square", 0)]
    assert list(agents[0].supported_task_types) == ["square"]
    assert calls.metadata.GetAgent(agent_pb2.GetAgentRequest(name="square@v2")).agent == agents[1]
    with pytest.raises(grpc.RpcError) as e:
        calls.metadata.GetAgent(agent_pb2.GetAgentRequest(name="nope"))
    assert e.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_jobs_life(calls: Calls) -> None:
    job_id = calls.create(x=3, seconds=0.1, key="k")
    assert calls.create(x=3, seconds=0.1, key="k") == job_id
    with pytest.raises(grpc.RpcError) as e:
        calls.create(x=4, key="k")
    assert (e.value.code(), e.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "the key was used for another task")
    done = eventually(lambda: (r := calls.get(job_id)).phase == execution_pb2.TaskExecution.SUCCEEDED and r)
    assert done.outputs.literals["o0"].scalar.primitive.integer == 9
    assert done.state == agent_pb2.SUCCEEDED and done.log_links[0].name == "Log"
    category = agent_pb2.TaskCategory(name="square")
    logs = list(calls.agents.GetTaskLogs(agent_pb2.GetTaskLogsRequest(task_category=category, resource_meta=job_id)))
    assert logs[0].header.token == "1" and list(logs[1].body.results) == ["it began\n"]
    metrics = calls.agents.GetTaskMetrics(
        agent_pb2.GetTaskMetricsRequest(task_category=category, resource_meta=job_id, queries=["q"])
    )
    assert metrics.results[0].metric == "q" and metrics.results[0].data["resultType"] == "matrix"
    for _ in range(2):
        calls.agents.DeleteTask(agent_pb2.DeleteTaskRequest(task_category=category, resource_meta=job_id))


def test_the_older_name_of_a_task_type(calls: Calls) -> None:
    job_id = calls.create()
    assert calls.agents.GetTask(agent_pb2.GetTaskRequest(task_type="square", resource_meta=job_id)).resource.phase


def test_failed_jobs_say_why() -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            return failed(UserError("no", reason="BadStatement") if job_id == "user" else SystemError_("lost"))

    with serve(Plugin(), grpc=True) as service, connect(service) as channel:
        for job_id, code, kind, origin in (
            (b"user", "BadStatement", agent_pb2.AgentError.NON_RECOVERABLE, execution_pb2.ExecutionError.USER),
            (b"system", "Internal", agent_pb2.AgentError.RECOVERABLE, execution_pb2.ExecutionError.SYSTEM),
        ):
            resource = Calls(channel).get(job_id, "anything")
            assert resource.phase == execution_pb2.TaskExecution.FAILED
            error = resource.agent_error
            assert (error.code, error.kind, error.origin) == (code, kind, origin)


def execute(calls: Calls, *parts: Any) -> Any:
    replies = list(calls.sync.ExecuteTaskSync(iter([agent_pb2.ExecuteTaskSyncRequest(**part) for part in parts]), timeout=10))
    assert len(replies) == 1
    return replies[0].header.resource


def test_execute(calls: Calls) -> None:
    header = {"header": agent_pb2.CreateRequestHeader(template=template("square"))}
    resource = execute(calls, header, {"inputs": literals(x=5)}, {"inputs": literals(seconds=0.0)}, {"inputs": literals(x=5)})
    assert resource.outputs.literals["o0"].scalar.primitive.integer == 25
    for parts, says in (
        ([{"inputs": literals(x=5)}], "ended before its header came"),
        ([header, header], "two headers"),
        ([header, {"inputs": literals(x=5)}, {"inputs": literals(x=6)}], "'x' came twice with different values"),
    ):
        with pytest.raises(grpc.RpcError) as e:
            execute(calls, *parts)
        assert e.value.code() is grpc.StatusCode.INVALID_ARGUMENT and says in (e.value.details() or "")


@pytest.mark.parametrize("code", list(Code))
def test_every_code_is_grpcs(code: Code) -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            raise error_of(code, "the reason", after=1.5)

    with serve(Plugin(), grpc=True) as service, connect(service) as channel, pytest.raises(grpc.RpcError) as e:
        Calls(channel).get(b"1", "anything")
    assert (e.value.code().name, e.value.details()) == (code.value, "the reason")
    trailing: Any = e.value.trailing_metadata()
    (raw,) = (value for key, value in trailing if key == "grpc-status-details-bin")
    info = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(raw).details[0].Unpack(info)
    assert info.retry_delay.ToTimedelta().total_seconds() == 1.5


def test_versions(calls: Calls) -> None:
    assert calls.create() and calls.create(version="v2")
    for version, task_type in (("v3", "square"), ("", "nope")):
        with pytest.raises(grpc.RpcError) as e:
            calls.create(task_type, version=version)
        assert e.value.code() is grpc.StatusCode.NOT_FOUND


def test_many_jobs(calls: Calls) -> None:
    job_id = calls.create(x=2, seconds=0.0)
    category = agent_pb2.TaskCategory(name="square")
    refs = [
        backend_pb2.TaskRef(task_category=category, resource_meta=job_id),
        backend_pb2.TaskRef(task_category=category, resource_meta=b"nope", plugin_version="v2"),
        backend_pb2.TaskRef(task_category=agent_pb2.TaskCategory(name="nope"), resource_meta=b"x"),
        backend_pb2.TaskRef(task_category=agent_pb2.TaskCategory(name="anything"), resource_meta=b"x"),
    ]
    results = calls.get_tasks(backend_pb2.GetTasksRequest(tasks=refs)).results
    assert results[0].task.resource.phase == execution_pb2.TaskExecution.SUCCEEDED
    assert [r.error.code for r in results[1:3]] == [5, 5]
    assert results[3].task.resource.phase == execution_pb2.TaskExecution.SUCCEEDED
    for bad in ([], refs[:1] * 1001):
        with pytest.raises(grpc.RpcError) as e:
            calls.get_tasks(backend_pb2.GetTasksRequest(tasks=bad))
        assert e.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class Stream:
    """A stream of WatchTasks."""

    def __init__(self, calls: Calls) -> None:
        self.requests: queue.Queue[Any] = queue.Queue()
        self.call = calls.watch_tasks(iter(self.requests.get, None))

    def follow(self, watch_id: int, job_id: bytes, task_type: str = "square") -> None:
        ref = backend_pb2.TaskRef(task_category=agent_pb2.TaskCategory(name=task_type), resource_meta=job_id)
        self.requests.put(backend_pb2.WatchTasksRequest(follow=[backend_pb2.WatchedTask(watch_id=watch_id, task=ref)]))

    def unfollow(self, watch_id: int) -> None:
        self.requests.put(backend_pb2.WatchTasksRequest(unfollow=[watch_id]))


def test_watch(calls: Calls) -> None:
    stream = Stream(calls)
    stream.follow(1, calls.create(x=3, seconds=0.3))
    first = next(stream.call)
    assert (first.watch_id, first.result.task.resource.phase) == (1, execution_pb2.TaskExecution.RUNNING), "the state at once"
    last = next(stream.call)
    assert last.result.task.resource.outputs.literals["o0"].scalar.primitive.integer == 9, "the end without being asked"
    stream.unfollow(99)
    stream.follow(2, b"nope")
    assert next(stream.call).result.error.code == 5
    stream.follow(3, b"x", "anything")
    assert next(stream.call).result.error.code == 12, "a plugin that cannot watch"
    long = calls.create(seconds=60.0)
    stream.follow(4, long)
    assert next(stream.call).watch_id == 4
    stream.unfollow(4)
    stream.follow(5, long)
    assert next(stream.call).watch_id == 5
    stream.requests.put(None)  # it follows no others, and listens on
    calls.agents.DeleteTask(
        agent_pb2.DeleteTaskRequest(task_category=agent_pb2.TaskCategory(name="square"), resource_meta=long)
    )
    assert next(stream.call).result.task.resource.phase == execution_pb2.TaskExecution.ABORTED
    stream.call.cancel()


def test_a_watch_that_fails_is_told() -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            return running("…")

        async def watch(self, job_id: str, changed: Any) -> None:
            if job_id == "raises":
                raise ValueError("hunter2")
            while job_id == "lasts":
                await asyncio.sleep(1)

    options = ServiceOptions(readiness_delay=0, drain_timeout=2, max_watches=2)
    with serve(Plugin(), grpc=True, options=options) as service, connect(service) as channel:
        stream = Stream(Calls(channel))
        for watch_id, (job_id, code) in enumerate([(b"raises", 2), (b"ends", 14)]):
            stream.follow(watch_id, job_id, "anything")
            told = [next(stream.call).result for _ in range(3)]
            assert [r.WhichOneof("result") for r in told] == ["task", "task", "error"]
            assert told[2].error.code == code and "hunter2" not in told[2].error.message
        for watch_id in (10, 11, 12):
            stream.follow(watch_id, b"lasts", "anything")
        news = [next(stream.call) for _ in range(3)]
        (refused,) = (one for one in news if one.result.WhichOneof("result") == "error")
        assert (refused.watch_id, refused.result.error.code) == (12, 8), "over the limit"
        assert "watched_jobs 2" in service.client._http.get("/metrics").text
        stream.call.cancel()
        eventually(lambda: "watched_jobs 0" in service.client._http.get("/metrics").text)
        assert "watched_jobs 0" in service.client._http.get("/metrics").text


def test_health_and_reflection(calls: Calls) -> None:
    assert calls.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as e:
        calls.health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert e.value.code() is grpc.StatusCode.NOT_FOUND
    services = ProtoReflectionDescriptorDatabase(calls.channel).get_services()
    assert {"flyteidl.service.AsyncAgentService", "flytebackend.v1.BackendService", "grpc.health.v1.Health"} <= set(services)


def test_deadlines_are_the_callers() -> None:
    ended = threading.Event()

    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return succeeded()

    with serve(Plugin(), grpc=True) as service, connect(service) as channel:
        request = agent_pb2.GetTaskRequest(task_category=agent_pb2.TaskCategory(name="anything"), resource_meta=b"1")
        with pytest.raises(grpc.RpcError) as e:
            Calls(channel).agents.GetTask(request, timeout=0.2)
        assert e.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert ended.wait(5)
        eventually(lambda: "calls_in_flight 0" in service.client._http.get("/metrics").text)


def test_bad_messages_are_one_calls_error(calls: Calls) -> None:
    create: Any = calls.channel.unary_unary("/flyteidl.service.AsyncAgentService/CreateTask")
    logs: Any = calls.channel.unary_stream("/flyteidl.service.AsyncAgentService/GetTaskLogs")
    for raw in (b"\xff\xff\xff", b"\x0a\xff\x01a"):
        for call in (create, lambda raw: next(logs(raw))):
            with pytest.raises(grpc.RpcError) as e:
                call(raw)
            assert (e.value.code(), e.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read")
    with pytest.raises(grpc.RpcError) as e:
        calls.create(a="x" * 200_000)
    assert e.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert calls.create()


def test_what_plugins_give_that_no_message_takes() -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            if job_id == "links":
                raise Overloaded("full")
            return succeeded({"x": types_pb2.LiteralType()})

    with serve(Plugin(), grpc=True) as service, connect(service) as channel:
        for job_id, code in ((b"x", grpc.StatusCode.INTERNAL), (b"links", grpc.StatusCode.RESOURCE_EXHAUSTED)):
            with pytest.raises(grpc.RpcError) as e:
                Calls(channel).get(job_id, "anything")
            assert e.value.code() is code


def test_drain_and_mutual_tls(start: Start, authority: Authority) -> None:
    certificate, key = authority.issue("service")
    process = start(
        "--plugins",
        "tests.plugins.jobs:Jobs",
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--client-ca",
        str(authority.ca),
        "--grpc-port",
        "0",
        "--readiness-delay",
        "0.5",
    )
    address = f"127.0.0.1:{process.about['grpc_port']}"
    mine, my_key = authority.issue("propeller")
    ca = authority.ca.read_bytes()
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as nobody, pytest.raises(grpc.RpcError) as e:
        Calls(nobody).metadata.ListAgents(agent_pb2.ListAgentsRequest(), timeout=10)
    assert e.value.code() is grpc.StatusCode.UNAVAILABLE
    credentials = grpc.ssl_channel_credentials(ca, my_key.read_bytes(), mine.read_bytes())
    with grpc.secure_channel(address, credentials) as channel:
        calls = Calls(channel)
        health = calls.health.Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        process.signal()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert calls.metadata.ListAgents(agent_pb2.ListAgentsRequest()).agents, "calls are still answered"
        with pytest.raises(grpc.RpcError) as e:
            next(health)
        assert e.value.code() is grpc.StatusCode.UNAVAILABLE, "its stream ends with the server"
        assert process.wait(10) == 0


def test_without_the_extra(start: Start, tmp_path: Any) -> None:
    process = start(
        "--plugins",
        "tests.plugins.jobs:Jobs",
        "--insecure",
        "--grpc-port",
        "0",
        wait=False,
        flyteidl="raise ImportError(name='flyteidl')",
    )
    assert process.wait() == 2
    eventually(lambda: "serving gRPC needs flyteidl: pip install 'flyte-backend[grpc]'" in "".join(process.lines))
