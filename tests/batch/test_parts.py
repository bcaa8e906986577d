import json
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from n1n_prefect import contact_sheet_markdown
from n1n_prefect.batch.items import Item
from n1n_prefect.batch.parts import all_results, part_name, read_part, write_part
from n1n_prefect.batch.results import ItemResult, dumped, row_of
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import UploadError
from n1n_prefect.images import ImageOutcome
from tests.batch.ended_items import PROMPT, THUMB, ended, failed, item, uploaded
from tests.s3_servers import S3Server
from tests.staged_images import PICTURE, good, staged


@pytest.fixture
def store(s3_location: S3Location) -> BatchStore:
    return BatchStore(s3_location, "products/week-46")


class TestParts:
    def test_come_back_as_they_were(self, store: BatchStore):
        results = [
            ended(of=item("fox", carried={"a": 1, "b": None, "c": True, "d": 1.5, "e": "ü"}), variants=[THUMB]),
            ended(failed("椅子", 'broken\n"twice"\u2028')),
            ItemResult.pending(item("owl")),
        ]
        write_part(store, 7, results)
        assert read_part(store, 7) == results

    def test_lie_below_the_folder_as_json_lines(self, store: BatchStore):
        write_part(store, 7, [ended(), ended()])
        lines = (store.read("_batch/parts/00007.jsonl") or b"").decode().splitlines()
        assert json.loads(lines[0]) == {"schema": 1, "chunk": 7, "results": 2}
        assert [json.loads(line)["id"] for line in lines[1:]] == ["fox", "fox"]

    def test_an_empty_one_is_not_an_absent_one(self, store: BatchStore):
        write_part(store, 0, [])
        assert read_part(store, 0) == []
        assert read_part(store, 1) is None

    def test_a_later_one_takes_its_place(self, store: BatchStore):
        write_part(store, 0, [ended(failed())])
        write_part(store, 0, [ended()])
        assert [result.outcome.status for result in read_part(store, 0) or ()] == ["uploaded"]

    def test_hostile_words_and_numbers(self, store: BatchStore):
        hostile = ended(failed("a\ud800", "x" * 5_000_000 + "\udfff", prompt_excerpt="\ud800"))
        big = ended(uploaded(estimated_cost_usd=float("nan")), item(carried={"n": 1 << 70, "nan": float("nan")}))
        write_part(store, 0, [hostile, big])
        first, second = read_part(store, 0) or ()
        assert (first.id, len(first.outcome.reason), first.outcome.prompt_excerpt) == ("a?", 2000, "?")
        assert second.outcome.estimated_cost_usd is None
        assert orjson.loads(dumped(row_of(second)))["nan"] is None

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda data: data[:-40], id="cut in a line"),
            pytest.param(lambda data: data[: data.rindex(b"\n", 0, -1)], id="cut between lines"),
            pytest.param(lambda data: data + b"{}\n", id="a line more"),
            pytest.param(lambda data: data.replace(b'"chunk":3', b'"chunk":4'), id="of another chunk"),
            pytest.param(lambda data: data.replace(b'"schema":1', b'"schema":2'), id="of a newer version"),
            pytest.param(lambda data: data.replace(b'"uploaded"', b'"lost"', 1), id="a status that is none"),
            pytest.param(lambda data: b"", id="empty"),
            pytest.param(lambda data: b"\xff\n\n", id="binary"),
            pytest.param(lambda data: b"<html>\n", id="another document"),
        ],
    )
    def test_what_is_no_whole_part_counts_as_none(self, store: BatchStore, change: Any, caplog: Any):
        write_part(store, 3, [ended(), ended()])
        store.write(part_name(3), change(store.read(part_name(3))))
        with caplog.at_level(logging.WARNING, "n1n_prefect"):
            assert read_part(store, 3) is None
        assert store.uri_of("_batch/parts/00003.jsonl") in caplog.text
        assert "pays only for what is missing" in caplog.text
        assert PROMPT not in caplog.text

    def test_an_error_of_the_store_is_no_absence(self, moto_server: S3Server):
        nowhere = BatchStore(moto_server.location("no-such-bucket-of-ours"), "x")
        with pytest.raises(UploadError, match="no-such-bucket-of-ours"):
            read_part(nowhere, 0)

    def test_a_line_with_what_the_first_version_had_is_read(self, store: BatchStore):
        line = (
            b'{"id":"fox","line":2,"outcome":{"id":"fox","status":"failed"},"model":"m","aspect_ratio":null,'
            b'"image_size":null,"take":0,"prompt_sha256":"00","prompt_excerpt":"A fox"}'
        )
        store.write(part_name(0), b'{"schema":1,"chunk":0,"results":1}\n' + line + b"\n")
        (result,) = read_part(store, 0) or ()
        assert (result.outcome, result.carried) == (ImageOutcome("fox", "failed"), {})

    @pytest.mark.usefixtures("own_storage")
    def test_a_contact_sheet_is_drawn_from_them(self, store: BatchStore):
        write_part(store, 0, [ended(good("SKU-1", staged()), item("SKU-1"))])
        sheet = contact_sheet_markdown(result.outcome for result in read_part(store, 0) or ())
        assert PICTURE.search(sheet)
        assert "week-46" in sheet


def chunk_of_two(number: int) -> Iterator[Item]:
    yield item(f"{number}-a", number * 2)
    yield item(f"{number}-b", number * 2 + 1)


class TestAllResults:
    def test_every_item_once_in_the_plans_order(self, store: BatchStore):
        write_part(store, 0, [ended(uploaded("0-b")), ended(failed("0-a"))])
        write_part(store, 2, [ended(failed("2-a"), item("2-a")), ended(uploaded("2-a"), item("2-a"))])
        found = [(result.id, result.outcome.status) for result in all_results(store, 3, items_of=chunk_of_two)]
        assert found == [
            ("0-a", "failed"), ("0-b", "uploaded"), ("1-a", "pending"), ("1-b", "pending"),
            ("2-a", "uploaded"), ("2-b", "pending"),
        ]  # fmt: skip

    def test_pending_ones_say_where_they_stand(self, store: BatchStore):
        *_, last = all_results(store, 2, items_of=chunk_of_two)
        assert (last.id, last.line, last.model) == ("1-b", 3, "gemini-3-pro-image")

    def test_strangers_are_left_out_and_named(self, store: BatchStore, caplog: Any):
        write_part(store, 0, [ended(uploaded("0-a")), ended(uploaded("stranger"))])
        ids = [result.id for result in all_results(store, 1, items_of=chunk_of_two)]
        assert ids == ["0-a", "0-b"]
        assert "'stranger'" in caplog.text

    def test_reads_a_chunk_when_it_is_due(self, store: BatchStore):
        asked: list[int] = []

        def items_of(number: int) -> Iterator[Item]:
            asked.append(number)
            return chunk_of_two(number)

        results = all_results(store, 1000, items_of=items_of)
        next(results)
        assert asked == [0]
