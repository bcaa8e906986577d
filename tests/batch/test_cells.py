import pytest

from n1n_prefect.batch.cells import carried_in, checked_id, is_empty, names_in, request_fields, text_in
from n1n_prefect.batch.columns import KNOWN_COLUMNS
from n1n_prefect.errors import InvalidRequestError


class TestEmpty:
    @pytest.mark.parametrize("value", [None, "", " \t\n", float("nan")])
    def test_what_says_nothing(self, value):
        assert is_empty(value)

    @pytest.mark.parametrize("value", ["a", 0, 0.0, False, [], {}, float("inf")])
    def test_what_says_something(self, value):
        assert not is_empty(value)


class TestText:
    def test_without_spaces_around_it(self):
        assert text_in("model", " a b \n") == "a b"

    @pytest.mark.parametrize(
        ("value", "kind"),
        [(5, "a number"), (True, "a boolean"), ([], "a list"), ({}, "an object"), (b"a", "of type bytes")],
    )
    def test_another_kind_is_named(self, value, kind):
        with pytest.raises(InvalidRequestError, match=f"model=.* is {kind}; write it as a text"):
            text_in("model", value)

    def test_the_longest_that_is_taken(self):
        assert len(text_in("model", "x" * 1_000_000)) == 1_000_000
        with pytest.raises(InvalidRequestError, match="1,000,001 characters, and at most 1,000,000"):
            text_in("model", "x" * 1_000_001)


class TestId:
    def test_large_numbers_keep_all_their_digits(self):
        assert checked_id(12345678901234567890) == "12345678901234567890"

    @pytest.mark.parametrize("letter", ["\0", "\x1b", "\x7f", "\r", "\ud800", "\u2029"])
    def test_letters_that_nobody_sees(self, letter):
        with pytest.raises(InvalidRequestError, match="control characters or line ends"):
            checked_id(f"a{letter}b")


class TestRow:
    def test_each_cell_is_either_ours_or_carried(self):
        values = dict.fromkeys(KNOWN_COLUMNS, "x") | {"color": "red"}
        assert carried_in(values) == {"color": "red"}

    def test_only_fields_that_are_given(self):
        assert request_fields({"prompt": "p", "image": "a.png", "id": "a", "color": "red"}) == {
            "prompt": "p", "images": ["a.png"],
        }  # fmt: skip


class TestNames:
    def test_each_once_in_order(self):
        assert names_in(" b, a  b,c ") == ("b", "a", "c")
        assert names_in(["b c", "a", "b c"]) == ("b c", "a")
