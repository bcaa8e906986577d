import builtins
import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Completed, Failed
from pydantic import BaseModel

from n1n_prefect import ImageOutcome
from n1n_prefect.errors import ImageValidationError
from n1n_prefect.testing.found_images import parts_of, sha256s_in
from tests.examples import SHA256, generated, uploaded

DATA = b"the bytes of a picture"
HASH = hashlib.sha256(DATA).hexdigest()


class Model(BaseModel):
    inside: Any


@dataclass(slots=True)
class Slots:
    inside: object


class Broken:
    def __iter__(self):
        yield DATA
        raise RuntimeError("no more")


def failure(image: object) -> ImageValidationError:
    error = ImageValidationError("not what was asked")
    error.image = image
    return error


class TestAnImageIsFound:
    @pytest.mark.parametrize(
        "value",
        [
            DATA, bytearray(DATA), memoryview(DATA), io.BytesIO(DATA), HASH, HASH.upper(), f"s3://b/images/{HASH}.png",
            [[(DATA,)]], {DATA}, {"a": {"b": DATA}}, {HASH: "a fox"}, Model(inside=[DATA]), Slots(DATA),
            SimpleNamespace(inside=DATA), Broken(), (data for data in [DATA]), map(bytes, [DATA]),
            Completed(data=[DATA]),
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_wherever_it_is(self, value: object) -> None:
        assert HASH in sha256s_in(value)

    @pytest.mark.parametrize(
        "value",
        [
            generated(),
            uploaded(),
            ImageOutcome("1", "invalid", image=generated()),
            ImageOutcome("1", "uploaded", uploaded=uploaded()),
            failure(generated()),
            Failed(data=failure(generated())),
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_in_our_own_values_and_errors(self, value: object) -> None:
        assert SHA256 in sha256s_in(value)

    def test_behind_an_error_that_another_one_hides(self) -> None:
        def report() -> None:
            try:
                raise failure(generated())
            except ImageValidationError:
                raise RuntimeError("No image arrived.")  # noqa: B904 - as users write it

        with pytest.raises(RuntimeError) as raised:
            report()
        assert SHA256 in sha256s_in(raised.value)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups of exceptions")
    def test_in_a_group_of_errors(self) -> None:
        group: Any = vars(builtins)["ExceptionGroup"]
        assert SHA256 in sha256s_in(group("several", [ValueError(), failure(generated())]))

    def test_in_files_that_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "fox.png").write_bytes(DATA)
        assert HASH in sha256s_in(tmp_path / "fox.png")
        assert HASH in sha256s_in(str(tmp_path / "fox.png"))
        assert HASH in sha256s_in(tmp_path.glob("*.png"))


class TestNoneIsFound:
    @pytest.mark.parametrize(
        "value",
        [
            None, 3, True, "", "a fox", "x" * 5000, "no\0name", Path("nowhere.png"), HASH[:-1], f"a{HASH}", object(),
            io, print, Model,
            RuntimeError(f"http://127.0.0.1/images/{HASH}.png"),
            ImageOutcome("1", "source_error", reason=f"http://127.0.0.1/images/{HASH}.png"),
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_where_there_is_none(self, value: object) -> None:
        assert HASH not in sha256s_in(value)

    def test_of_what_bites_its_own_tail(self) -> None:
        tail: list[object] = [DATA]
        tail.append({"again": tail})
        assert len(list(parts_of(tail))) == 4
        assert HASH in sha256s_in(tail)

    def test_and_an_endless_value_ends(self) -> None:
        def numbers():
            number = 0
            while True:
                yield (number := number + 1)

        assert sha256s_in(numbers()) == frozenset()
