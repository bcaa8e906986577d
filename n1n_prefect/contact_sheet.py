"""What a run made, in Markdown: a contact sheet with small pictures, failures first.

Prompts, names and the words of models and servers are taken for hostile: they are shown as
text (see `plain_text`), and nothing but our own pictures renders.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from n1n_prefect.images import GeneratedImage, ImageOutcome, UploadedImage, excerpt
from n1n_prefect.masking import without_secrets
from n1n_prefect.outcomes import gather_outcomes, has_image
from n1n_prefect.plain_text import plain
from n1n_prefect.run_log import get_logger
from n1n_prefect.thumbnails import MAX_BYTES, data_uri, thumbnail
from n1n_prefect.totals import Totals, image_of, is_reused

_EDGE = 240  # pixels; as wide as leaves room for the text in a window of 1400
_FAILURES = 100  # rows; a person reads no more, and the reasons are counted
_REASONS = 8  # different reasons that are counted by name
_AROUND = 5_000  # bytes kept free for the heading and the lines below the table
_LEAST = 1_000  # bytes; a picture that would get fewer is left out
_NAME = 30  # characters; a longer word would push the table over the page's edge
# The new UI shrinks a picture to its column's heading; spaces that do not break hold it open.
_HEADING = f"| Image{chr(0xA0) * 30} | What happened |\n|:---|:---|\n"


def contact_sheet_markdown(
    outcomes: Iterable[object] | None,
    *,
    title: str | None = None,
    show_prompts: bool = True,
    show_totals: bool = True,
    max_thumbnails: int = 24,
    max_total_bytes: int = 1_000_000,
) -> str:
    """A contact sheet in Markdown: a line of totals, then a table with pictures, failures first.

    All failures are listed up to 100, the others up to `max_thumbnails`; what is not listed is counted.

    Args:
        outcomes: Whatever `gather_outcomes` takes: outcomes, images before or after their upload, errors, futures;
            and None for an item without a result.
        title: A heading.
        show_prompts: Whether the first 80 characters of each prompt are shown.
        show_totals: Whether a line above the table sums them up; not where they are a sample.
        max_thumbnails: Most pictures; each is at most 240 pixels wide and high, and 40 kB long.
        max_total_bytes: Length of the whole document in bytes, at most; pictures give way, then rows.
    """
    everything = _rows(outcomes)
    totals = _overview(Totals.of(everything)) if show_totals else ""
    head = (f"## {plain(title, 200)}\n\n" if title else "") + totals
    room = max_total_bytes - len(head.encode()) - _AROUND
    listed, rest = _split(everything, max_thumbnails)
    texts = list(_fitting((_texts(outcome, show_prompts) for outcome in listed), room))
    pictures = _pictures(listed[: len(texts)], max_thumbnails, room - sum(map(_length, texts)))
    rows = [f"| {_lines(name, picture)} | {told} |\n" for (name, told), picture in zip(texts, pictures, strict=True)]
    return head + (_HEADING + "".join(rows) if rows else "") + _foot(listed[len(texts) :] + rest)


def dialog_markdown(
    outcomes: Mapping[int, ImageOutcome], *, show_prompts: bool = True, max_total_bytes: int = 250_000
) -> str:
    """Images to choose from, two in a row, for a dialog of 470 pixels: pictures with a number, and a few words.

    Args:
        outcomes: The images by number; what has none is listed below with its reason.
        show_prompts: Whether the first 80 characters of each prompt are shown.
        max_total_bytes: Length of the pictures in bytes, at most.
    """
    shown = {
        number: image for number, outcome in outcomes.items() if (image := image_of(outcome)) and has_image(outcome)
    }
    bare = [number for number, outcome in outcomes.items() if has_image(outcome) and number not in shown]
    prompts = {image.prompt_excerpt for image in shown.values()} if show_prompts else set[str]()
    pictures = _pictures([outcomes[number] for number in shown], len(shown), max_total_bytes, _small_picture)
    cells = [
        _lines(f"**Image {number}**", picture, *_caption(outcomes[number], len(prompts) > 1))
        for number, picture in zip(shown, pictures, strict=True)
    ]
    cells += [_lines(f"**Image {number}**", *_caption(outcomes[number], False)) for number in bare]
    head = f"{plain(min(prompts), 80)}\n\n" if len(prompts) == 1 else ""
    rows = [f"| {' | '.join(cells[start : start + 2])} |\n" for start in range(0, len(cells), 2)]
    failed = [
        f"- Image {number}: {_status(outcome)}. {plain(outcome.reason, 200)}\n"
        for number, outcome in outcomes.items()
        if not has_image(outcome)
    ]
    return head + (_DIALOG_HEADING + "".join(rows) if rows else "") + ("\n" + "".join(failed) if failed else "")


_DIALOG_HEADING = "|   |   |\n|---|---|\n"
_DIALOG_EDGE = 190  # pixels; two of them stand beside each other in the dialogs of both UIs
_DIALOG_WORDS = 28  # characters; the older UI does not wrap the lines of a table


def _caption(outcome: ImageOutcome, has_prompt: bool) -> list[str]:
    image = outcome.uploaded or outcome.image
    cost = "" if outcome.estimated_cost_usd is None else f"${outcome.estimated_cost_usd:,.3f}"
    size = f"{image.width}x{image.height}" if image else ""
    prompt = plain(outcome.prompt_excerpt, _DIALOG_WORDS) if has_prompt else ""
    return [prompt, ", ".join(filter(None, (size, cost)))]


def _small_picture(image: GeneratedImage, max_bytes: int) -> str:
    picture = _picture(image, max_bytes)
    uri = picture.removeprefix("![](").removesuffix(")")
    return f'<img src="{uri}" width="{_DIALOG_EDGE}">' if uri.startswith("data:") else picture


# ── which rows ───────────────────────────────────────────────────────────────


def _rows(outcomes: Iterable[object] | None) -> list[ImageOutcome]:
    """Whatever was handed over, as outcomes: failures, then what is not finished, then the rest."""
    return sorted(gather_outcomes(without_gaps(outcomes)), key=_rank)


def without_gaps(outcomes: Iterable[object] | None) -> list[object]:
    """The items, with an outcome in the place of each that has no result."""
    return [_NO_RESULT if item is None else item for item in outcomes or ()]


_NO_RESULT = ImageOutcome(id="", status="pending", reason="There is no result.")


def _rank(outcome: ImageOutcome) -> int:
    return 0 if _is_failure(outcome) else 1 if outcome.status == "pending" else 2


def _is_failure(outcome: ImageOutcome) -> bool:
    return not outcome.ok and outcome.status not in ("pending", "rejected")


def _split(everything: list[ImageOutcome], max_thumbnails: int) -> tuple[list[ImageOutcome], list[ImageOutcome]]:
    """What is listed, and the rest: failures up to a bound, and as many others as pictures are left for."""
    failures = list(filter(_is_failure, everything))
    others = everything[len(failures) :]
    taken = sum(image_of(outcome) is not None for outcome in failures[:_FAILURES])
    left = max(0, max_thumbnails - taken)
    return failures[:_FAILURES] + others[:left], failures[_FAILURES:] + others[left:]


def _fitting(rows: Iterable[tuple[str, str]], room: int) -> Iterator[tuple[str, str]]:
    for row in rows:
        room -= _length(row)
        if room < 0:
            return
        yield row


def _length(row: tuple[str, str]) -> int:
    return sum(len(cell.encode()) for cell in row) + len("| <br> |  |\n")


# ── pictures ─────────────────────────────────────────────────────────────────


def _pictures(
    outcomes: list[ImageOutcome], most: int, room: int, draw: "Callable[[GeneratedImage, int], str] | None" = None
) -> Iterator[str]:
    """One for each outcome, empty where there is none; what is left of the room is shared evenly."""
    left = min(most, sum(image_of(outcome) is not None for outcome in outcomes), max(room, 0) // _LEAST)
    for outcome in outcomes:
        image = image_of(outcome)
        share = room // left if left > 0 else 0
        if image is None or share < _LEAST:
            yield ""
            continue
        picture = (draw or _picture)(image, min(MAX_BYTES, (share - 100) * 3 // 4))
        room -= len(picture.encode())
        left -= 1
        yield picture


def _picture(image: GeneratedImage, max_bytes: int) -> str:
    try:
        webp = _thumbnail(image, max_bytes)
    except Exception as exc:  # noqa: BLE001  a report says so, and goes on
        get_logger().warning("No picture of %s in the contact sheet: %s", image.uri, exc)
        return "no picture: original not readable"
    return f"![]({data_uri(webp)})" if webp else "no picture: does not decode"


@lru_cache(maxsize=24)
def _thumbnail(image: GeneratedImage, max_bytes: int) -> bytes | None:
    """Kept, since a sheet of a long run is made again and again."""
    return thumbnail(image.read_bytes(), edge=_EDGE, max_bytes=max_bytes)


# ── words ────────────────────────────────────────────────────────────────────


def _overview(totals: Totals) -> str:
    count, _, rest = str(totals).partition(": ")
    return f"**{count}**: {rest}\n\n" if rest else f"{count}\n"


def _by_status(outcomes: Iterable[ImageOutcome]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in Counter(map(_status, outcomes)).most_common())


def _status(outcome: ImageOutcome) -> str:
    return outcome.status.replace("_", " ")


def _foot(rest: list[ImageOutcome]) -> str:
    """How many are not listed, and why the failures among them failed."""
    if not rest:
        return ""
    reasons = Counter(plain(outcome.reason, 80) or _status(outcome) for outcome in filter(_is_failure, rest))
    lines = [f"\n… and {len(rest):,} more: {_by_status(rest)}.\n\n"]
    lines += [f"- {count:,} of them: {reason}\n" for reason, count in reasons.most_common(_REASONS)]
    if len(reasons) > _REASONS:
        lines.append(f"- and {_counted(len(reasons) - _REASONS, 'other reason')}\n")
    return "".join(lines)


def _texts(outcome: ImageOutcome, show_prompts: bool) -> tuple[str, str]:
    """The two cells of a row, without the picture."""
    image = image_of(outcome)
    told = _lines(
        plain(outcome.id, 200) if len(outcome.id) > _NAME else "",
        _verdict(outcome),
        plain(image.prompt_excerpt if image else outcome.prompt_excerpt, 80) if show_prompts else "",
        _asked(outcome),
        _delivered(outcome),
        _address(outcome.uploaded.uri) if outcome.uploaded else "",
        _console_link(outcome.uploaded) if outcome.uploaded else "",
    )
    return f"**{plain(outcome.id, _NAME) or 'no name'}**", told


def _verdict(outcome: ImageOutcome) -> str:
    notes = ["reused, nothing paid"] if is_reused(outcome) else []
    if not image_of(outcome) and not outcome.uploaded:
        notes += {"yes": ["charged"], "unknown": ["possibly charged"], "no": []}[outcome.charged]
    if outcome.possible_duplicates:
        notes.append("possibly paid twice")
    if outcome.attempts > 1:
        notes.append(f"{outcome.attempts} calls")
    verdict = f"**{_status(outcome)}**" + (f" ({', '.join(notes)})" if notes else "")
    # The older UI does not wrap the lines of a table; a key is masked before a line can end in it.
    reason = textwrap.wrap(excerpt(without_secrets(outcome.reason), 300), 80, break_on_hyphens=False)
    return _lines(verdict, *(plain(line, 80) for line in reason))


def _asked(outcome: ImageOutcome) -> str:
    image = image_of(outcome)
    if image is None:
        return plain(outcome.uploaded.model if outcome.uploaded else outcome.model, 80)
    answered = image.model_version.removeprefix("models/")
    other = f" (answered by {plain(answered, 80)})" if answered not in ("", image.model) else ""
    shape = ", ".join(part for part in (image.aspect_ratio, image.image_size) if part)
    return plain(image.model, 80) + other + (f", asked {plain(shape, 20)}" if shape else "")


def _delivered(outcome: ImageOutcome) -> str:
    image = outcome.uploaded or outcome.image
    cost = "" if outcome.estimated_cost_usd is None else f"${outcome.estimated_cost_usd:,.3f}"
    if image is None:
        return cost
    kind = plain(image.media_type, 40)
    return ", ".join(filter(None, (f"{image.width}x{image.height} pixels", kind, _size(image.size_bytes), cost)))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _lines(*parts: str) -> str:
    return "<br>".join(filter(None, parts))


# ── addresses ────────────────────────────────────────────────────────────────


def _address(uri: str) -> str:
    """An address as code, in a line for the folder and one for the name, since a page cuts what is longer; as
    text where it holds what could end the code."""
    if not re.fullmatch(r"[\w.~/:+=@,%'-]+", uri):
        return plain(uri, 1100)
    folder, slash, name = uri.rpartition("/")
    return _lines(*(f"`{part}`" for part in (folder + slash, name) if part))


def _console_link(uploaded: UploadedImage) -> str:
    """A link to the object in the AWS console, which asks who looks; percent-encoded, so that no key breaks out."""
    url = uploaded.console_url
    return f"[open in the AWS console]({url})" if url else ""
