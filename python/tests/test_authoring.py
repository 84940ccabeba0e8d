"""What a plugin may look like, and what is told of one that cannot work."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flyte_backend import (
    BackendError,
    BackendPluginBase,
    BackendPluginRegistry,
    Code,
    FailedPrecondition,
    JobFailed,
    JobRef,
    JobStatus,
    LogLine,
    Metric,
    NotFound,
    PluginError,
    Retry,
    SecretError,
    Secrets,
    ServiceOptions,
    SyncPlugin,
    SystemError_,
    TaskInfo,
    UserError,
    failed,
    running,
    succeeded,
)
from flyte_backend._binding import Bound, natural
from flyte_backend._registry import PluginSet
from flyte_backend.testing import run, serve
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from decimal import Decimal


class Whole(BackendPluginBase):
    """What the others leave out."""

    task_type = "t"

    async def create(self, task: TaskInfo) -> str:
        return "1"

    async def poll(self, job_id: str) -> JobStatus:
        return succeeded({"o0": job_id})

    async def delete(self, job_id: str) -> None:
        pass


def test_plain_methods_run_in_threads() -> None:
    class Plain(BackendPluginBase):
        def create(self, task: TaskInfo) -> str:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return str(task.inputs["x"])

        def poll(self, job_id: str) -> JobStatus:
            return succeeded({"o0": int(job_id)})

        def delete(self, job_id: str) -> None:
            pass

    assert run(Plain("t"), {"x": 3}) == {"o0": 3}


@dataclass
class Job:
    region: str
    number: int


class JobModel(BaseModel):
    region: str


@pytest.mark.parametrize(
    ("kind", "job_id"),
    [
        (str, "größe"),
        (bytes, b"\xff\x00"),
        (int, 7),
        (Job, Job("eu", 1)),
        (JobModel, JobModel(region="eu")),
        (dict[str, int], {"a": 1}),
    ],
)
def test_job_ids(kind: Any, job_id: Any) -> None:
    seen = []

    class Plugin(Whole):
        async def create(self, task: TaskInfo) -> Any:
            return job_id

        async def poll(self, job_id: kind) -> JobStatus:
            seen.append(job_id)
            return succeeded()

        async def delete(self, job_id) -> None:  # type: ignore[no-untyped-def]
            pass

    Plugin.poll.__annotations__["job_id"] = kind
    run(Plugin(), over_http=True)
    assert seen == [job_id]


def test_declared_inputs_and_custom() -> None:
    class Inputs(BaseModel):
        x: int
        when: datetime
        scale: float = 1.0

    @dataclass
    class Custom:
        statement: str
        timeout: timedelta = timedelta(seconds=5)

    class Plugin(Whole):
        async def create(self, task: TaskInfo, inputs: Inputs, custom: Custom) -> str:  # type: ignore[override]
            return f"{inputs.x * inputs.scale} {custom.statement} {custom.timeout}"

    Plugin.create.__annotations__.update(inputs=Inputs, custom=Custom)
    when = datetime(2026, 1, 1)
    assert run(Plugin(), {"x": 2, "when": when}, custom={"statement": "select", "timeout": 3}) == {"o0": "2.0 select 0:00:03"}
    with pytest.raises(UserError, match="the task's inputs: x: ") as e:
        run(Plugin(), {"x": "hunter2", "when": when}, custom={"statement": "s"})
    assert "hunter2" not in str(e.value)
    with pytest.raises(UserError, match="the task's custom: statement: Field required"):
        run(Plugin(), {"x": 1, "when": when}, custom={})


def test_methods_take_what_they_name(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Plugin(Whole):
        async def create(  # type: ignore[no-untyped-def, override]
            self, t: TaskInfo, *, template, output_prefix, idempotency_key, metadata, secrets, log, literals, extra=7
        ) -> str:
            seen.update(
                t=t,
                template=template,
                prefix=output_prefix,
                key=idempotency_key,
                metadata=metadata,
                literals=literals,
                extra=extra,
            )
            log.info("it begins")
            return str(secrets.get("db", "password"))

        async def poll(self, job_id: str, output_prefix: str, plugin_version: str) -> JobStatus:  # type: ignore[override]
            seen.update(id=job_id, prefix_in_poll=output_prefix, version=plugin_version)
            return succeeded()

        async def delete(self, id_: str) -> None:
            seen["deleted"] = id_

    (tmp_path / "db").mkdir()
    (tmp_path / "db/password").write_text("s3cret\n")
    with serve(Plugin(), options=ServiceOptions(readiness_delay=0, secrets=Secrets(folder=tmp_path))) as service:
        more = {"output_prefix": "s3://b/x", "metadata": {"namespace": "ns"}, "idempotency_key": "k1"}
        job = service.submit("t", {"x": 1}, custom={"a": 2}, **more)
        job.result(10)
        job.cancel()
    assert (
        isinstance(seen["t"], TaskInfo)
        and seen["t"].inputs == {"x": 1}
        and seen["t"].custom == {"a": 2}
        and seen["t"].name == "t"
    )
    assert seen["template"]["type"] == "t" and seen["metadata"] == {"namespace": "ns"} and seen["key"] == "k1"
    assert seen["prefix"] == seen["prefix_in_poll"] == "s3://b/x"
    assert seen["id"] == seen["deleted"] == "s3cret" and seen["version"] == "v1" and seen["extra"] == 7
    assert seen["literals"]["x"]["scalar"]["primitive"]["integer"] == "1"


def plugin_of(**methods: Any) -> BackendPluginBase:
    plugin: BackendPluginBase = type("Plugin", (Whole,), {"__module__": __name__, **methods})()
    return plugin


def strange(self: Any, task: TaskInfo, colour: str) -> str:
    return colour


def unreadable(self: Any, job_id: Decimal) -> None:
    pass


def by_position(self: Any, task: TaskInfo, secrets: Any, /) -> str:
    return ""


def poll_of_int(self: Any, job_id: int) -> JobStatus:
    return running()


def delete_of_str(self: Any, job_id: str) -> None:
    pass


def create_of_callable(self: Any, inputs: Callable[[int], Loop]) -> str:  # type: ignore[name-defined]  # noqa: F821
    return ""


class NotJSON:
    pass


def poll_of_not_json(self: Any, job_id: NotJSON) -> JobStatus:
    return running()


class Half(BackendPluginBase):
    async def create(self, task: TaskInfo) -> str:
        return ""


class Nothing(BackendPluginBase):
    pass


class LogsOnly(SyncPlugin):
    def execute(self, task: TaskInfo) -> None:
        pass

    def logs(self, job_id: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("reason", "make", "says"),
    [
        ("a class", lambda: Whole, "Whole is a class; register a plugin, Whole()"),
        ("something else", lambda: 7, "7 is no BackendPluginBase"),
        ("no super().__init__", lambda: Nothing(), r"Nothing has no task type; its __init__ calls super\(\)\.__init__"),
        (
            "no methods",
            lambda: Nothing("t"),
            "Nothing has no create and no delete and no poll; a plugin has create, poll and delete, or execute",
        ),
        ("half", lambda: Half("t"), "Half has no delete and no poll"),
        ("no jobs", lambda: LogsOnly("t"), "LogsOnly has logs but no jobs"),
        ("version", lambda: Whole(version="v 1"), "the version of .*Whole, 'v 1', is not 1 to 64 letters, digits"),
        ("task type version", lambda: Whole(task_type_versions=[0]), "wants task type version 0; one is a positive number"),
        (
            "strange parameter",
            lambda: plugin_of(create=strange),
            "Plugin.create takes 'colour', which there is not; a create can take task, inputs",
        ),
        (
            "unreadable annotation",
            lambda: plugin_of(delete=unreadable),
            "the annotations of Plugin.delete cannot be read: .*Decimal.*TYPE_CHECKING",
        ),
        ("positional only", lambda: plugin_of(create=by_position), "takes 'secrets' by position only; drop the /"),
        (
            "job ids differ",
            lambda: plugin_of(poll=poll_of_int, delete=delete_of_str),
            "do not agree what a job id is: poll int, delete str",
        ),
        (
            "job id is no JSON",
            lambda: plugin_of(poll=poll_of_not_json, delete=lambda self, job_id: None),
            "cannot be written as JSON",
        ),
        ("outputs", lambda: Whole(outputs={"x": NotJSON}), "the outputs of .*Whole: x: .* is no type that Flyte has"),
    ],
)
def test_cannot_be_served(reason: str, make: Callable[[], Any], says: str) -> None:
    with BackendPluginRegistry.isolated(), pytest.raises(PluginError, match=says):
        BackendPluginRegistry.register(make())


def test_double_registration_names_both() -> None:
    class Other(Whole):
        pass

    with BackendPluginRegistry.isolated():
        BackendPluginRegistry.register(Whole())
        BackendPluginRegistry.register(Other(version="v2"))
        BackendPluginRegistry.register(Other(task_type_versions=[2]))
        with pytest.raises(
            PluginError, match=r"two plugins serve task type 't' in version v1 .*test_authoring\.Whole and .*Other; give one"
        ):
            BackendPluginRegistry.register(Other())
        assert len(BackendPluginRegistry.plugins()) == 3
    with pytest.raises(PluginError, match="there is no plugin to serve"):
        PluginSet([])


def test_which_version_is_taken() -> None:
    plugins = PluginSet(
        [Whole(version="v9"), Whole(version="v10"), Whole(version="v1", task_type_versions=[3]), Whole("u", "v1")]
    )
    find = plugins.find

    def version(task_type: str, version: str, task_type_version: int, about_job: bool = False) -> str:
        return find(task_type, version, task_type_version, lambda p: p.is_async, about_job=about_job).version

    assert version("t", "", 0) == "v10", "the highest, in natural order"
    assert version("t", "v9", 0) == "v9", "the one that is named"
    assert version("t", "", 3) == "v1", "one that names the task type version goes first"
    assert version("t", "v1", 0, about_job=True) == "v1", "a call about a job may leave it out"
    for task_type, named, task_type_version in (("t", "v2", 0), ("t", "v1", 0), ("t", "v1", 4), ("x", "", 0)):
        with pytest.raises(NotFound):
            version(task_type, named, task_type_version)
    assert sorted(["v10", "v9", "1.10", "1.9", "a"], key=natural) == ["1.9", "1.10", "a", "v9", "v10"]
    assert sorted(["v1b", "v1", "v01", "v1.0"], key=natural) == ["v01", "v1", "v1.0", "v1b"]


@pytest.mark.parametrize("many", [False, True])
def test_a_job_outlives_a_secret_that_is_away(many: bool, tmp_path: Path) -> None:
    """A user's error about a job would end it; the secret may be back a moment later."""

    class Reads(BackendPluginBase):
        task_type = "t"

        def create(self, secrets: Secrets) -> str:
            return secrets.get("db", "password")

        def poll(self, job_id: str, secrets: Secrets) -> JobStatus:
            return succeeded({"o0": secrets.get("db", "password")})

        def delete(self, job_id: str, secrets: Secrets) -> None:
            secrets.get("db", "password")

    class Many(Reads):
        def poll_many(self, jobs: list[JobRef], secrets: Secrets) -> list[Any]:
            try:
                return [self.poll(job.job_id, secrets) for job in jobs]
            except SecretError as e:
                return [e] * len(jobs)

    plugin = Many() if many else Reads()
    file = tmp_path / "db/password"
    file.parent.mkdir()
    file.write_text("x")
    with serve(plugin, options=ServiceOptions(readiness_delay=0, secrets=Secrets(folder=tmp_path))) as service:
        job = service.client.submit("t")
        file.unlink()
        with pytest.raises(FailedPrecondition, match="secret password of group db"):
            service.client.submit("t")
        body = service.client._call("POST", "/plugins/v1/t/v1/poll", json={"jobs": [{"job_id": job.job_id}]})
        assert body["results"][0]["error"]["error_code"] == "INTERNAL"
        calls: list[Callable[[], Any]] = [job.poll, job.cancel]
        for call in calls:
            with pytest.raises(SystemError_, match="secret password of group db") as raised:
                call()
            assert raised.value.code is Code.INTERNAL
        file.write_text("back")
        assert job.result(10) == {"o0": "back"}


