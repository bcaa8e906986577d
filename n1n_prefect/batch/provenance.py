"""How an image came about, as a document beside it: on request, for each image of a batch.

The sidecar of `images/fox.png` is `images/fox.png.json`, an object of JSON:

- `schema`: 1.
- `batch`, `id`, `line`, `take`: which row of which batch asked for it, and how often one was drawn and given up.
- `image`: `bucket`, `key`, `uri`, `version_id`, `etag`, `sha256`, `media_type`, `width`, `height`, `size_bytes`.
- `request`: the whole `prompt`, its `prompt_sha256`, the `model`, `parameters` (those that were set, named as in
  `ImageRequest`) and `sources`, the inputs in order: `label`, `address`, and of files and `data:` the `sha256`.
- `answer`: `model_version`, `finish_reason`, `text`, `request_key`, `request_id`, `response_id`, `usage` in tokens.
- `cost`: `estimated_cost_usd`, `attempts`, `possible_duplicates`, `reused`.
- `marks`: marks of provenance in the bytes, such as `C2PA`; null where the bytes were not looked at.
- `variants`: the objects derived from it, as in the table of results.
- `times`: `finished_at` in UTC, `seconds`, `waited_seconds`.
- `original_uri`: where the original is staged.
- `versions`: of Python, Prefect and n1n_prefect.

What is not known is null. Addresses of inputs have no query, which could hold a signature.
"""

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

import orjson

from n1n_prefect.batch.items import Item
from n1n_prefect.batch.results import ANSWER_COLUMNS, USAGE_COLUMNS, ItemResult, dumped, row_of
from n1n_prefect.batch.statistics import versions
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, ImageSource
from n1n_prefect.inspection import NotAnImageError, inspect
from n1n_prefect.object_keys import MAX_KEY_BYTES, check_key
from n1n_prefect.sources import _address_of, _label_of, hash_of

SCHEMA = 1
_ENDING = ".json"
_DEFAULTS = {
    name: field.default
    for name, field in ImageRequest.__dataclass_fields__.items()
    if name not in ("prompt", "images", "model")
}
_OF_IMAGE = ("uri", "version_id", "etag", "sha256", "media_type", "width", "height", "size_bytes")
_OF_COST = ("estimated_cost_usd", "attempts", "possible_duplicates", "reused")
_OF_TIMES = ("finished_at", "seconds", "waited_seconds")


def sidecar_key(key: str) -> str:
    """The key of an image's sidecar, beside the image.

    Raises:
        InvalidRequestError: The key is not usable, or leaves no room for the ending.
    """
    if len(check_key(key).encode()) + len(_ENDING) > MAX_KEY_BYTES:
        raise InvalidRequestError(
            f"key={key[:60]!r}… leaves no room for the sidecar's {_ENDING!r}; shorten it to "
            f"{MAX_KEY_BYTES - len(_ENDING):,} bytes, or ask for no sidecars."
        )
    return key + _ENDING


def sidecar(item: Item, result: ItemResult, *, batch: str, data: bytes | None = None) -> bytes:
    """The sidecar of an image that is in S3: the same bytes for the same arguments.

    Args:
        item: What was asked.
        result: What came of it.
        batch: The batch's id.
        data: The image's bytes, to look for marks in.

    Raises:
        InvalidRequestError: The item has no image in S3.
    """
    uploaded = result.outcome.uploaded
    if uploaded is None:
        raise InvalidRequestError(f"item {item.id!r} has no image in S3 ({result.outcome.status}), so no sidecar.")
    row = row_of(result, carried=())
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "batch": batch,
        **_picked(row, ("id", "line", "take")),
        "image": {"bucket": uploaded.bucket, "key": uploaded.key, **_picked(row, _OF_IMAGE)},
        "request": _request(item.request, result),
        "answer": {**_picked(row, ANSWER_COLUMNS), "usage": _picked(row, USAGE_COLUMNS)},
        "cost": _picked(row, _OF_COST),
        "marks": None if data is None else _marks(data),
        "variants": row["variants"],
        "times": _picked(row, _OF_TIMES),
        "original_uri": row["original_uri"],
        "versions": versions(),
    }
    return orjson.dumps(orjson.loads(dumped(document)), option=orjson.OPT_INDENT_2)


def _picked(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _request(request: ImageRequest, result: ItemResult) -> dict[str, Any]:
    made_of = result.outcome.image.inputs if result.outcome.image else ()
    return {
        "prompt": request.prompt,
        "prompt_sha256": result.prompt_sha256,
        "model": request.model,
        "parameters": {
            name: value for name, default in _DEFAULTS.items() if (value := getattr(request, name)) != default
        },
        "sources": [
            _named(source, seen) for source, seen in zip_longest(request.images, made_of[: len(request.images)])
        ],
    }


def _named(source: ImageSource, seen: str | None) -> dict[str, Any]:
    """What is known of an input.

    Args:
        source: As the row names it.
        seen: As it was when it was read, by `GeneratedImage.inputs`.
    """
    by_hash = seen.removeprefix("sha256:") if seen and seen.startswith("sha256:") else None
    return {
        "label": _label_of(source) or None,
        "address": _address_of(source) or None,
        "sha256": hash_of(source) or by_hash,
    }


def _marks(data: bytes) -> list[str] | None:
    """Marks of provenance in the bytes; None for what is no image, such as another object that was kept there."""
    try:
        return list(inspect(data, structure=False, blank=False).provenance)
    except NotAnImageError:
        return None
