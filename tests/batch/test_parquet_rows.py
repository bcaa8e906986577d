import datetime
import decimal
import io
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from n1n_prefect.batch.parquet_rows import parquet_rows
from n1n_prefect.batch.text_rows import RawRow
from n1n_prefect.errors import InvalidRequestError


def written(columns: "dict[str, Any]", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    file.seek(0)
    return file


def read(columns: "dict[str, Any]", **options: Any):
    names, rows = parquet_rows(written(columns, **options), "m.parquet")
    return names, list(rows)


class TestRows:
    def test_rows_are_numbered_from_1_over_all_row_groups(self):
        names, rows = read({"id": ["a", "b", "c"], "prompt": ["A fox", "An owl", None]}, row_group_size=2)
        assert names == ("id", "prompt")
        assert rows == [
            RawRow(1, {"id": "a", "prompt": "A fox"}),
            RawRow(2, {"id": "b", "prompt": "An owl"}),
            RawRow(3, {"id": "c", "prompt": None}),
        ]

    def test_values_of_every_type_that_is_taken(self):
        columns = {
            "id": pa.array([7]),
            "prompt": pa.array(["A fox"], pa.large_string()),
            "images": pa.array([["a.png", "b.png"]]),
            "model": pa.array(["m"]).dictionary_encode(),
            "temperature": pa.array([0.5], pa.float32()),
            "seed": pa.array([5], pa.int32()),
            "google_search": pa.array([True]),
            "extra_body": pa.array(['{"a": 1}']),
            "key": pa.array([None]),
            "variants": pa.array([[]], pa.list_(pa.null())),
            "price": pa.array([decimal.Decimal("1.50")]),
            "day": pa.array([datetime.date(2026, 1, 2)]),
            "at": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5)], pa.timestamp("ns")),
        }
        _, [row] = read(columns)
        assert row.values == {
            "id": 7,
            "prompt": "A fox",
            "images": ["a.png", "b.png"],
            "model": "m",
            "temperature": 0.5,
            "seed": 5,
            "google_search": True,
            "extra_body": '{"a": 1}',
            "key": None,
            "variants": [],
            "price": "1.50",
            "day": "2026-01-02",
            "at": "2026-01-02 03:04:05.000000000",
        }

    def test_no_rows(self):
        assert read({"prompt": pa.array([], pa.string())}) == (("prompt",), [])


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("column", "values", "said"),
        [
            ("prompt", [1], r"'prompt' is of type int64, and must hold texts; convert it"),
            ("prompt", [["a"]], r"'prompt' is of type list<.*string>, and must hold texts"),
            ("prompt", [{"text": "a"}], r"'prompt' is of type struct<text: string>, and must hold texts"),
            ("prompt", [b"a"], r"'prompt' is of type binary"),
            ("id", [1.5], r"'id' is of type double, and must hold texts or whole numbers"),
            ("images", [[1]], r"'images' is of type list<.*int64>, and must hold texts or lists of texts"),
            ("image", [[["a"]]], r"'image' is of type list<.*list<.*string>>"),
            ("seed", [True], r"'seed' is of type bool, and must hold whole numbers"),
            ("google_search", [1], r"'google_search' is of type int64, and must hold booleans"),
            ("extra_body", [{"a": 1}], r"'extra_body' is of type struct<a: int64>, and must hold texts of JSON"),
            ("thumbnail", [b"a"], r"'thumbnail' is of type binary, .*carried through"),
            ("tags", [["a"]], r"'tags' is of type list<.*string>, and must hold texts, numbers, booleans or dates"),
        ],
    )
    def test_a_column_is_named_with_its_type_before_any_row_is_read(self, column, values, said):
        with pytest.raises(InvalidRequestError, match=said):
            parquet_rows(written({"prompt": ["A fox"], column: values}), "m.parquet")


class TestFaults:
    def test_no_parquet_at_all(self):
        with pytest.raises(InvalidRequestError, match=r"m\.parquet is no whole Parquet file"):
            parquet_rows(io.BytesIO(b"id,prompt\na,A fox\n"), "m.parquet")

    def test_the_end_is_missing(self):
        with pytest.raises(InvalidRequestError, match="no whole Parquet file"):
            parquet_rows(io.BytesIO(written({"prompt": ["A fox"]}).getvalue()[:-20]), "m.parquet")

    def test_damage_in_the_middle_says_after_which_row(self):
        data = bytearray(written({"prompt": [f"A fox {n}" for n in range(4000)]}, row_group_size=2000).getvalue())
        middle = len(data) // 2
        data[middle - 2000 : middle + 2000] = b"\xff" * 4000
        _, rows = parquet_rows(io.BytesIO(bytes(data)), "m.parquet")
        with pytest.raises(InvalidRequestError, match=r"m\.parquet is damaged after row \d+ \("):
            list(rows)

    def test_without_pyarrow_the_extra_is_named(self, monkeypatch):
        file = written({"prompt": ["A fox"]})
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(InvalidRequestError, match=r"pip install 'n1n-prefect\[parquet\]', or give the manifest as"):
            parquet_rows(file, "m.parquet")