def test_a_class_whose_module_registers_it_is_served_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both_ways.py").write_text(
        "from flyte_backend import BackendPluginRegistry\nfrom tests.plugins.jobs import Jobs\n"
        "class Mine(Jobs): pass\nBackendPluginRegistry.register(Mine())"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with BackendPluginRegistry.isolated():
        BackendPluginRegistry.load("both_ways:Mine")
        assert len(BackendPluginRegistry.plugins()) == 1


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = Secrets(folder=tmp_path)
    with pytest.raises(
        FailedPrecondition, match=f"neither in the environment as _FSEC_DB_KEY nor in the file {tmp_path}/db/key"
    ):
        secrets.get("Db", "Key")
    (tmp_path / "db").mkdir()
    (tmp_path / "db/key").write_text(" file\n")
    assert secrets.get("Db", "Key") == "file"
    (tmp_path / "db/key").write_bytes(b"hunter2\xff")
    with pytest.raises(SecretError, match=f"the file {tmp_path}/db/key is no text in UTF-8") as raised:
        secrets.get("Db", "Key")
    assert "hunter2" not in "".join(traceback.format_exception(raised.value, chain=True))
    (tmp_path / "db/key").unlink()
    (tmp_path / "db/key").mkdir()
    with pytest.raises(SecretError, match=f"the file {tmp_path}/db/key cannot be read: Is a directory"):
        secrets.get("Db", "Key")
    monkeypatch.setenv("_FSEC_DB_KEY", "environment ")
    assert secrets.get("Db", "Key") == "environment"
    for group, key in (("", "k"), ("g", "../x"), ("..", "k"), ("g", "a=b"), ("g", "a\0b")):
        with pytest.raises(UserError, match="a secret has a group and a key"):
            secrets.get(group, key)


