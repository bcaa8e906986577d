import logging
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from n1n_prefect.batch import tables
from n1n_prefect.batch.results import COLUMNS, ItemResult, row_of
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.tables import Tables, write_tables
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, StagingError, UploadError
from tests.batch.ended_items import THUMB, ended, failed, image, item, uploaded
from tests.s3_servers import Answer, S3Server, ScriptedStore

FOX = ended(of=item("fox", 2, carried={"shop": "Köln", "stock": 3, "price": 1.5, "new": True}), variants=[THUMB])
OWL = ended(failed("owl", "broken\n'twice'"), item("owl", 3, carried={"shop": None, "stock": 4}))
CARRIED = ("shop", "stock", "price", "new")


@pytest.fixture
def store(s3_location: S3Location) -> BatchStore:
    return BatchStore(s3_location, "products/week-46")


def lines(store: BatchStore) -> list[Any]:
    return [orjson.loads(line) for line in (store.read("results.jsonl") or b"").splitlines()]


def parquet(store: BatchStore) -> Any:
    return pq.ParquetFile(BytesIO(store.read("results.parquet") or b""))


def rows_of(store: BatchStore) -> list[dict[str, Any]]:
    return parquet(store).read().to_pylist()


def carried(*values: Any) -> list[ItemResult]:
    return [ended(of=item(str(number), carried={"x": value})) for number, value in enumerate(values)]


class TestJsonLines:
    def test_a_row_for_each_result_in_order(self, store: BatchStore):
        assert write_tables(store, iter([FOX, OWL]), carried=CARRIED) == Tables(
            store.uri_of("results.jsonl"), store.uri_of("results.parquet"), 2
        )
        assert lines(store) == [row_of(FOX, CARRIED), row_of(OWL, CARRIED)]

    def test_every_row_has_every_column(self, store: BatchStore):
        write_tables(store, [FOX, OWL], carried=CARRIED)
        assert [list(row) for row in lines(store)] == [[*COLUMNS, *CARRIED]] * 2

    def test_of_nothing(self, store: BatchStore):
        assert write_tables(store, [], carried=()).rows == 0
        assert (store.read("results.jsonl"), rows_of(store)) == (b"", [])

    def test_media_types(self, store: BatchStore, moto_client: Any):
        write_tables(store, [FOX], carried=CARRIED)
        kinds = [
            moto_client.head_object(Bucket=store.location.bucket, Key=f"{store.folder}/{name}")["ContentType"]
            for name in ("results.jsonl", "results.parquet")
        ]
        assert kinds == ["application/x-ndjson", "application/vnd.apache.parquet"]


class TestParquet:
    def test_holds_what_the_lines_hold(self, store: BatchStore):
        write_tables(store, [FOX, OWL], carried=CARRIED)
        for row, line in zip(rows_of(store), lines(store), strict=True):
            at = line.pop("finished_at")
            assert row.pop("finished_at") == datetime.fromisoformat(at)
            assert row == line

    def test_columns_have_types(self, store: BatchStore):
        write_tables(store, [FOX, OWL], carried=CARRIED)
        types = {field.name: str(field.type) for field in parquet(store).schema_arrow}
        assert list(types) == [*COLUMNS, *CARRIED]
        names = ("id", "line", "estimated_cost_usd", "reused", "finished_at", "shop", "stock", "price", "new")
        assert [types[name] for name in names] == [
            "string", "int64", "double", "bool", "timestamp[ms, tz=UTC]", "string", "int64", "double", "bool",
        ]  # fmt: skip
        assert types["variants"].startswith("list<element: struct<name: string, key: string")

    def test_columns_say_what_they_mean(self, store: BatchStore):
        write_tables(store, [FOX], carried=["shop"])
        schema = parquet(store).schema_arrow
        assert schema.field("etag").metadata[b"description"] == b"The object's ETag, without quotes."
        assert schema.field("shop").metadata[b"description"] == b"Carried from the manifest."

    def test_pending_rows_without_any_value(self, store: BatchStore):
        write_tables(store, [ItemResult.pending(item())], carried=["shop"])
        (row,) = rows_of(store)
        assert (row["status"], row["seconds"], row["finished_at"], row["shop"], row["variants"]) == (
            "pending", None, None, None, [],
        )  # fmt: skip

    def test_many_rows_make_several_groups(self, store: BatchStore):
        result = ended()
        write_tables(store, (replace(result, line=line) for line in range(4_501)), carried=())
        found = parquet(store)
        assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [4_000, 501]
        assert found.read(["line"])["line"].to_pylist() == list(range(4_501))
        assert found.metadata.row_group(0).column(0).compression == "ZSTD"

    def test_hostile_words_and_numbers(self, store: BatchStore):
        hostile = ended(
            failed("椅子\ud800", "a\n\u2028\0"), item("椅子\ud800", carried={"f\ud800": "\udfff", "n": float("nan")})
        )
        write_tables(store, [hostile], carried=["f\ud800", "n"])
        (row,) = rows_of(store)
        assert (row["id"], row["reason"], row["f?"], row["n"]) == ("椅子?", "a\n\u2028\0", "?", None)


