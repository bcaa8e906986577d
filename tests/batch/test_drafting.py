import json

import pytest

from n1n_prefect.batch import drafting
from n1n_prefect.batch.drafting import Draft
from n1n_prefect.batch.estimating import RunningEstimate
from n1n_prefect.batch.items import ITEM, BadRow, Item
from n1n_prefect.batch.seen import Seen
from n1n_prefect.images import ImageRequest


@pytest.fixture
def draft(tmp_path):
    with Seen(tmp_path / "seen.sqlite") as seen, Draft(tmp_path, RunningEstimate(seen), chunk_size=2) as draft:
        yield draft


def item(line, prompt="A fox", **carried):
    return Item(f"row {line}", line, ImageRequest(prompt, sample=line), carried=carried)


def items_in(chunk):
    return [ITEM.validate_json(line) for line in chunk.splitlines()]


class TestChunks:
    @pytest.mark.parametrize(("items", "sizes"), [(0, []), (1, [1]), (2, [2]), (5, [2, 2, 1])])
    def test_items_in_order(self, draft, items, sizes):
        rows = [item(line) for line in range(items)]
        for row in rows:
            draft.add(row)
        chunks = [items_in(chunk) for chunk in draft.chunks()]
        assert [len(chunk) for chunk in chunks] == sizes
        assert [item for chunk in chunks for item in chunk] == rows
        assert (draft.items, draft.chunk_count) == (items, len(sizes))

    def test_a_chunk_of_long_items_is_shorter(self, draft, monkeypatch):
        monkeypatch.setattr(drafting, "_MAX_CHUNK_BYTES", 2000)
        for line, prompt in enumerate(["x" * 2000, "y", "z", "x" * 2000]):
            draft.add(item(line, prompt))
        assert [len(items_in(chunk)) for chunk in draft.chunks()] == [1, 2, 1]


class TestBadRows:
    def test_all_are_written_and_the_first_20_kept(self, draft):
        for line in range(25):
            draft.add(BadRow(line, "ä", "bad"))
        draft.close_bad_rows()
        written = [json.loads(line) for line in draft.bad_rows_path.read_text("utf-8").splitlines()]
        assert written == [{"line": line, "id": "ä", "reason": "bad"} for line in range(25)]
        assert (draft.bad_rows, len(draft.first_bad_rows), draft.chunk_count) == (25, 20, 0)

    def test_what_no_document_can_hold_is_one_after_all(self, draft):
        deep = {}
        for _ in range(300):
            deep = {"a": deep}
        draft.add(Item("a", 2, ImageRequest("A fox", extra_body=deep)))
        draft.add(Item("b", 3, ImageRequest("A fox", model="new", temperature=float("inf"))))
        assert [(row.line, row.id) for row in draft.first_bad_rows] == [(2, "a"), (3, "b")]
        assert "how deeply extra_body is nested" in draft.first_bad_rows[0].reason
        assert "holds inf" in draft.first_bad_rows[1].reason
        assert (draft.items, draft.estimate.total().images) == (0, 0)


class TestCarried:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (["a"], "text"),
            ([1, 2.5, None], "number"),
            ([None, True], "boolean"),
            ([None], "text"),
            ([1, "a"], "text"),
            ([1, True], "text"),
            (["a", 1, 1], "text"),
            ([2**53], "number"),
            ([2**53 + 1], "text"),
        ],
    )
    def test_what_a_column_holds(self, draft, values, kind):
        for line, value in enumerate(values):
            draft.add(item(line, column=value))
        assert draft.carried == {"column": kind}

    def test_columns_of_all_rows_in_order(self, draft):
        draft.add(item(1, b="x"))
        draft.add(item(2, a=1, b="y"))
        assert list(draft.carried.items()) == [("b", "text"), ("a", "number")]

    def test_rows_that_have_other_columns_each_do_not_grow_for_ever(self, draft):
        for line in range(202):
            draft.add(item(line, **{f"column {line}": 1}))
        assert len(draft.carried) == 200
        assert [row.line for row in draft.first_bad_rows] == [200, 201]
        assert "give rows the same names" in draft.first_bad_rows[0].reason
