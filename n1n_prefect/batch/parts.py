"""The results of a batch, chunk by chunk in its bucket, until the end.

A part holds the results of one chunk as JSON Lines, whole: with where the staged originals are, so that a contact
sheet can be drawn from it. Its first line says of which chunk and how many they are, so that a torn one is noticed.
"""

from collections.abc import Callable, Iterable, Iterator

import orjson
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from n1n_prefect.batch.items import Item
from n1n_prefect.batch.results import ItemResult, writable
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.run_log import get_logger

SCHEMA = 1
JSON_LINES = "application/x-ndjson"
"""The media type of JSON Lines."""

_RESULT: TypeAdapter[ItemResult] = TypeAdapter(ItemResult)


def part_name(number: int) -> str:
    """The name of a chunk's part in the batch's folder."""
    return f"_batch/parts/{number:05}.jsonl"


def write_part(store: BatchStore, number: int, results: Iterable[ItemResult]) -> None:
    """Keeps the results of a chunk, in the place of earlier ones.

    Args:
        store: The batch's folder.
        number: The chunk's number, from 0.
        results: One for each item.

    Raises:
        UploadError: The store refused or could not be reached.
    """
    lines = [_line(result) for result in results]
    head = orjson.dumps({"schema": SCHEMA, "chunk": number, "results": len(lines)})
    store.write(part_name(number), b"\n".join([head, *lines, b""]), JSON_LINES)


def _line(result: ItemResult) -> bytes:
    try:
        return _RESULT.dump_json(result)
    except PydanticSerializationError:
        return orjson.dumps(writable(_RESULT.dump_python(result)))


def read_part(store: BatchStore, number: int) -> list[ItemResult] | None:
    """The results of a chunk, or None for one that has none.

    A part that is torn, or not one of ours, counts as none and is warned of: the journal makes the chunk
    free to do again.

    Raises:
        UploadError: It cannot be read; absence is not an error.
    """
    data = store.read(part_name(number))
    if data is None:
        return None
    try:
        return _parsed(data, number)
    except ValueError as exc:
        get_logger().warning(
            "%s is no whole part of this batch (%s). Its items are taken for not carried out; doing them again "
            "pays only for what is missing.",
            store.uri_of(part_name(number)), type(exc).__name__,
        )  # fmt: skip
        return None


def _parsed(data: bytes, number: int) -> list[ItemResult]:
    head, *lines = data.removesuffix(b"\n").split(b"\n")
    expected = {"schema": SCHEMA, "chunk": number, "results": len(lines)}
    if orjson.loads(head) != expected:
        raise ValueError(f"its first line is not {expected}")
    return [_RESULT.validate_json(line) for line in lines]


def all_results(store: BatchStore, chunks: int, *, items_of: Callable[[int], Iterable[Item]]) -> Iterator[ItemResult]:
    """The result of every item of the plan, once, in the plan's order; one chunk at a time is in memory.

    Args:
        store: The batch's folder.
        chunks: How many chunks the plan has.
        items_of: The items of a chunk, by its number. Those that its part has no result of are pending.

    Raises:
        UploadError: A part cannot be read.
    """
    for number in range(chunks):
        found = {result.id: result for result in read_part(store, number) or ()}
        for item in items_of(number):
            yield found.pop(item.id, None) or ItemResult.pending(item)
        if found:
            get_logger().warning(
                "%s has %d results of items that are not in the plan's chunk, such as %r; they are left out.",
                store.uri_of(part_name(number)), len(found), next(iter(found)),
            )  # fmt: skip