class TestCarriedColumns:
    @pytest.mark.parametrize(
        ("values", "stored", "kind"),
        [
            ([1, None, 2], [1, None, 2], "int64"),
            ([1, 2.5], [1.0, 2.5], "double"),
            ([2.5, None, 1], [2.5, None, 1.0], "double"),
            ([1, "two", 2.5], ["1", "two", "2.5"], "string"),
            ([True, 1], ["true", "1"], "string"),
            ([None, True, False], [None, True, False], "bool"),
            (["a", True, [1, {"b": None}]], ["a", "true", '[1,{"b":null}]'], "string"),
            ([1, 1 << 63], ["1", str(1 << 63)], "string"),
            ([-(1 << 63), 1 << 70], [str(-(1 << 63)), str(1 << 70)], "string"),
            ([None, None], [None, None], "string"),
        ],
    )
    def test_have_the_narrowest_type_that_holds_them(
        self, store: BatchStore, values: list[Any], stored: list[Any], kind: str
    ):
        assert write_tables(store, carried(*values), carried={"x": "any mapping does"}).parquet
        assert [row["x"] for row in rows_of(store)] == stored
        assert str(parquet(store).schema_arrow.field("x").type) == kind

    @pytest.mark.parametrize("name", ["id", "reason", "variants"])
    def test_none_has_a_name_of_the_tables_own(self, store: BatchStore, name: str):
        with pytest.raises(InvalidRequestError, match=rf"'{name}' of the manifest is one of the results' own; rename"):
            write_tables(store, [FOX], carried=[name])


class TestWithoutParquet:
    @pytest.fixture
    def logged(self, caplog: Any) -> Any:
        with caplog.at_level(logging.INFO, "n1n_prefect"):
            yield caplog

    def test_where_pyarrow_is_missing(self, store: BatchStore, monkeypatch: Any, logged: Any):
        monkeypatch.setattr(tables, "find_spec", lambda name: None)
        assert write_tables(store, [FOX], carried=CARRIED).parquet == ""
        assert len(lines(store)) == 1
        assert logged.text.count("pip install 'n1n-prefect[parquet]'") == 1

    def test_where_its_process_fails(self, store: BatchStore, monkeypatch: Any, tmp_path: Path, logged: Any):
        script = tmp_path / "broken.py"
        script.write_text("import sys; print('some line'); sys.exit('no more memory')")
        monkeypatch.setattr(tables, "_SCRIPT", script)
        done = write_tables(store, [FOX], carried=CARRIED)
        assert (done.jsonl, done.parquet) == (store.uri_of("results.jsonl"), "")
        assert "results.parquet was not written (no more memory)" in logged.text

    def test_where_its_process_dies_without_a_word(
        self, store: BatchStore, monkeypatch: Any, tmp_path: Path, logged: Any
    ):
        script = tmp_path / "killed.py"
        script.write_text("import os; os.kill(os.getpid(), 9)")
        monkeypatch.setattr(tables, "_SCRIPT", script)
        assert write_tables(store, [FOX], carried=CARRIED).parquet == ""
        assert "its process ended with -9" in logged.text

    def test_where_there_is_no_process(self, store: BatchStore, monkeypatch: Any, logged: Any):
        monkeypatch.setattr(tables.sys, "executable", "/nowhere/python")
        assert write_tables(store, [FOX], carried=CARRIED).parquet == ""
        assert "/nowhere/python" in logged.text

    def test_an_earlier_one_goes(self, store: BatchStore, monkeypatch: Any):
        write_tables(store, [FOX], carried=CARRIED)
        monkeypatch.setattr(tables, "find_spec", lambda name: None)
        write_tables(store, [FOX, OWL], carried=CARRIED)
        assert store.read("results.parquet") is None

    def test_an_earlier_one_that_may_not_be_removed(self, scripted_store: ScriptedStore, monkeypatch: Any, logged: Any):
        monkeypatch.setattr(tables, "find_spec", lambda name: None)
        scripted_store.says(Answer(200), Answer(403, "AccessDenied"))
        folder = BatchStore(scripted_store.server.location("shop"), "week-46")
        assert write_tables(folder, [FOX], carried=CARRIED).rows == 1
        assert scripted_store.methods == ["PUT", "DELETE"]
        assert "An earlier s3://shop/week-46/results.parquet may be out of date and could not be removed" in logged.text


class TestTrouble:
    def test_a_store_that_refuses(self, moto_server: S3Server):
        nowhere = BatchStore(moto_server.location("no-such-bucket-of-ours"), "x")
        with pytest.raises(UploadError, match="no-such-bucket-of-ours"):
            write_tables(nowhere, [FOX], carried=CARRIED)

    def test_no_room_for_the_files(self, store: BatchStore, monkeypatch: Any):
        monkeypatch.setattr(tables, "TemporaryDirectory", _full_disk)
        with pytest.raises(StagingError, match=r"No space left on device.*TMPDIR.*nothing is lost"):
            write_tables(store, [FOX], carried=CARRIED)

    def test_an_error_of_the_results_goes_through(self, store: BatchStore):
        def broken() -> Iterable[ItemResult]:
            yield FOX
            raise UploadError("part 7 is out of reach")

        with pytest.raises(UploadError, match="part 7"):
            write_tables(store, broken(), carried=CARRIED)
        assert store.read("results.jsonl") is None

    def test_nothing_stays_behind(self, store: BatchStore, monkeypatch: Any, tmp_path: Path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        write_tables(store, [FOX], carried=CARRIED)
        assert list(tmp_path.iterdir()) == []


def _full_disk(**options: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_the_process_is_not_led_astray_by_our_module_names(store: BatchStore):
    """`statistics.py` lies beside the script, and is also a module of Python's that libraries import."""
    assert (tables._SCRIPT.parent / "statistics.py").exists()
    write_tables(store, [ended(uploaded(of=image()))], carried=())
    assert rows_of(store)[0]["finished_at"].astimezone(timezone.utc).year == 2026
