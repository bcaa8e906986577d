"""The rows of a Parquet manifest, read a thousand at a time."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from n1n_prefect.batch.text_rows import RawRow, Rows
from n1n_prefect.errors import InvalidRequestError

_ROWS_AT_ONCE = 1000

_TEXT = r"(large_)?string(_view)?|dictionary<values=(large_)?string,.*>|null"
_WHOLE = r"u?int\d+"
_NUMBER = rf"{_WHOLE}|float|double|halffloat"
_AS_TEXT = r"date\d+\[.*\]|timestamp\[.*\]|time\d+\[.*\]|decimal\d+\(.*\)"
_LIST = r"(large_|fixed_size_)?list(_view)?<[^<]*: ((large_)?string|null)[^<]*>(\[\d+\])?"

# What Arrow may call the type of a column, and what that is in words. Texts are read as in comma-separated values.
_TYPES = {
    "id": (rf"{_TEXT}|{_WHOLE}", "texts or whole numbers"),
    "images": (rf"{_TEXT}|{_LIST}", "texts or lists of texts"),
    "image": (rf"{_TEXT}|{_LIST}", "texts or lists of texts"),
    "variants": (rf"{_TEXT}|{_LIST}", "texts or lists of texts"),
    "temperature": (rf"{_TEXT}|{_NUMBER}", "numbers"),
    "seed": (rf"{_TEXT}|{_NUMBER}", "whole numbers"),
    "sample": (rf"{_TEXT}|{_NUMBER}", "whole numbers"),
    "google_search": (rf"{_TEXT}|bool", "booleans"),
    "stream": (rf"{_TEXT}|bool", "booleans"),
    **dict.fromkeys(("safety_settings", "extra_body"), (_TEXT, "texts of JSON")),
    **dict.fromkeys(
        ("prompt", "model", "aspect_ratio", "image_size", "thinking_level", "system_instruction", "key"),
        (_TEXT, "texts"),
    ),
}
_CARRIED = (rf"{_TEXT}|{_NUMBER}|bool|{_AS_TEXT}", "texts, numbers, booleans or dates, since it is carried through")


def parquet_rows(file: BinaryIO, name: str) -> tuple[tuple[str, ...], Rows]:
    """The columns of a Parquet file, and its rows; dates, times and decimals come as texts.

    Raises:
        InvalidRequestError: pyarrow is missing; it is no whole Parquet file; or a column is of a type that it
            cannot have, which is found before any row is read.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InvalidRequestError(
            f"{name} is Parquet, and pyarrow, which reads it, is not installed; pip install 'n1n-prefect[parquet]', or "
            "give the manifest as .csv or .jsonl."
        ) from None
    try:
        table: Any = pq.ParquetFile(file, pre_buffer=False)
    except (pa.ArrowException, OSError) as exc:
        raise InvalidRequestError(f"{name} is no whole Parquet file ({exc!s:.200}); write it again.") from None
    for column in table.schema_arrow:
        _check_type(name, column.name, str(column.type))
    return tuple(table.schema_arrow.names), _rows(table, name)


def _check_type(file: str, column: str, kind: str) -> None:
    accepted, words = _TYPES.get(column, _CARRIED)
    if not re.fullmatch(accepted, kind):
        raise InvalidRequestError(
            f"{file}: column {column!r:.80} is of type {kind:.80}, and must hold {words}; convert it, or leave it out."
        )


def _rows(table: Any, name: str) -> Iterator[RawRow]:
    import pyarrow as pa

    line = 0
    try:
        for batch in table.iter_batches(_ROWS_AT_ONCE):
            for values in _with_texts(batch).to_pylist():
                line += 1
                yield RawRow(line, values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{name} is damaged after row {line} ({exc!s:.200}); write it again.") from None


def _with_texts(batch: Any) -> Any:
    import pyarrow as pa

    columns = [
        column.cast(pa.string()) if re.fullmatch(_AS_TEXT, str(column.type)) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