# ---- what methods give


@pytest.mark.parametrize(
    ("reason", "given", "says"),
    [
        ("no status", None, "gave a NoneType as a job's state; a JobStatus is due"),
        ("a dict", {"state": "RUNNING"}, "gave a dict as a job's state"),
        ("outputs that are none", succeeded({"x": NotJSON()}), "the plugin's outputs: x: no literal can be made of a NotJSON"),
        ("a state that is none", JobStatus("DONE"), "a job whose state is none of JobState's"),  # type: ignore[arg-type]
        ("a link that is none", running(log_links=["http://x"]), "a log link that is none"),  # type: ignore[list-item]
        ("info that is none", running(custom_info=[1]), "the plugin's custom_info: it is a list"),
    ],
)
def test_nonsense_is_the_services_failure(reason: str, given: Any, says: str) -> None:
    async def poll(self: Any, job_id: str) -> Any:
        return given

    with serve(plugin_of(poll=poll)) as service, pytest.raises(BackendError) as e:
        service.client.job("t", "1").poll()
    assert e.value.code is Code.INTERNAL and says in str(e.value), reason


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (7, "gave a job id that is a int, not a str"),
        ("", "gave a job id of 0 bytes; it takes 1 to 65536"),
        ("x" * 65537, "of 65537 bytes"),
        (None, "NoneType"),
    ],
)
def test_job_ids_that_are_none(given: Any, says: str) -> None:
    async def create(self: Any, task: TaskInfo) -> Any:
        return given

    with serve(plugin_of(create=create)) as service, pytest.raises(BackendError) as e:
        service.submit("t")
    assert e.value.code is Code.INTERNAL and says in str(e.value)


