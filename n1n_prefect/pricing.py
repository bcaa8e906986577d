"""What images cost: list prices with their date, how a gateway group changes them, and estimates before a call."""

import dataclasses
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from n1n_prefect import catalog
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.identity import request_key
from n1n_prefect.images import ImageRequest, InvalidRequestMeta, Spending, Usage, as_request
from n1n_prefect.sources import LoadedRequest, as_sources, hash_of
from n1n_prefect.wire import gemini

_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price(metaclass=InvalidRequestMeta):
    """US dollars per million tokens, by kind of token."""

    input: _Usd = 0.0
    """Prompt tokens, words and input images alike."""

    text: _Usd = 0.0
    """Words and thoughts that the model writes, hidden ones included."""

    image: _Usd = 0.0
    """Image tokens that the model draws."""

    per_image: _Usd | None = None
    """A flat price in dollars for one image, where a gateway bills by the call; the token prices are then unused."""


LIST_PRICES_READ = "2026-07 to 2026-10"
"""When Google's list prices were read."""

# The text price of 2.5-flash-image is its sibling 2.5-flash's, since the image page gives none.
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
_TOKENS_PER_UNKNOWN_IMAGE = 1290  # as of 2.5-flash, the most that a model of the catalogue needs at 1K
_CHARACTERS_PER_TOKEN = 4


def estimate_usd(request: ImageRequest, *, factor: float = 1.0, own: Mapping[str, Price] | None = None) -> float | None:
    """Estimated US dollars of a request before it is made, or None for a model without a price.

    Thoughts cannot be known beforehand and are not counted. An image of a model that the
    catalogue does not know is taken for one of the usual size.
    """
    usage = Usage(
        input_text_tokens=len(request.prompt) // _CHARACTERS_PER_TOKEN,
        input_image_tokens=len(request.images) * _TOKENS_PER_INPUT_IMAGE,
        output_image_tokens=_usual_image_tokens(request.model, request.image_size) or _TOKENS_PER_UNKNOWN_IMAGE,
    )
    return cost_usd(request.model, usage, factor=factor, own=own, image_size=request.image_size)


def _usual_image_tokens(model: str, image_size: str | None) -> int:
    known = catalog.find(model)
    if not known or not known.image_tokens:
        return 0
    sizes = known.image_sizes
    size = image_size or "1K"
    return known.image_tokens[sizes.index(size) if size in sizes else 0]


# ── before anything is spent ─────────────────────────────────────────────────


class Charges(Protocol):
    """What a gateway group charges, as an `N1nCredentials` block says it."""

    @property
    def price_factor(self) -> float:
        """A multiple of list prices."""
        ...

    @property
    def prices(self) -> Mapping[str, Price]:
        """The user's own prices by model."""
        ...


@dataclass(frozen=True)
class CostEstimate:
    """What requests will cost, as far as it can be known beforehand.

    Thoughts, which are billed as text, and web searches are not in it, nor images that a
    task draws again because they broke a rule.
    """

    images: int = 0
    """Images that will be paid for, those without a known price among them."""

    usd: float = 0.0
    """US dollars for the images whose model has a price."""

    most_usd: float = 0.0
    """US dollars if every call had to be made as often as `Spending` allows."""

    repeated: int = 0
    """Requests that are equal to an earlier one; within a run they share its image and cost nothing."""

    unpriced: tuple[str, ...] = ()
    """Models without a price, whose images are not in the dollars."""

    by_model: dict[str, "CostEstimate"] = dataclasses.field(default_factory=dict[str, "CostEstimate"])
    """The same for each model, in the order of the requests; empty within."""


