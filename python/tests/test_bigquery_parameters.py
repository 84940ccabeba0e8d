"""What the BigQuery plugin makes of a task: its inputs as parameters, its statement, its settings. No calls."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from flyte_backend import Dataset, Literals, TaskInfo, UserError
from flyte_backend._protojson import check_message
from flyte_backend._values import encode
from flyte_backend.plugins.bigquery._configuration import REQUEST_LABEL, job_configuration, job_id_of, output_of, project_of
from flyte_backend.plugins.bigquery._parameters import query_parameters
from flyte_backend.plugins.bigquery._statement import render
from google.cloud import bigquery
from pydantic import BaseModel

from .bigquery_tasks import literals_of, query_task, template_of


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Inner:
    n: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Point:
    x: int
    share: float
    inner: Inner
    many: list[Inner]
    counts: dict[str, int]
    when: datetime | None = None
    took: timedelta = timedelta(seconds=1.5)
    name: str | None = None


class Model(BaseModel):
    a: int
    day: date = date(2026, 2, 3)


WHEN = datetime(2026, 2, 3, 4, 5, 6, 7, timezone.utc)


def scalar(kind: str, value: Any) -> tuple[Any, Any]:
    return {"type": kind}, {"value": value}


def array(kind: str, *values: Any) -> tuple[Any, Any]:
    return {"type": "ARRAY", "arrayType": {"type": kind}}, {"arrayValues": [{"value": value} for value in values]}


# The Python type that a task declares, a value, and the parameter.
KINDS: dict[str, tuple[Any, Any, tuple[Any, Any]]] = {
    "int": (int, 7, scalar("INT64", "7")),
    "large": (int, -(1 << 63), scalar("INT64", str(-(1 << 63)))),
    "float": (float, 1.5, scalar("FLOAT64", "1.5")),
    "whole": (float, 2.0, scalar("FLOAT64", "2.0")),
    "endless": (float, math.inf, scalar("FLOAT64", "inf")),
    "str": (str, "grüße' OR 1=1 --", scalar("STRING", "grüße' OR 1=1 --")),
    "bool": (bool, False, scalar("BOOL", "false")),
    "datetime": (datetime, WHEN, scalar("TIMESTAMP", "2026-02-03 04:05:06.000007+00:00")),
    "date": (date, date(2026, 2, 3), scalar("TIMESTAMP", "2026-02-03 00:00:00+00:00")),
    "timedelta": (timedelta, timedelta(days=2, seconds=1.5), scalar("INTERVAL", "0-0 0 48:0:1.500000")),
    "negative": (timedelta, timedelta(minutes=-90), scalar("INTERVAL", "0-0 0 -1:30:0")),
    "enum": (Colour, Colour.RED, scalar("STRING", "red")),
    "optional": (int | None, 3, scalar("INT64", "3")),
    "null": (float | None, None, scalar("FLOAT64", None)),
    "union": (int | str, "a", scalar("STRING", "a")),
    "list": (list[int], [1, 2], array("INT64", "1", "2")),
    "empty": (list[datetime], [], array("TIMESTAMP")),
    "holes": (list[int | None], [None, 1], array("INT64", None, "1")),
    "no_list": (list[str] | None, None, array("STRING")),
    "dict": (dict, {"a": [1, 2.5, None], "b": "ü"}, scalar("JSON", '{"a":[1,2.5,null],"b":"ü"}')),
    "map": (dict[str, int], {"a": 1}, scalar("JSON", '{"a":1}')),
    "no_dict": (dict | None, None, scalar("JSON", None)),
    "model": (
        Model,
        Model(a=1),
        (
            {
                "type": "STRUCT",
                "structTypes": [{"name": "a", "type": {"type": "INT64"}}, {"name": "day", "type": {"type": "TIMESTAMP"}}],
            },
            {"structValues": {"a": {"value": "1"}, "day": {"value": "2026-02-03 00:00:00+00:00"}}},
        ),
    ),
}

INNER = {
    "type": "STRUCT",
    "structTypes": [
        {"name": "n", "type": {"type": "INT64"}},
        {"name": "tags", "type": {"type": "ARRAY", "arrayType": {"type": "STRING"}}},
    ],
}
POINT = {
    "type": "STRUCT",
    "structTypes": [
        {"name": "counts", "type": {"type": "JSON"}},
        {"name": "inner", "type": INNER},
        {"name": "many", "type": {"type": "ARRAY", "arrayType": INNER}},
        {"name": "name", "type": {"type": "STRING"}},
        {"name": "share", "type": {"type": "FLOAT64"}},
        {"name": "took", "type": {"type": "INTERVAL"}},
        {"name": "when", "type": {"type": "TIMESTAMP"}},
        {"name": "x", "type": {"type": "INT64"}},
    ],
}


def parameter(kind: Any, value: Any) -> tuple[Any, Any]:
    """The parameter of a value that flytekit has declared and encoded."""
    task = query_task("SELECT @v", inputs={"v": kind})
    literals = {k: check_message("flyteidl.core.Literal", v) for k, v in literals_of(task, v=value).items()}
    (made,) = query_parameters(literals, template_of(task)["interface"]["inputs"]["variables"])
    assert made["name"] == "v"
    # Google's own classes read it.
    shape: Any = {"ARRAY": bigquery.ArrayQueryParameter, "STRUCT": bigquery.StructQueryParameter}.get(
        made["parameterType"]["type"], bigquery.ScalarQueryParameter
    )
    if made["parameterType"]["type"] not in ("INTERVAL", "STRUCT"):
        assert shape.from_api_repr(made).name == "v"
    return made["parameterType"], made["parameterValue"]


@pytest.mark.parametrize("name", KINDS)
def test_inputs_of_flytekit(name: str) -> None:
    kind, value, due = KINDS[name]
    assert parameter(kind, value) == due


def test_a_dataclass_is_a_struct() -> None:
    point = Point(1, 2, Inner(3, ["a"]), [Inner(4)], {"k": 5}, when=WHEN)
    kind, value = parameter(Point, point)
    assert kind == POINT
    assert value == {
        "structValues": {
            "counts": {"value": '{"k":5}'},
            "inner": {"structValues": {"n": {"value": "3"}, "tags": {"arrayValues": [{"value": "a"}]}}},
            "many": {"arrayValues": [{"structValues": {"n": {"value": "4"}, "tags": {"arrayValues": []}}}]},
            "name": {"value": None},
            "share": {"value": "2.0"},
            "took": {"value": "0-0 0 0:0:1.500000"},
            "when": {"value": "2026-02-03 04:05:06.000007+00:00"},
            "x": {"value": "1"},
        }
    }


def test_an_optional_dataclass_has_the_same_type() -> None:
    """flytekit does not write the fields' types there, but a JSON schema."""
    assert parameter(Inner | None, Inner(1, ["a"]))[0] == INNER
    kind, value = parameter(Point | None, None)
    assert kind == POINT
    assert value["structValues"]["x"] == {"value": None}
    assert value["structValues"]["inner"]["structValues"]["tags"] == {"arrayValues": []}