def test_failed_jobs() -> None:
    cases: Mapping[str, JobStatus] = {
        "text": failed("the column is not there"),
        "user": failed(UserError("no", reason="BadStatement")),
        "system": failed(Retry("machine lost")),
        "overruled": failed(UserError("no"), recoverable=True, message="try again"),
        "unforeseen": failed(ValueError("hunter2")),
    }

    async def poll(self: Any, job_id: str) -> JobStatus:
        return cases[job_id]

    want = {
        "text": ("InvalidArgument", False, "the column is not there"),
        "user": ("BadStatement", False, "no"),
        "system": ("Unavailable", True, "machine lost"),
        "overruled": ("InvalidArgument", True, "try again"),
        "unforeseen": ("Unknown", True, "the plugin failed in the job with ValueError; the service's log has the details"),
    }
    with serve(plugin_of(poll=poll)) as service:
        for name, (code, recoverable, message) in want.items():
            with pytest.raises(JobFailed) as e:
                service.client.job("t", name).result(5)
            assert (e.value.error_code, e.value.recoverable, e.value.message, e.value.state) == (
                code,
                recoverable,
                message,
                "FAILED",
            )


def test_poll_many_gives_each_its_own() -> None:
    def poll_many(self: Any, jobs: list[JobRef]) -> list[Any]:
        results = {"a": running("a"), "b": NotFound("no b"), "c": ValueError("hunter2"), "d": "nonsense"}
        return [results[job.job_id] for job in jobs]

    with serve(plugin_of(poll_many=poll_many)) as service:
        body = service.client._call("POST", "/plugins/v1/t/v1/poll", json={"jobs": [{"job_id": i} for i in "abcda"]})
        assert service.client.plugins()[0]["capabilities"] == ["poll"]
    codes = [r["job"]["job_state"] if "job" in r else r["error"]["error_code"] for r in body["results"]]
    assert codes == ["RUNNING", "NOT_FOUND", "UNKNOWN", "INTERNAL", "RUNNING"]