def estimate_cost(
    requests: Iterable[str | ImageRequest] | str | ImageRequest,
    *,
    credentials: Charges | None = None,
    spending: Spending | None = None,
    **options: Any,
) -> CostEstimate:
    """What requests will cost, without making a call; nothing is read and no key is needed.

    ```python
    estimate = estimate_cost(prompts, model="gemini-3-pro-image", image_size="2K", credentials=credentials)
    print(f"{estimate.images} images, ${estimate.usd:.2f}")
    ```

    Args:
        requests: Texts and whole `ImageRequest`s, or one of them.
        credentials: The n1n Credentials block, for its `price_factor` and `prices`; list prices hold if not given.
        spending: How often a call may be paid for again; `Spending()` if not given.
        options: Fields of `ImageRequest` for the texts, such as `model` and `images`.

    Raises:
        InvalidRequestError: A request is one that its model does not take; the message says which.
    """
    factor, own = _charges(credentials)
    seen: set[str] = set()
    rows: dict[str, list[float | None]] = {}
    repeats: dict[str, int] = {}
    for request in _numbered(requests, options):
        identity = _identity(request)
        if identity in seen:
            repeats[request.model] = repeats.get(request.model, 0) + 1
            continue
        seen.add(identity)
        rows.setdefault(request.model, []).append(estimate_usd(request, factor=factor, own=own))
    calls = _most_calls(spending or Spending())
    return _total({model: _of_model(model, usd, calls, repeats.get(model, 0)) for model, usd in rows.items()})


def checked_request(item: object, **options: Any) -> ImageRequest:
    """The request that a text makes with these options, or the one that is given, if its model takes it.

    Raises:
        InvalidRequestError: It does not, or there is no such option.
    """
    if isinstance(item, ImageRequest):
        request = item
    else:
        request = as_request(item, as_sources(options.get("images", ())), **_without(options, "images"))
    gemini.check(LoadedRequest(request))
    if catalog.find(request.model) and len(request.images) > catalog.MAX_INPUT_IMAGES:
        raise InvalidRequestError(
            f"{len(request.images)} input images; {request.model!r} takes at most {catalog.MAX_INPUT_IMAGES}."
        )
    return request


def _without(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def _numbered(requests: object, options: Mapping[str, Any]) -> Iterable[ImageRequest]:
    """The requests, one by one; an error says which of several it is about."""
    if isinstance(requests, str | ImageRequest):
        yield checked_request(requests, **options)
        return
    if not isinstance(requests, Iterable):
        raise InvalidRequestError(f"requests must be texts or ImageRequests, not {type(requests).__name__}.")
    for number, item in enumerate(requests, 1):
        with saying(f"Request {number}"):
            request = checked_request(item, **options)
        yield request


@contextmanager
def saying(which: str) -> Generator[None]:
    """Says before the words of an `InvalidRequestError` what it is about."""
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{which}: {error.message}") from None


def _charges(credentials: Any) -> tuple[float, Mapping[str, Price]]:
    if credentials is None:
        return 1.0, {}
    try:
        return credentials.price_factor, credentials.prices
    except AttributeError:
        raise InvalidRequestError(
            f"credentials must be an N1nCredentials block, not {type(credentials).__name__}; give "
            "credentials=N1nCredentials.load('NAME')."
        ) from None


def _identity(request: ImageRequest) -> str:
    """What makes two requests of one run the same, as far as it can be known without reading an input."""
    named = [hash_of(source) or f"{type(source).__name__} {source}" for source in request.images]
    return request_key(request, named, base_url="https://estimate", account="", scope="")


def _most_calls(spending: Spending) -> int:
    """How often one image may be paid for; see `PaidCall`."""
    unknown = spending.unknown_retries if spending.on_unknown_outcome == "retry" else 0
    return 1 + spending.no_image_retries + unknown


def _of_model(model: str, usd: list[float | None], calls: int, repeated: int) -> CostEstimate:
    known = sum(each for each in usd if each is not None)
    unpriced = (model,) if None in usd else ()
    return CostEstimate(len(usd), round(known, 6), round(known * calls, 6), repeated, unpriced)


def _total(by_model: dict[str, CostEstimate]) -> CostEstimate:
    return dataclasses.replace(total_of(by_model.values()), by_model=by_model)


def total_of(estimates: Collection[CostEstimate]) -> CostEstimate:
    """What estimates come to together, without telling models apart."""
    return CostEstimate(
        sum(each.images for each in estimates),
        round(sum(each.usd for each in estimates), 6),
        round(sum(each.most_usd for each in estimates), 6),
        sum(each.repeated for each in estimates),
        tuple(dict.fromkeys(name for each in estimates for name in each.unpriced)),
    )
