"""The exceptions, and the table that they share with the contract."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from flyte_backend import BackendError, Code, Retry, SystemError_, UserError, _errors
from flyte_backend._errors import code_of_status, error_of, retry_after

from .conftest import ROOT

# The class of the contract's table, and the branch of the tree.
BRANCHES = {"user error": UserError, "system error": SystemError_, "retry now": Retry, "retry later": Retry}


def contract_table() -> dict[str, tuple[int, str]]:
    text = (ROOT / "docs/contract.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\d{3}) \| ([\w ]+) \| ", text, re.MULTILINE)
    return {name: (int(status), kind) for name, status, kind in rows}


def test_every_code_is_what_the_contract_says() -> None:
    table = contract_table()
    assert len(table) == 16
    for code in Code:
        status, kind = table.pop(code.camel)
        assert code.http_status == status, code
        assert isinstance(error_of(code, "x"), BRANCHES[kind]), code
    assert not table


def test_codes_have_grpcs_numbers() -> None:
    grpc = pytest.importorskip("grpc")
    assert {code.value: code.number for code in Code} == {c.name: c.value[0] for c in grpc.StatusCode if c.name != "OK"}


def test_the_tree_is_in_one_place_and_exported() -> None:
    import flyte_backend

    kinds = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.__name__ for kind in kinds} - {"Enum"} <= set(flyte_backend.__all__)
    told = [kind for kind in kinds if issubclass(kind, BackendError) and kind is not BackendError]
    codes = [kind.code for kind in told if "code" in vars(kind)]
    assert sorted(codes) == sorted(Code), "each code has one exception"
    assert [kind.__name__ for kind in told if "code" not in vars(kind)] == ["SecretError"], "the others are made of a code"


@pytest.mark.parametrize(
    ("after", "seconds"), [(None, 0), (3, 3), (timedelta(minutes=1), 60), (-1, 0), (float("inf"), 0), (float("nan"), 0)]
)
def test_pauses(after: float | timedelta | None, seconds: float) -> None:
    assert Retry("x", after=after).after == seconds


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, 0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-1"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "yesterday"}, 0),
    ],
)
def test_pauses_that_answers_ask_for(headers: dict[str, str], pause: float) -> None:
    assert retry_after(headers) == pause


def test_what_is_not_known() -> None:
    assert error_of("NO_SUCH_CODE", "x").code is Code.UNKNOWN
    assert code_of_status(418) is Code.UNKNOWN
    assert str(Retry()) == "Unavailable"
