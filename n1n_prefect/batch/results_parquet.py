"""Turns a table in JSON Lines into Parquet, in a process of its own.

PyArrow stays loaded once it is, with 40 MB that a flow's process would keep. So this runs as a script
(`run_path`), which imports nothing of ours and with it neither Prefect nor boto3.

    results.jsonl results.parquet columns.json

The columns are a list of name, kind and meaning: `[["id", "text", "The row's own name."], …]`.
"""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 4_000
"""How many rows a row group has; they are in memory as Arrow's arrays, 1 kB each or less."""

_AT_ONCE = 500  # rows that are in memory as Python's objects, some 10 kB each

_VARIANT: Any = pa.struct(
    [pa.field(name, pa.string()) for name in ("name", "key", "uri", "sha256", "media_type")]
    + [pa.field(name, pa.int64()) for name in ("width", "height", "size_bytes")]
)
_TYPES: dict[str, Any] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("ms", tz="UTC"),
    "variants": pa.list_(_VARIANT),
}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


_AS: dict[str, Any] = {"text": _as_text, "number": float, "time": datetime.fromisoformat}


def convert(lines: Path, parquet: Path, columns: list[tuple[str, str, str]]) -> None:
    """Writes a Parquet with the rows of a JSON Lines file.

    Args:
        lines: The rows, an object a line; what a line does not name is null.
        parquet: The file to write.
        columns: Name, kind and meaning of each column, in order.
    """
    schema = pa.schema([pa.field(name, _TYPES[kind], metadata={"description": told}) for name, kind, told in columns])
    with lines.open("rb") as file, pq.ParquetWriter(parquet, schema, compression="zstd") as writer:
        batches = (_batch(rows, schema, columns) for rows in _groups(map(orjson.loads, file), _AT_ONCE))
        for group in _groups(batches, ROWS // _AT_ONCE):
            writer.write_table(pa.Table.from_batches(group))


def _groups(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
    things = iter(things)
    while group := list(islice(things, size)):
        yield group


def _batch(rows: list[Any], schema: Any, columns: list[tuple[str, str, str]]) -> Any:
    arrays = [_array([row.get(name) for row in rows], kind) for name, kind, _ in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: list[Any], kind: str) -> Any:
    if kind in _AS:
        values = [None if value is None else _AS[kind](value) for value in values]
    return pa.array(values, type=_TYPES[kind])


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), orjson.loads(Path(sys.argv[3]).read_bytes()))
