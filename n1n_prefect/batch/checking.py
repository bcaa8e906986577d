"""A row of a manifest as the item it asks for, or what is wrong with it."""

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from n1n_prefect.batch.cells import (
    MAX_ID_CHARACTERS,
    carried_in,
    checked_id,
    is_empty,
    names_in,
    request_fields,
    text_in,
)
from n1n_prefect.batch.columns import check_header, wrong_names
from n1n_prefect.batch.items import BadRow, Item
from n1n_prefect.batch.provenance import sidecar_key
from n1n_prefect.batch.seen import Seen
from n1n_prefect.batch.text_rows import RawRow
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, words_of
from n1n_prefect.identity import request_key
from n1n_prefect.images import ANY_IMAGE, GeneratedImage, ImageRequest, excerpt
from n1n_prefect.pricing import checked_request
from n1n_prefect.sources import as_sources, hash_of
from n1n_prefect.variants import Variant, derived_key

NO_VARIANTS = "none"
"""The word for none of the batch's variants in a column `variants`."""

_OWN_DOCUMENTS = frozenset(("_batch", "bad_rows.jsonl", "results.jsonl", "results.parquet", "_stats.json"))


class RowChecker:
    """Makes rows into items, in the manifest's order; knows what rows before had.

    A row without a column `id` gets one made from what it asks for, `-2` and so on behind it where rows ask the same.
    Such an id stays what it is when rows are put in or taken out before it, and changes with the request and with the
    batch's defaults. Results are told apart by ids; what was paid for is known by the request alone.

    Args:
        destination: Where images go, for their keys.
        folder: The folder of the batch's own documents in that bucket, where no image may take their places.
        seen: Remembers ids and keys.
        defaults: Fields of `ImageRequest` that hold where a row says nothing.
        variants: The batch's variants; a row that names none gets all.
        sidecars: Whether each image has a sidecar.
        reserved: Names of the results table's own columns.

    Raises:
        InvalidRequestError: The defaults are no fields of `ImageRequest`.
    """

    def __init__(
        self,
        *,
        destination: S3Location,
        folder: str,
        seen: Seen,
        defaults: Mapping[str, Any] | None = None,
        variants: Sequence[Variant] = (),
        sidecars: bool = False,
        reserved: Collection[str] = (),
    ) -> None:
        self._defaults = checked_defaults(defaults or {})
        self._variants = {variant.name: variant for variant in variants}
        self._sidecars = sidecars
        self._reserved = frozenset(name.lower() for name in reserved)
        self._seen = seen
        self._keys = _Keys(destination, folder, seen)

    def check_header(self, names: tuple[str, ...]) -> None:
        """Refuses the columns of a whole table that cannot be meant.

        Raises:
            InvalidRequestError: Says which, and what to do.
        """
        check_header(names, reserved=self._reserved, defaults=self._defaults)

    def check(self, row: RawRow) -> Item | BadRow:
        """The item that a row asks for, or why there is none."""
        try:
            return self._item(row)
        except InvalidRequestError as error:
            name = row.values.get("id")
            known = excerpt(str(name), MAX_ID_CHARACTERS) if isinstance(name, str | int) else ""
            return BadRow(row.line, known, words_of(error))

    def _item(self, row: RawRow) -> Item:
        wrong = wrong_names(tuple(row.values), self._reserved)
        if wrong:
            raise InvalidRequestError(f"{wrong}.")
        identity = self._id(row) if "id" in row.values else ""
        given = {name: value for name, value in row.values.items() if not is_empty(value)}
        request = self._request(given)
        key = text_in("key", given["key"]) if "key" in given else None
        if not identity:
            identity = self._made_id(request)
            self._claim_id(identity, row.line)
        names = self._variants_in(given)
        variants = [self._variants[name] for name in names]
        self._keys.claim(row.line, identity, key, request.model, variants, has_sidecar=self._sidecars)
        beside = _beside(variants, has_sidecar=self._sidecars)
        return Item(identity, row.line, request, key, names, carried_in(row.values), beside=beside)

    def _id(self, row: RawRow) -> str:
        identity = checked_id(row.values["id"])
        self._claim_id(identity, row.line)
        return identity

    def _claim_id(self, identity: str, line: int) -> None:
        first = self._seen.first("id", identity, line)
        if first is not None:
            raise InvalidRequestError(f"id={identity!r} is also that of line {first}; give every row its own.")

    def _made_id(self, request: ImageRequest) -> str:
        name = identity_of(request)[:16]
        times = self._seen.count("made", name)
        return name if times == 1 else f"{name}-{times}"

    def _request(self, given: Mapping[str, Any]) -> ImageRequest:
        options = {**self._defaults, **request_fields(given)}
        if "prompt" not in options:
            raise InvalidRequestError("prompt is empty; say what to draw.")
        return checked_request(options.pop("prompt"), **options)

    def _variants_in(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        if "variants" not in given:
            return tuple(self._variants)
        names = names_in(given["variants"])
        if names == (NO_VARIANTS,) and NO_VARIANTS not in self._variants:
            return ()
        for name in names:
            if name not in self._variants:
                near = difflib.get_close_matches(name, self._variants, 1)
                there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._variants) or 'none'}."
                raise InvalidRequestError(f"variants: the batch has no variant {name!r:.80}; {there}")
        return names