def test_inputs_of_others() -> None:
    """Without a declared type the value tells it, and flytekit's own bytes are pickles, but those of others are bytes."""
    literals = {"b": encode(b"\0a"), "l": encode([True]), "n": encode(None), "d": encode({"x": b"\0"})}
    made = {one["name"]: (one["parameterType"], one["parameterValue"]) for one in query_parameters(literals, {})}
    assert made == {
        "b": scalar("BYTES", "AGE="),
        "l": array("BOOL", "true"),
        "n": scalar("STRING", None),
        "d": scalar("JSON", '{"x":"AA=="}'),
    }
    assert query_parameters({"n": encode(None)}, {"n": {"type": {"simple": "BINARY"}}})[0]["parameterType"] == {"type": "BYTES"}


@pytest.mark.parametrize(
    "literal, declared, why",
    [
        (encode(Dataset("s3://b/t")), {"structuredDatasetType": {}}, "it is a dataset, which is stored elsewhere"),
        (encode(None), {"blob": {}}, "it is a file or folder"),
        (encode([[1]]), {"collectionType": {"collectionType": {"simple": "INTEGER"}}}, "it is a list of lists"),
        (encode([[1]]), None, "it is a list of lists"),
        (encode("x"), {"simple": "INTEGER"}, "it is a str where INT64 is declared"),
        (encode(True), {"simple": "FLOAT"}, "it is a bool where FLOAT64 is declared"),
        (encode([1]), {"collectionType": {"simple": "STRING"}}, "it is a int where STRING is declared"),
        ({"scalar": {"error": {"message": "x"}}}, {"simple": "ERROR"}, "it is an error"),
        ({"offloadedMetadata": {"uri": "s3://b/o"}}, {"simple": "STRING"}, "so large that it is stored elsewhere"),
        ({"scalar": {"binary": {"value": "", "tag": "zip"}}}, None, "bytes in the encoding 'zip'"),
        ({"scalar": {"binary": {"value": "", "tag": "zip"}}}, {"simple": "STRUCT"}, "it is no JSON: a Binary is no part"),
        ({}, None, "it is an empty literal"),
    ],
)
def test_what_is_no_parameter(literal: Any, declared: Any, why: str) -> None:
    with pytest.raises(UserError, match=f"input 'table' cannot be a parameter of the query: .*{why}"):
        query_parameters({"table": literal}, {"table": {"type": declared}} if declared else {})