@pytest.mark.parametrize("given", [[], None, "ab", [running()]])
def test_poll_many_that_does_not_match(given: Any) -> None:
    with serve(plugin_of(poll_many=lambda self, jobs: given)) as service:
        body = service.client._call("POST", "/plugins/v1/t/v1/poll", json={"jobs": [{"job_id": i} for i in "ab"]})
    assert [r["error"]["error_code"] for r in body["results"]] == ["INTERNAL"] * 2


@pytest.mark.parametrize(
    ("reason", "method", "given", "want"),
    [
        ("text", "logs", "a\nb", [{"message": "a\n", "system": False}, {"message": "b", "system": False}]),
        (
            "lines",
            "logs",
            ["a", LogLine("b", datetime(2026, 1, 1), True)],
            [{"message": "a", "system": False}, {"message": "b", "system": True, "time": "2026-01-01T00:00:00Z"}],
        ),
        ("no page", "logs", None, "gave a NoneType as a page of the log; a LogPage is due"),
        ("no line", "logs", [1], "a line that is no LogLine"),
        ("no message", "logs", [LogLine(1)], "a line that is no LogLine"),  # type: ignore[arg-type]
        ("no time", "logs", [LogLine("a", time="now")], "with a time that is none"),  # type: ignore[arg-type]
        ("by name", "metrics", {"cpu": {"result": [1]}}, [{"name": "cpu", "data": {"result": [1]}}]),
        ("one of them", "metrics", Metric("cpu"), [{"name": "cpu"}]),
        ("no metric", "metrics", ["cpu"], "gave a str as a metric; a Metric is due"),
        ("no data", "metrics", {"cpu": NotJSON()}, "the plugin's metric cpu: no literal can be made of a NotJSON"),
    ],
)
def test_logs_and_metrics(reason: str, method: str, given: Any, want: Any) -> None:
    with serve(plugin_of(**{method: lambda self, job_id: given})) as service:
        path, ref = f"/plugins/v1/t/v1/{method}", {"job_id": "1"}
        if isinstance(want, list):
            answer = service.client._call("POST", path, json=ref)
            assert answer["lines" if method == "logs" else "metrics"] == want, reason
            return
        with pytest.raises(BackendError) as e:
            service.client._call("POST", path, json=ref)
        assert e.value.code is Code.INTERNAL and want in str(e.value), reason


