"""Makes sqlite_elements.json and sqlite_elements.pb, a task template as flytekit itself serialises it.

Run it in an environment of its own, then keep the two files it writes beside it:

    python3 -m venv /tmp/templates && /tmp/templates/bin/pip install flytekit==1.16.31
    /tmp/templates/bin/python testdata/templates/make_sqlite.py

The task is an ordinary SQLite3Task. Only its uri is special: `embedded:elements` is the database that the plugin
in go/examples/sqlite carries in itself, so that a demo needs no download.
"""

import pathlib
from collections import OrderedDict

from flyteidl.core.tasks_pb2 import TaskTemplate
from flytekit import kwtypes
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.tools.translator import get_serializable
from flytekit.types.schema import FlyteSchema
from google.protobuf import json_format

IMAGE = "cr.flyte.org/flyteorg/flytekit:py3.11-1.16.31"

elements = SQLite3Task(
    name="sql.sqlite3.elements",
    # One placeholder inside a string literal and one outside, because a plugin fills the two in different ways.
    query_template="""
        select number, symbol, name, atomic_weight, discovered
        from elements
        where name like '%{{.inputs.ending}}'
        order by number
        limit {{.inputs.limit}}
    """,
    inputs=kwtypes(limit=int, ending=str),
    output_schema_type=FlyteSchema[kwtypes(number=int, symbol=str, name=str, atomic_weight=float, discovered=int)],
    task_config=SQLite3Config(uri="embedded:elements", compressed=False),
    container_image=IMAGE,
)


def main() -> None:
    settings = SerializationSettings(
        project="flytesnacks",
        domain="development",
        version="v1",
        image_config=ImageConfig(default_image=Image.look_up_image_info("default", IMAGE)),
    )
    template: TaskTemplate = get_serializable(OrderedDict(), settings, elements).template.to_flyte_idl()
    folder = pathlib.Path(__file__).resolve().parent
    (folder / "sqlite_elements.json").write_text(json_format.MessageToJson(template, indent=1) + "\n")
    (folder / "sqlite_elements.pb").write_bytes(template.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