@pytest.mark.parametrize(
    "statement, due",
    [
        ("SELECT {{ .inputs.x }}", "SELECT @x"),
        ("SELECT {{.Inputs.x}}+@y", "SELECT @x+@y"),
        ("SELECT '--', {{ .inputs.x }} -- {{ .inputs.z }}", "SELECT '--', @x -- {{ .inputs.z }}"),
        (r"SELECT 'it\'s', {{ .inputs.x }}, 'a'", r"SELECT 'it\'s', @x, 'a'"),
        ('SELECT """a"b""", {{ .inputs.x }}', 'SELECT """a"b""", @x'),
        ("SELECT /* ' */ {{ .inputs.x }} # '", "SELECT /* ' */ @x # '"),
        ("SELECT '{{ .other }}'", "SELECT '{{ .other }}'"),
    ],
)
def test_placeholders_become_parameters(statement: str, due: str) -> None:
    assert render(statement, {"x", "y"}) == due


@pytest.mark.parametrize(
    "statement, why",
    [
        ("SELECT '{{ .inputs.x }}'", "the query has {{ .inputs.x }} inside of quotes"),
        ("SELECT * FROM `d.t_{{ .inputs.x }}`", "the query has {{ .inputs.x }} as the name of a table"),
        ("SELECT {{ .inputs.z }}", "the task has no input 'z'"),
    ],
)
def test_placeholders_where_no_parameter_can_be(statement: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)):
        render(statement, {"x"})


