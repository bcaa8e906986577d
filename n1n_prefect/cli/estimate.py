"""`n1n-prefect estimate`: what images will cost, before any is paid for."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n1n_prefect import catalog
from n1n_prefect.cli import arguments
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import DEFAULT_MODEL, ImageRequest, Spending
from n1n_prefect.pricing import LIST_PRICES_READ, CostEstimate, checked_request, estimate_cost, saying
from n1n_prefect.settings import settings

if TYPE_CHECKING:
    from n1n_prefect.blocks import N1nCredentials

NAME = "estimate"
HELP = "Say what images will cost, without a call and without a key."

_NAMES_OF_ITEMS = ("id", "name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; each is an image")
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="a .txt with a prompt on each line; a .jsonl with a text, or an object of ImageRequest's fields, on each; "
        "or - for either on stdin",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="for all that name none (default: %(default)s)")
    parser.add_argument("--aspect-ratio", metavar="RATIO", help="such as 16:9")
    parser.add_argument("--image-size", metavar="SIZE", help="512, 1K, 2K or 4K, for models that have sizes")
    parser.add_argument(
        "--images", type=_input_images, default=0, metavar="N", help="how many input images each prompt edits"
    )
    parser.add_argument(
        "--credentials", metavar="BLOCK", help="an n1n Credentials block, for its price_factor and prices"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a line for each model, the total, and what it rests on."""
    if not args.prompts and args.file is None:
        print("n1n-prefect estimate: give a PROMPT, or --file FILE", file=sys.stderr)
        return 2
    options = {
        "model": args.model,
        "aspect_ratio": args.aspect_ratio,
        "image_size": args.image_size,
        "images": tuple(f"input-{number}.png" for number in range(args.images)),  # counted, never read
    }
    requests = [*_given(args.prompts, options), *(_in_file(args.file, options) if args.file is not None else ())]
    credentials = _credentials(args.credentials) if args.credentials is not None else None
    spending = settings().spending
    _show(estimate_cost(requests, credentials=credentials, spending=spending), spending, credentials)
    return 0


def _input_images(text: str) -> int:
    return arguments.whole_number(text, catalog.MAX_INPUT_IMAGES, "number of input images")


# ── what is asked ────────────────────────────────────────────────────────────


def _credentials(block: str) -> "N1nCredentials":
    from n1n_prefect.blocks import N1nCredentials
    from n1n_prefect.cli.loading import loaded

    return loaded(N1nCredentials, block)


def _given(prompts: list[str], options: dict[str, Any]) -> Iterator[ImageRequest]:
    for number, prompt in enumerate(prompts, 1):
        with saying(f"Prompt {number}"):
            request = checked_request(prompt, **options)
        yield request


def _in_file(file: str, options: dict[str, Any]) -> list[ImageRequest]:
    """The requests of a file, an image for each line that is not empty."""
    kind = Path(file).suffix.lower()
    if file != "-" and kind not in ("", ".txt", ".jsonl", ".ndjson"):
        raise InvalidRequestError(f"{file!r} is neither .txt nor .jsonl; write a prompt or a JSON object on each line.")
    requests: list[ImageRequest] = []
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        with saying(f"{_called(file)}, line {number}"):
            is_json = kind in (".jsonl", ".ndjson") or (kind == "" and line.lstrip().startswith("{"))
            requests.append(_row(line, options) if is_json else checked_request(line.strip(), **options))
    if not requests:
        raise InvalidRequestError(f"{_called(file)} is empty; write a prompt on each line.")
    return requests


def _called(file: str) -> str:
    return "stdin" if file == "-" else file


def _text(file: str) -> str:
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise InvalidRequestError(f"{_called(file)}, line {line} is not UTF-8; save it as UTF-8.") from None


def _row(line: str, options: dict[str, Any]) -> ImageRequest:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        reason = exc.msg if isinstance(exc, json.JSONDecodeError) else type(exc).__name__
        where = f" at column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise InvalidRequestError(f"it is no JSON: {reason}{where}.") from None
    if isinstance(row, str):
        return checked_request(row, **options)
    if not isinstance(row, dict):
        raise InvalidRequestError(f"a text or an object is expected, not {line.strip()!r:.40}.")
    fields = {name: value for name, value in row.items() if name not in _NAMES_OF_ITEMS}
    if "prompt" not in fields:
        raise InvalidRequestError(f"there is no prompt among {', '.join(row) or 'its fields, since it has none'}.")
    return checked_request(fields.pop("prompt"), **{**options, **fields})


# ── what is shown ────────────────────────────────────────────────────────────


def _show(estimate: CostEstimate, spending: Spending, credentials: "N1nCredentials | None") -> None:
    for model, each in estimate.by_model.items():
        price = f"${each.usd:.4f}  (${each.usd / each.images:.4f} each)" if not each.unpriced else "no price known"
        print(f"{model:32} {_images(each.images):>14}  {price}")
    print(f"{'Total':32} {_images(estimate.images):>14}  ${estimate.usd:.4f}")
    for sentence in (*_reservations(estimate, spending), _basis(credentials), _NOT_COUNTED):
        print(sentence)


_NOT_COUNTED = (
    "Not counted: thinking, which is billed as text; web searches; images drawn again because they broke a rule. "
    "An input image is taken for 1120 tokens."
)


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def _reservations(estimate: CostEstimate, spending: Spending) -> Iterator[str]:
    if estimate.unpriced:
        names = ", ".join(map(repr, estimate.unpriced))
        yield f"The total leaves out {names}: no price is known. Give one in the prices of the n1n Credentials block."
    if estimate.repeated:
        yield f"{estimate.repeated} repeated: equal requests share one image in a run; give each another sample."
    if estimate.most_usd > estimate.usd:
        yield f"At most ${estimate.most_usd:.4f}, if every call were lost or imageless as often as Spending allows."
    for name in ("max_usd_per_run", "max_usd_per_day"):
        ceiling = getattr(spending, name)
        if ceiling is not None and estimate.usd > ceiling:
            yield f"That is more than the setting {name}={ceiling:g} lets through."


def _basis(credentials: "N1nCredentials | None") -> str:
    prices = f"Google's list prices, read {LIST_PRICES_READ}"
    if credentials is None:
        return f"At {prices}; your gateway group may charge otherwise (--credentials BLOCK)."
    own = f", and its own for {', '.join(sorted(credentials.prices))}" if credentials.prices else ""
    return f"At {prices}{own}, times the block's price_factor {credentials.price_factor:g}."