def test_what_a_plugin_cannot_do_is_told() -> None:
    with serve(Whole()) as service:
        for method in ("logs", "metrics"):
            with pytest.raises(BackendError, match=f"the plugin for task type 't' gives no {method}") as e:
                service.client._call("POST", f"/plugins/v1/t/v1/{method}", json={"job_id": "1"})
            assert e.value.code is Code.UNIMPLEMENTED
        with pytest.raises(NotFound, match="does not take this call"):
            service.client.execute("t")


def test_job_ids_that_are_of_another_type() -> None:
    class Plugin(Whole):
        async def create(self, task: TaskInfo) -> Any:
            return task.inputs["id"]

        async def poll(self, job_id: int) -> JobStatus:  # type: ignore[override]
            return succeeded({"o0": job_id})

        async def delete(self, job_id: int) -> None:  # type: ignore[override]
            pass

    with serve(Plugin()) as service:
        assert service.submit("t", {"id": 5}).result(5) == {"o0": 5}
        with pytest.raises(BackendError, match="a job id that is no int") as e:
            service.submit("t", {"id": "5"})
        assert e.value.code is Code.INTERNAL
        for strange in ("x", "5.5", "[5]", "5 5", "\u00fc"):
            with pytest.raises(NotFound, match="its id is none of this plugin's"):
                service.client.job("t", strange).poll()
            service.client.job("t", strange).cancel()


def test_sync_plugins() -> None:
    class Total(SyncPlugin):
        task_type = "total"

        def execute(self, inputs: dict[str, int]) -> dict[str, Any]:
            return {"o0": sum(inputs.values())}

    assert run(Total(), {"a": 1, "b": 2}, outputs={"o0": float}) == {"o0": 3.0}
    assert run(Total(), {"a": 1}, over_http=True) == {"o0": 1}
    with pytest.raises(UserError, match="the task's inputs: a: "):
        run(Total(), {"a": "x"})

    class Endless(SyncPlugin):
        async def execute(self, task: TaskInfo) -> JobStatus:
            return running()

    with pytest.raises(BackendError, match="ended a synchronous task in state RUNNING, which is not final"):
        run(Endless("e"))


def test_declared_outputs() -> None:
    class Outputs(BaseModel):
        share: float
        rows: dict[str, int] = Field(default_factory=dict)

    async def poll(self: Any, job_id: str) -> JobStatus:
        return succeeded(Outputs(share=1, rows={"a": 1}))

    plugin = type("Plugin", (Whole,), {"poll": poll, "outputs": Outputs})()
    with serve(plugin) as service:
        body = service.client._call("GET", "/plugins/v1/t/v1", params={"job_id": "1"})
    assert body["outputs"]["literals"] == {
        "share": {"scalar": {"primitive": {"floatValue": 1.0}}},
        "rows": {"map": {"literals": {"a": {"scalar": {"primitive": {"integer": "1"}}}}}},
    }


def test_what_is_bound_knows_what_it_can() -> None:
    bound = Bound(plugin_of(logs=lambda self, job_id: "", poll_many=lambda self, jobs: []))
    assert bound.capabilities == ["logs", "poll"] and str(bound) == "t v1" and bound.name == "t"
