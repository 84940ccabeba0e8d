"""What flytekit makes of values, and of literals. test_flytekit.py runs it with the Python of tools/flytekit.sh, in which this
package is not installed.

usage: flytekit_side.py write            prints flytekit's literals and types of the values below, as JSON
       flytekit_side.py read <literals   prints what flytekit makes of literals, as JSON of their repr
"""

import datetime
import enum
import json
import sys
from dataclasses import dataclass
from typing import Dict, List, Optional, Union

from flyteidl.core import literals_pb2
from flytekit import FlyteContextManager, StructuredDataset
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from google.protobuf import json_format


@dataclass
class Inner:
    n: int
    tags: List[str]


@dataclass
class Point:
    x: int
    inner: Inner
    when: Optional[datetime.datetime] = None


class Colour(enum.Enum):
    RED = "red"


UTC = datetime.timezone.utc

VALUES = {
    "int": (int, 7),
    "large": (int, -(1 << 63)),
    "float": (float, 1.5),
    "str": (str, "grüße"),
    "bool": (bool, True),
    "datetime": (datetime.datetime, datetime.datetime(2026, 2, 3, 4, 5, 6, 7, UTC)),
    "timedelta": (datetime.timedelta, datetime.timedelta(days=-1, seconds=1.5)),
    "list": (List[int], [1, 2]),
    "nested": (List[List[str]], [["a"], []]),
    "map": (Dict[str, int], {"a": 1}),
    "optional": (Optional[int], 3),
    "none": (Optional[int], None),
    "union": (Union[int, str], "a"),
    "enum": (Colour, Colour.RED),
    "dict": (dict, {"a": [1, 2.5, None], "b": {"c": "d"}}),
    "dataclass": (Point, Point(1, Inner(2, ["t"]))),
    "dataclasses": (List[Inner], [Inner(1, []), Inner(2, ["a"])]),
    "file": (FlyteFile, FlyteFile("s3://b/f", remote_path=False)),
    "folder": (FlyteDirectory, FlyteDirectory("s3://b/d", remote_directory=False)),
    "table": (StructuredDataset, StructuredDataset(uri="s3://b/t", file_format="parquet")),
}


def write():
    context = FlyteContextManager.current_context()
    out = {}
    for name, (kind, value) in VALUES.items():
        flyte_type = TypeEngine.to_literal_type(kind)
        literal = TypeEngine.to_literal(context, value, kind, flyte_type)
        out[name] = {
            "literal": json_format.MessageToDict(literal.to_flyte_idl()),
            "type": json_format.MessageToDict(flyte_type.to_flyte_idl()),
        }
    json.dump(out, sys.stdout)


def shown(value):
    if isinstance(value, (FlyteFile, FlyteDirectory)):
        return f"{type(value).__name__} {value.remote_source or value.path}"
    if isinstance(value, StructuredDataset):
        return f"StructuredDataset {value._literal_sd.uri if value._literal_sd else value.uri}"
    return repr(value)


def read():
    context = FlyteContextManager.current_context()
    out = {}
    for name, literal in json.load(sys.stdin).items():
        message = json_format.ParseDict(literal, literals_pb2.Literal())
        value = TypeEngine.to_python_value(context, Literal.from_flyte_idl(message), VALUES[name][0])
        out[name] = shown(value)
    json.dump({"read": out, "values": {name: shown(VALUES[name][1]) for name in out}}, sys.stdout)


{"write": write, "read": read}[sys.argv[1]]()
