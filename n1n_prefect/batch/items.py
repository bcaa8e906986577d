"""One row of a manifest, as what is to be made of it."""

from dataclasses import field
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from n1n_prefect.images import ImageRequest


@dataclass(frozen=True)
class Item:
    """A row that was found to be right: what is asked, and where its image goes."""

    id: str
    """The row's own name, unlike every other's in the batch."""

    line: int
    """Where it stands in the manifest: the line of a text, from 1 with the header counted, or the row of a Parquet."""

    request: ImageRequest
    """What is asked; input images are addresses."""

    key: str | None = None
    """The image's whole key below the bucket; the location's template makes one, with the id as name, if not given."""

    variants: tuple[str, ...] = ()
    """Names of the batch's variants that are derived from the image."""

    carried: dict[str, Any] = field(default_factory=dict[str, Any])
    """The row's other columns, for the results: texts, numbers, booleans and None."""

    take: int = 0
    """How often an image for it was drawn and given up before; another number draws and pays anew."""

    looks_again: bool = False
    """Whether the last of those is checked once more first, since the rules may have changed."""

    given_up_usd: float = 0.0
    """What those cost in US dollars, but for the one that is checked once more."""

    beside: str = ""
    """A digest of how its variants are made, and of whether it has a sidecar; empty if it has neither."""

    unknown_retries: int | None = None
    """How often calls for it whose answer is lost may be made again; None for as often as the batch's others."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be carried out, and why."""

    line: int
    """Where it stands in the manifest."""

    id: str
    """Its own name, as far as it has one."""

    reason: str
    """What is wrong with it and what to do, in words."""


ITEM: TypeAdapter[Item] = TypeAdapter(Item)
"""Items as JSON and back."""
