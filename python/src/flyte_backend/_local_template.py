"""A task of flytekit's as a service gets it from propeller, and what a job wrote at its output prefix as flytekit has it."""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyteidl.core import errors_pb2, literals_pb2
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.base_task import PythonTask
from flytekit.core.context_manager import FlyteContext
from flytekit.image_spec import ImageSpec
from flytekit.models.literals import LiteralMap
from flytekit.tools.translator import get_serializable_task
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from ._local_job import AttemptFailed, TaskCall
from ._local_sources import Offer

# The execution that all tasks of this process belong to. Plugins name jobs after it, so another run has another one.
EXECUTION = {"project": "local", "domain": "local", "name": f"l{secrets.token_hex(9)}"}
INDEX = "FLYTE_K8S_ARRAY_INDEX"


@dataclass(frozen=True)
class ArrayItem:
    """An item of a map task: the map, the item's place in it, and the inputs of the whole."""

    mapped: ArrayNodeMapTask
    index: int
    inputs: LiteralMap


class Run:
    """One task of a local run."""

    def __init__(
        self,
        task: PythonTask[Any],
        offer: Offer,
        ctx: FlyteContext,
        inputs: LiteralMap,
        item: ArrayItem | None,
        *,
        node: str,
        attempts: int,
    ) -> None:
        self.task = task
        self.offer = offer
        self._files = ctx.file_access
        self._inputs = inputs
        self._item = item
        self._node = node
        self._max_attempts = attempts
        self._folder = self._files.get_random_remote_directory().removeprefix("file://")
        self._template = template_of_task(task if item is None else item.mapped, ctx.serialization_settings)

    def call(self, attempt: int) -> TaskCall:
        """What is sent for an attempt, which counts from 0. Each has an output prefix of its own: a folder that is there,
        unless the run's files are remote."""
        prefix = f"{self._folder}/{attempt}"
        template = dict(self._template)
        if not self._files.is_remote(prefix):
            os.makedirs(prefix, exist_ok=True)
        if "container" in template:
            whole = self._inputs if self._item is None else self._item.inputs
            with self._open(f"{prefix}/inputs.pb", "wb") as file:
                file.write(whole.to_flyte_idl().SerializeToString())
            given = _json(self._inputs)["literals"] if self._inputs.literals else {}
            args = [_rendered(arg, prefix, given) for arg in template["container"].get("args", ())]
            template["container"] = {**template["container"], "args": args}
        return TaskCall(self.task.task_type, template, _json(self._inputs), self._metadata(attempt), prefix)

    def _metadata(self, attempt: int) -> dict[str, Any]:
        environment = {}
        if self._item is not None:
            environment = {INDEX: str(self._item.index), "BATCH_JOB_ARRAY_INDEX_VAR_NAME": INDEX}
        metadata: dict[str, Any] = {
            "taskExecutionId": {
                "taskId": self._template["id"],
                "nodeExecutionId": {"nodeId": self._node, "executionId": EXECUTION},
                "retryAttempt": attempt,
            },
            "namespace": f"{EXECUTION['project']}-{EXECUTION['domain']}",
            "environmentVariables": environment,
            "maxAttempts": self._max_attempts,
        }
        run_as = self._template.get("securityContext", {}).get("runAs", {})
        if run_as:
            metadata["identity"] = run_as
            metadata["k8sServiceAccount"] = run_as.get("k8sServiceAccount", "")
        return metadata

    def _open(self, path: str, mode: str) -> Any:
        return self._files.get_filesystem_for_path(path).open(path, mode)

    def _read(self, path: str, message: Message) -> bool:
        """Whether the file is there. Raises :class:`AttemptFailed` for one that cannot be read."""
        try:
            with self._open(path, "rb") as file:
                message.ParseFromString(file.read())
        except FileNotFoundError:
            return False
        except (DecodeError, OSError) as e:
            raise AttemptFailed(f"{path} cannot be read: {e}", retry=True) from e
        return True

    def written_error(self, call: TaskCall) -> AttemptFailed | None:
        """What the job says in ``error.pb``."""
        document = errors_pb2.ErrorDocument()
        if not self._read(f"{call.output_prefix}/error.pb", document):
            return None
        error = document.error
        retry = error.kind == errors_pb2.ContainerError.RECOVERABLE
        return AttemptFailed(error.message, code=error.code, is_users=error.origin != 2, retry=retry)

    def written_outputs(self, call: TaskCall) -> LiteralMap:
        """What the job wrote instead of giving it."""
        if error := self.written_error(call):
            raise error
        outputs = literals_pb2.LiteralMap()
        if not self._read(f"{call.output_prefix}/outputs.pb", outputs) and self.task.interface.outputs:
            raise AttemptFailed(f"the job gave no outputs, and there is no {call.output_prefix}/outputs.pb", retry=True)
        return _checked(outputs, self.task)