def _beside(variants: Sequence[Variant], *, has_sidecar: bool) -> str:
    """A digest of what is made beside an image, so that it is made anew once that is another."""
    made = [*map(str, variants), *(["sidecar"] if has_sidecar else [])]
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:8] if made else ""


def checked_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a batch, those that say nothing left out.

    Raises:
        InvalidRequestError: One is no field of `ImageRequest`, or of another type.
    """
    given = {name: value for name, value in defaults.items() if value is not None}
    if "images" in given:
        given["images"] = as_sources(given["images"])
    # What a model takes is seen row by row, since a row may name another.
    ImageRequest(**{"prompt": "", **given})
    return given


def identity_of(request: ImageRequest) -> str:
    """What makes two requests of one batch the same, as far as it can be known without reading an input; hex.

    Raises:
        InvalidRequestError: It holds something that JSON does not have.
    """
    named = [hash_of(source) or f"address {source}" for source in request.images]
    return request_key(request, named, base_url="https://batch", account="", scope="")


# ── keys ─────────────────────────────────────────────────────────────────────


class _Keys:
    """The keys that images will have, as far as they can be known, each of one row.

    An image's file extension is known only once it is there, so a key from the template is compared without it.
    """

    def __init__(self, destination: S3Location, folder: str, seen: Seen) -> None:
        self._destination = destination
        self._folder = f"{folder}/"
        self._seen = seen
        template = destination.key_template
        self._has_name = "{name}" in template
        self._has_extension = "{extension}" in template
        self._is_made_of_bytes = "{sha256}" in template or "{request_key}" in template

    def claim(
        self, line: int, identity: str, key: str | None, model: str, variants: Sequence[Variant], *, has_sidecar: bool
    ) -> None:
        """Remembers a row's key, and those of what lies beside its image.

        Raises:
            InvalidRequestError: It is no usable key, another row's, or one of the batch's own documents.
        """
        name = identity if self._has_name and key is None else None
        made = self._destination.key_for(_image_of(model), name=name, key=key)
        if made.startswith(self._folder) and made[len(self._folder) :].split("/")[0] in _OWN_DOCUMENTS:
            raise InvalidRequestError(f"key={made!r} is kept for the batch's own documents; choose another.")
        first = self._of_template(made, line) if key is None else self._of_row(made, line)
        if first is not None:
            raise InvalidRequestError(f"key={made!r} is also that of line {first}; give every image its own.")
        if has_sidecar:
            sidecar_key(made)  # raises where it has no room
        for variant in variants if key is not None or not self._is_made_of_bytes else ():
            derived = derived_key(made, variant)
            first = self._seen.first("beside", derived, line)
            if first is not None:
                raise InvalidRequestError(
                    f"Its variant {variant.name!r} would have the key {derived!r}, and so has that of line {first}; "
                    "give every image a key that differs in more than its extension."
                )

    def _of_template(self, key: str, line: int) -> int | None:
        if self._is_made_of_bytes:
            return None
        stem = self._stem(key)
        return self._seen.first("made key", stem, line) or self._seen.find("like key", stem)

    def _of_row(self, key: str, line: int) -> int | None:
        stem = self._stem(key)
        first = self._seen.first("key", key, line) or self._seen.find("made key", stem)
        self._seen.first("like key", stem, line)
        return first

    def _stem(self, key: str) -> str:
        return re.sub(r"\.(png|jpe?g|webp|bin)\Z", "", key) if self._has_extension else key


@lru_cache(maxsize=256)
def _image_of(model: str) -> GeneratedImage:
    return dataclasses.replace(ANY_IMAGE, model=model)
