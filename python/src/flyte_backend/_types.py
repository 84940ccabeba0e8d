"""Python values for Flyte's types that Python has none for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Blob:
    """A file or folder that is stored somewhere (FlyteFile, FlyteDirectory)."""

    uri: str
    format: str = ""
    folder: bool = False


@dataclass(frozen=True)
class Dataset:
    """A table that is stored somewhere (StructuredDataset). Columns are names and Flyte types, in protobuf's JSON form."""

    uri: str
    format: str = ""
    columns: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class Schema:
    """A table of flytekit's older kind (FlyteSchema); its type is in protobuf's JSON form."""

    uri: str
    type: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Binary:
    """Bytes with a tag that says what is in them."""

    value: bytes
    tag: str = ""


@dataclass(frozen=True)
class TaskFailure:
    """An error that is a value, as a failure node takes it."""

    failed_node: str = ""
    message: str = ""


@dataclass(frozen=True)
class Offloaded:
    """A literal that was too large to send: it is stored at ``uri``, as a protobuf Literal."""

    uri: str
    size_bytes: int = 0
