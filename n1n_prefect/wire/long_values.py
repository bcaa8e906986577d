"""JSON documents whose long base64 is not parsed with the rest.

A reply is megabytes of base64 in two kilobytes of JSON. Parsed as strings, the base64 of an
image would be copied twice before it is decoded, and a thought signature for nothing.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

_LONG = 65_536  # bytes; a shorter value is parsed with its document
_KEY = re.compile(rb'"(?:(data|b64_json)|thoughtSignature|thought_signature)"\s*:\s*"\Z')
_KEY_BYTES = 64  # room for the longest of these keys and some white space


def parse(body: bytes, start: int, end: int, long_values: dict[str, memoryview]) -> Any:
    """The document, with a name in place of each long base64 value; long thought signatures are left empty.

    Args:
        body: The JSON, and what stands around it.
        start: Where the JSON begins.
        end: Where it ends.
        long_values: Is given the values by name, as they stand in the JSON.

    Raises:
        orjson.JSONDecodeError: The bytes are no JSON.
    """
    pieces = list(_pieces(body, start, end, long_values))
    if len(pieces) > 1:
        with suppress(orjson.JSONDecodeError):  # raised below, with its place in the whole document
            return orjson.loads(b"".join(pieces))
    return orjson.loads(memoryview(body)[start:end])


def _pieces(body: bytes, start: int, end: int, long_values: dict[str, memoryview]) -> Iterator[bytes | memoryview]:
    view = memoryview(body)
    for first, last in _between_distant_quotes(body, start, end):
        key = _KEY.search(body, max(first - _KEY_BYTES, start), first)
        # Not a whole string if the quote behind it is escaped, and not base64 if it is a data URI.
        if key is None or body.endswith(b"\\", first, last) or body.startswith(b"data:", first):
            continue
        yield view[start:first]
        if key[1]:
            name = f"long value {len(long_values)}"
            long_values[name] = view[first:last]
            yield name.encode()
        start = last
    yield view[start:end]


def _between_distant_quotes(body: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where at least `_LONG` bytes stand between two quotes."""
    quote = body.find(b'"', start, end)
    while quote >= 0:
        near = body.rfind(b'"', quote + 1, min(quote + 1 + _LONG, end))
        far = body.find(b'"', quote + 1 + _LONG, end) if near < 0 else -1
        if far >= 0:
            yield quote + 1, far
        quote = max(near, far)
