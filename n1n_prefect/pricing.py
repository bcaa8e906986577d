"""What an image costs: list prices with their date, and how a gateway group changes them."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from n1n_prefect import catalog
from n1n_prefect.images import ImageRequest, InvalidRequestMeta, Usage


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price(metaclass=InvalidRequestMeta):
    """US dollars per million tokens, by kind of token."""

    input: Annotated[float, Field(ge=0)] = 0.0
    """Prompt tokens, words and input images alike."""

    text: Annotated[float, Field(ge=0)] = 0.0
    """Words and thoughts that the model writes, hidden ones included."""

    image: Annotated[float, Field(ge=0)] = 0.0
    """Image tokens that the model draws."""

    per_image: Annotated[float | None, Field(ge=0)] = None
    """A flat price in dollars for one image, where a gateway bills by the call; the token prices are then unused."""


# Google's list prices, read 2026-07 to 2026-10. The text price of 2.5-flash-image is its
# sibling 2.5-flash's, since the image page gives none.
LIST_PRICES = {
    "gemini-2.5-flash-image": Price(0.30, 2.50, 30.0),
    "gemini-3-pro-image": Price(2.00, 12.0, 120.0),
    "gemini-3.1-flash-image": Price(0.50, 3.00, 60.0),
    "gemini-3.1-flash-lite-image": Price(0.25, 1.50, 30.0),
    "gemini-nano-banana-2.1": Price(1.50, 7.50, 30.0),
}


def price_of(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """The user's own price for a model if there is one, else the list price, else None."""
    if own and model in own:
        return own[model]
    known = catalog.find(model)
    return LIST_PRICES.get(known.id) if known else None


def cost_usd(
    model: str,
    usage: Usage,
    *,
    factor: float = 1.0,
    own: Mapping[str, Price] | None = None,
    image_size: str | None = None,
) -> float | None:
    """Estimated US dollars for one answer, or None for a model without a price.

    Output tokens that no modality explains are priced as text, as Google bills them.
    Where the gateway reported no usage, the catalogue's tokens for one image stand in.
    """
    price = price_of(model, own)
    if price is None:
        return None
    if price.per_image is not None:
        return round(price.per_image * factor, 6)
    image_tokens = usage.output_image_tokens or _usual_image_tokens(model, image_size)
    text_tokens = usage.output_text_tokens + usage.thinking_tokens
    prompt_tokens = usage.prompt_tokens
    dollars = prompt_tokens * price.input + text_tokens * price.text + image_tokens * price.image
    return round(dollars * factor / 1e6, 6)


_TOKENS_PER_INPUT_IMAGE = 1120  # Vertex model cards for 3.x; 2.5 is not pinned down
_CHARACTERS_PER_TOKEN = 4


def estimate_usd(request: ImageRequest, *, factor: float = 1.0, own: Mapping[str, Price] | None = None) -> float | None:
    """Estimated US dollars of a request before it is made, or None for a model without a price.

    Thoughts cannot be known beforehand and are not counted.
    """
    usage = Usage(
        input_text_tokens=len(request.prompt) // _CHARACTERS_PER_TOKEN,
        input_image_tokens=len(request.images) * _TOKENS_PER_INPUT_IMAGE,
    )
    return cost_usd(request.model, usage, factor=factor, own=own, image_size=request.image_size)


def _usual_image_tokens(model: str, image_size: str | None) -> int:
    known = catalog.find(model)
    if not known or not known.image_tokens:
        return 0
    sizes = known.image_sizes
    size = image_size or "1K"
    return known.image_tokens[sizes.index(size) if size in sizes else 0]