def read_outputs(given: Mapping[str, Any], task: PythonTask[Any]) -> LiteralMap:
    """The outputs that a plugin gave."""
    outputs = literals_pb2.LiteralMap()
    try:
        json_format.ParseDict(dict(given), outputs, ignore_unknown_fields=True)
    except json_format.ParseError as e:
        raise AttemptFailed(f"the job's outputs cannot be read: {e}") from e
    return _checked(outputs, task)


def _checked(outputs: Any, task: PythonTask[Any]) -> LiteralMap:
    """The outputs that the task declares. Others are passed over, as propeller does."""
    declared = task.interface.outputs
    if missing := [name for name in declared if name not in outputs.literals]:
        raise AttemptFailed(f"the job gave no output {', '.join(missing)}, which the task declares", retry=True)
    for name in [name for name in outputs.literals if name not in declared]:
        del outputs.literals[name]
    return LiteralMap.from_flyte_idl(outputs)


def _json(model: Any) -> dict[str, Any]:
    """A model of flytekit's in protobuf's JSON form."""
    message: dict[str, Any] = json_format.MessageToDict(model.to_flyte_idl())
    return message


def template_of_task(task: PythonTask[Any], given: SerializationSettings | None = None) -> dict[str, Any]:
    """The template that registering the task would make, with these settings of flytekit's or its defaults."""
    images = (given.image_config if given else None) or ImageConfig.auto_default_image()
    image = getattr(task, "container_image", None)
    if isinstance(image, ImageSpec) and images.find_image(image.id) is None:  # it would be built, which nobody asked for
        name, _, tag = image.image_name().rpartition(":")
        images = ImageConfig(images.default_image, [*(images.images or ()), Image(image.id, name, tag)])
    settings = given.new_builder().build() if given else SerializationSettings(images)
    settings.image_config = images
    for name, value in (("project", "local"), ("domain", "local"), ("version", "local")):
        if not getattr(settings, name):
            setattr(settings, name, value)
    return _json(get_serializable_task(OrderedDict(), settings, task).template)


_PLACEHOLDER = re.compile(r"\{\{\s*\.(\w+)(?:\.(\w+))?\s*\}\}")


def _rendered(arg: str, prefix: str, inputs: Mapping[str, Any]) -> str:
    """A container's argument with what propeller fills in. What it does not know stays as it is."""
    known = {
        "input": f"{prefix}/inputs.pb",
        "inputprefix": prefix,
        "outputprefix": prefix,
        "rawoutputdataprefix": f"{prefix}/raw",
        "checkpointoutputprefix": f"{prefix}/checkpoint",
        "prevcheckpointprefix": '""',
    }

    def fill(found: re.Match[str]) -> str:
        what, name = found.group(1).lower(), found.group(2)
        if what == "inputs" and name in inputs:
            primitive = inputs[name].get("scalar", {}).get("primitive", {})
            return str(next(iter(primitive.values()), found.group(0)))
        return known.get(what, found.group(0)) if name is None else found.group(0)

    return _PLACEHOLDER.sub(fill, arg)
