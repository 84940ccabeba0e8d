import pytest
from flyte_backend import UserError
from flyte_backend.testing import run
from square import Square


@pytest.mark.parametrize("over_http", [False, True])
def test_squares(over_http):
    assert run(Square(), {"x": 3}, custom={"seconds": 0.1}, over_http=over_http) == {"o0": 9}


def test_wants_a_number():
    with pytest.raises(UserError, match="x is missing"):
        run(Square(), {"x": "three"})
