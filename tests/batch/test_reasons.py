import pytest

from n1n_prefect.batch import reasons
from n1n_prefect.batch.reasons import Reasons, kind_of_reason


class TestKindOfReason:
    @pytest.mark.parametrize(
        ("one", "other", "kind"),
        [
            (
                "The prompt was refused (SAFETY). The model said: no.",
                "The prompt was refused (SAFETY). The model said: never!",
                "The prompt was refused (SAFETY).",
            ),
            (
                "No answer within 300 seconds (request id: 2025112507).",
                "No answer within 12.5 seconds (request id: 17ab).",
                "No answer within # seconds.",
            ),
            (
                "s3://shop/a/fox.png exists already and holds something else (1,024 bytes).",
                "s3://shop/owl.png exists already and holds something else (7 bytes).",
                "… exists already and holds something else (# bytes).",
            ),
            (
                "Broken rules in Image 0123456789ab (image/png, 64x48 pixels): ratio.",
                "Broken rules in Image fedcba987654 (image/png, 1024x1024 pixels): ratio.",
                "Broken rules in Image … (image/png, # pixels): ratio.",
            ),
            (
                "'fox.png' cannot be read as a file: No such file.",
                "'white owl.png' cannot be read as a file: No such file.",
                "'…' cannot be read as a file: No such file.",
            ),
            (
                "Run 0f8fad5b-d9cb-469f-a165-70867728950e crashed",
                "Run 7c9e6679-7425-40de-944b-e07fc1f90ae7 crashed",
                "Run … crashed",
            ),
        ],
    )
    def test_what_differs_is_taken_out(self, one: str, other: str, kind: str):
        assert kind_of_reason(one) == kind_of_reason(other) == kind

    @pytest.mark.parametrize(
        "words",
        [
            "HTTP 429 from the gateway.",
            "The model gemini-2.5-flash-image isn't known, so it wasn't asked.",
            "Ein Bild für Zoë.",
        ],
    )
    def test_what_says_something_stays(self, words: str):
        assert kind_of_reason(words) == words

    def test_the_items_own_name_is_taken_out(self):
        assert kind_of_reason("Row SKU-17/a is odd.", "SKU-17/a") == "Row … is odd."

    @pytest.mark.parametrize("name", ["", "row", "Row"])
    def test_a_name_that_may_be_any_word_is_not(self, name: str):
        assert kind_of_reason("Row is odd in this row.", name) == "Row is odd in this row."

    @pytest.mark.parametrize("reason", ["", " \n", "\ud800", "a" * 10_000_000, "'" * 5000, "9" * 5000, "a://" * 5000])
    def test_whatever_comes_is_short(self, reason: str):
        assert len(kind_of_reason(reason)) <= 300

    def test_is_on_one_line(self):
        assert kind_of_reason("Two\nlines\tand more. Rest.") == "Two lines and more."


class TestReasons:
    def counted(self, *rows: tuple[str, str, str]) -> Reasons:
        found = Reasons()
        for row in rows:
            found.add(*row)
        return found

    def test_the_most_frequent_first_with_an_example(self):
        found = self.counted(
            ("failed", "Slow: 3 s.", "fox"), ("refused", "No.", "owl"), ("failed", "Slow: 4 s.", "elk")
        )
        assert found.top(5) == [
            {"status": "failed", "reason": "Slow: # s.", "count": 2, "example": "fox"},
            {"status": "refused", "reason": "No.", "count": 1, "example": "owl"},
        ]
        assert len(found.top(1)) == 1

    def test_the_same_words_for_another_status_are_another_reason(self):
        assert len(self.counted(("failed", "No.", "a"), ("refused", "No.", "b")).top(5)) == 2

    def test_merging_keeps_counts_and_the_first_example(self):
        one = self.counted(("failed", "No.", "a"))
        one.merge(self.counted(("failed", "No.", "b"), ("invalid", "Blank.", "c")))
        assert [(row["count"], row["example"]) for row in one.top(5)] == [(2, "a"), (1, "c")]

    def test_many_different_ones_cost_no_more_memory(self):
        found = self.counted(*[("failed", "Usual.", "usual")] * 50)
        words = [
            f"odd {a}{b}{c}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst" for c in "abcdefghijkl"
        ]
        for word in words:
            found.add("failed", word, "odd")
        assert len(words) > reasons._MOST
        assert len(found.counts) == len(found.examples) <= reasons._MOST
        assert found.top(1)[0]["count"] == 50
        assert found.counts.total() + found.rare == 50 + len(words)

    def test_merging_many_is_bounded_as_well(self):
        one, other = (
            self.counted(
                *[("failed", f"{letter}{a}{b}", "x") for a in "abcdefghijklmnopqrstuvwxyz" * 3 for b in _LETTERS]
            )
            for letter in "pq"
        )
        one.merge(other)
        assert len(one.counts) == len(one.examples) <= reasons._MOST
        assert one.counts.total() + one.rare == 2 * 78 * len(_LETTERS)


_LETTERS = [chr(0x4E00 + number) for number in range(100)]