def configuration(task: Any, metadata: Any = None, custom: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    template = template_of(task)
    template["custom"].update(custom or {})
    return job_configuration(TaskInfo(template, literals=literals_of(task, **inputs), metadata=metadata))


FULL = bigquery.QueryJobConfig(
    allow_large_results=True,
    clustering_fields=["a"],
    connection_properties=[bigquery.ConnectionProperty("time_zone", "Europe/Berlin")],
    create_disposition="CREATE_NEVER",
    create_session=True,
    default_dataset="p.d",
    destination="p.d.t",
    destination_encryption_configuration=bigquery.EncryptionConfiguration("projects/k"),
    flatten_results=False,
    maximum_billing_tier=2,
    maximum_bytes_billed=1 << 60,
    priority="BATCH",
    query_parameters=[bigquery.ScalarQueryParameter("fixed", "INT64", 5), bigquery.ScalarQueryParameter("X", "INT64", 6)],
    range_partitioning=bigquery.RangePartitioning(bigquery.PartitionRange(0, 10, 1), "a"),
    schema_update_options=["ALLOW_FIELD_ADDITION"],
    script_options=bigquery.ScriptOptions(statement_timeout_ms=1000),
    time_partitioning=bigquery.TimePartitioning(expiration_ms=1000),
    udf_resources=[bigquery.UDFResource("inlineCode", "x")],  # type: ignore[no-untyped-call]
    use_legacy_sql=False,
    use_query_cache=False,
    write_disposition="WRITE_APPEND",
)


def test_all_settings_of_flytekit_are_honoured() -> None:
    made = configuration(query_task("SELECT @x", config=FULL, inputs={"x": int}), x=7)["query"]
    due = FULL.to_api_repr()["query"]
    names = {one["name"]: one["parameterValue"]["value"] for one in made.pop("queryParameters")}
    assert names == {"fixed": "5", "x": "7"}, "an input goes before a parameter of its name, whose case does not matter"
    assert made.pop("query") == "SELECT @x"
    assert made.pop("parameterMode") == "NAMED"
    del due["queryParameters"], due["parameterMode"]
    assert made == due
    # Struct has floats only, and BigQuery takes no 2.0 for a number of steps.
    assert repr(made["maximumBillingTier"]) == "2"


def test_settings_that_flytekit_does_not_write() -> None:
    """Those of other authors go where BigQuery has them, and to BigQuery if they are not known."""
    made = configuration(
        query_task("SELECT 1"), custom={"jobTimeoutMs": "1000", "labels": {"team": "a"}, "dryRun": False, "later": {"a": 1.0}}
    )
    assert (made["jobTimeoutMs"], made["labels"]["team"], made["query"]["later"]) == ("1000", "a", {"a": 1})
    assert "Location" not in made["query"] and "dryRun" not in made


@pytest.mark.parametrize(
    "custom, why",
    [
        ({"ProjectId": "p"}, "custom has ProjectId, which is not known here; ProjectID, Location, Domain are"),
        ({"dryRun": True}, "a dry run makes no job"),
        ({"queryParameters": "x"}, "queryParameters are no list"),
        ({"queryParameters": [{"parameterType": {"type": "INT64"}}]}, "takes no mixture"),
        ({"useLegacySql": True}, "a query in legacy SQL takes no parameters"),
        ({"labels": "x"}, "labels are no dictionary"),
        ({"labels": {f"l{i}": "" for i in range(64)}}, "the task has 64 labels; 59 are possible"),
    ],
)
def test_settings_that_cannot_be(custom: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        configuration(query_task("SELECT @x", inputs={"x": int}), custom=custom, x=1)


METADATA = {
    "taskExecutionId": {
        "taskId": {"project": "flytesnacks", "domain": "development", "name": "sql.Daily/grüße", "version": "v" * 80},
        "nodeExecutionId": {"nodeId": "n0", "executionId": {"project": "sales", "domain": "production", "name": "f1"}},
        "retryAttempt": 2,
    }
}


def test_labels_tell_whose_the_job_is() -> None:
    labels = configuration(query_task("SELECT 1"), METADATA)["labels"]
    assert len(labels.pop(REQUEST_LABEL)) == 40
    assert labels == {
        "flyte-project": "sales",
        "flyte-domain": "production",
        "flyte-execution": "f1",
        "flyte-node": "n0",
        "flyte-task": "sql-daily-gr--e",
        "flyte-task-version": "v" * 63,
        "flyte-attempt": "2",
    }
    labels = configuration(query_task("SELECT 1"))["labels"]
    assert (labels["flyte-project"], labels["flyte-domain"]) == ("flytesnacks", "development")


def test_a_request_is_known_again() -> None:
    def request(statement: str = "SELECT @x", metadata: Any = None, x: int = 1, prefix: str = "", **more: Any) -> Any:
        task = query_task(statement, inputs={"x": int}, **more)
        info = TaskInfo(template_of(task), literals=literals_of(task, x=x), metadata=metadata, output_prefix=prefix)
        return job_configuration(info)["labels"][REQUEST_LABEL]

    assert request() == request(metadata=METADATA)
    others = [request(x=2), request("SELECT @x + 1"), request(prefix="s3://b/o"), request(output=False), request(name="other")]
    assert len({request(), *others}) == 6


def test_job_ids() -> None:
    assert job_id_of("k") == job_id_of("k") != job_id_of("K")
    assert job_id_of("") != job_id_of("")
    for key in ("k", "ü" * 5000, ""):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", job_id_of(key))


def test_outputs() -> None:
    assert output_of(template_of(query_task("SELECT 1"))) == "results"
    assert output_of(template_of(query_task("SELECT 1", output=False))) == ""
    variables = {"n": {"type": {"simple": "INTEGER"}}}
    with pytest.raises(UserError, match="declares the outputs n; a query has one"):
        output_of({"interface": {"outputs": {"variables": variables}}})


@pytest.mark.parametrize("project", ["p/datasets/d?x=", "p/../q", "", None, 1, "a:b:c", "p#"])
def test_what_is_no_project(project: Any) -> None:
    """It stands in the path of calls."""
    with pytest.raises(UserError, match="ProjectID"):
        project_of({"ProjectID": project})


def test_projects() -> None:
    assert project_of({"ProjectID": "example.com:my-project1"}) == "example.com:my-project1"


def test_files_in_dataclasses_are_json() -> None:
    declared = {"simple": "STRUCT", "structure": {"dataclassType": {"file": {"blob": {}}, "n": {"simple": "INTEGER"}}}}
    (made,) = query_parameters({"d": encode({"file": {"path": "s3://b/f"}, "n": 1})}, {"d": {"type": declared}})
    assert made["parameterValue"]["structValues"] == {"file": {"value": '{"path":"s3://b/f"}'}, "n": {"value": "1"}}


def test_what_is_no_query() -> None:
    with pytest.raises(UserError, match="the task has no query"):
        job_configuration(TaskInfo({"custom": {"ProjectID": "p"}}, literals=Literals()))
