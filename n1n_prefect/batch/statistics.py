"""What a batch came to, in numbers that are kept while its results go by: `_stats.json`, and a report for people."""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
import prefect

from n1n_prefect.__about__ import __version__
from n1n_prefect.batch.durations import Durations, Period
from n1n_prefect.batch.reasons import Reasons
from n1n_prefect.batch.results import ItemResult, dumped, finite
from n1n_prefect.masking import without_secrets
from n1n_prefect.plain_text import plain

NAME = "_stats.json"
SCHEMA = 1
_WITHOUT_REASON = ("uploaded", "already_there", "pending")
_TOP = 20  # reasons
_LISTED = 10  # models in the report for people
_MOST_MODELS = 200


@dataclass
class Sums:
    """Sums over items."""

    items: int = 0
    images: int = 0
    """How many of them have an image, in S3 or staged."""

    variants: int = 0
    """How many objects were derived from those."""

    size_bytes: int = 0
    pixels: int = 0
    reused: int = 0
    """How many images the last pass over their items found in the journal instead of paying for them."""

    spent_usd: float = 0.0
    """What the images cost; also those that were reused, since the batch paid for them in an earlier pass."""

    unpriced: int = 0
    """How many images have no known price."""

    charged_without_image: int = 0
    """How many items were charged, or may have been, although no image came of them."""

    possible_duplicates: int = 0
    """How many calls lost their answer and were made again; each may have been billed as well."""

    possibly_spent_twice_usd: float = 0.0
    """What those cost if they were billed, as far as their images have a price."""

    @classmethod
    def of(cls, result: ItemResult, *, is_shared: bool = False) -> "Sums":
        """What one item adds to them.

        Args:
            result: How it ended.
            is_shared: Whether its image is that of an earlier item, which has counted what it cost.
        """
        outcome, image = result.outcome, result.outcome.image
        delivered = outcome.uploaded or image
        cost, price = finite(outcome.estimated_cost_usd), finite(image.estimated_cost_usd) if image else None
        cost = 0.0 if is_shared else cost
        return cls(
            1,
            int(delivered is not None),
            len(result.variants),
            delivered.size_bytes if delivered else 0,
            delivered.width * delivered.height if delivered else 0,
            int(image is not None and image.reused),
            cost or 0.0,
            int(delivered is not None and cost is None),
            int(outcome.charged != "no" and delivered is None),
            0 if is_shared else outcome.possible_duplicates,
            0.0 if is_shared else outcome.possible_duplicates * (price or 0.0),
        )

    def merge(self, other: "Sums") -> None:
        """Adds others to them."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> dict[str, int | float]:
        """All of them, with dollars to a millionth."""
        return {name: round(value, 6) for name, value in vars(self).items()}


@dataclass
class Statistics:
    """What came of a batch: `add` each item's result once, then look. Memory does not grow with items, but for repeats.

    Args:
        batch: The batch's id.
        manifest: Where its rows came from.
        bad_rows: How many rows of the manifest were left out, since they could not be carried out.
        expected_usd: What the estimate before the first call came to.
        has_repeats: Whether items ask for the same image, which is then counted as paid for once; about 150 bytes an
            image are held for that.
    """

    batch: str
    manifest: str = ""
    bad_rows: int = 0
    expected_usd: float | None = None
    has_repeats: bool = False
    total: Sums = field(default_factory=Sums)
    models: dict[str, Sums] = field(default_factory=dict[str, Sums])
    """The same for each model that was asked; from the 201st on together, as `other models`."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    reasons: Reasons = field(default_factory=Reasons)
    seconds: Durations = field(default_factory=Durations)
    """How long items took; those found in the journal are left out, as they took no call."""

    waited: Durations = field(default_factory=Durations)
    """How long the same ones waited for the gateway to have room."""

    period: Period = field(default_factory=Period)
    _images: set[str] = field(default_factory=set[str], repr=False)

    def add(self, result: ItemResult) -> None:
        """Counts an item."""
        outcome, sums = result.outcome, Sums.of(result, is_shared=self._is_shared(result))
        self.total.merge(sums)
        self._of_model(result.model).merge(sums)
        self.statuses[outcome.status] += 1
        if outcome.status not in _WITHOUT_REASON:
            self.reasons.add(outcome.status, outcome.reason, result.id)
        if result.finished_at is not None:
            self.period.add(result.finished_at, result.seconds or 0.0)
        if result.seconds is not None and not sums.reused:
            self.seconds.add(result.seconds)
            self.waited.add(result.waited_seconds or 0.0)

    def merge(self, other: "Statistics") -> None:
        """Counts the items that another one has counted, such as those of another chunk."""
        self.total.merge(other.total)
        for model, sums in other.models.items():
            self._of_model(model).merge(sums)
        self.statuses.update(other.statuses)
        self.reasons.merge(other.reasons)
        self.seconds.merge(other.seconds)
        self.waited.merge(other.waited)
        self.period.merge(other.period)

    def _is_shared(self, result: ItemResult) -> bool:
        """Whether an item before has the same image; only images that were found may be another's too."""
        image = result.outcome.image
        if not self.has_repeats or image is None:
            return False
        is_known = image.request_key in self._images
        self._images.add(image.request_key)
        return is_known

    def _of_model(self, model: str) -> Sums:
        name = model if model in self.models or len(self.models) < _MOST_MODELS else "other models"
        return self.models.setdefault(name, Sums())

    @property
    def ok_rate(self) -> float | None:
        """The share of items whose image is in S3, from 0 to 1; None where there is none."""
        arrived = self.statuses["uploaded"] + self.statuses["already_there"]
        return arrived / self.total.items if self.total.items else None

    @property
    def images_per_second(self) -> float | None:
        """Images over the time at work, pauses left out; None where no time has passed."""
        seconds = self.period.at_work_seconds
        return self.total.images / seconds if seconds > 0 else None

    # ── for programs ──

    def dumped(self) -> bytes:
        """`_stats.json`.

        Its fields are `schema`, `batch`, `manifest`, `bad_rows`, `expected_usd` (the estimate before the first call),
        the fields of `Sums`, `ok_rate`, `by_status`,
        `by_model` (the fields of `Sums` for each), `top_reasons` (`status`, `reason`, `count`, `example`: an item's
        id), `rare_reasons` (items), `seconds` and `waited_seconds` (`p50`, `p90`, `p99`, `max`, at most 1 % off),
        `started_at`, `first_finished_at`, `last_finished_at` (UTC), `wall_seconds`, `at_work_seconds`,
        `images_per_second`, `versions`.
        """
        return orjson.dumps(orjson.loads(dumped(self._summary())), option=orjson.OPT_INDENT_2)

    def _summary(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "batch": self.batch,
            "manifest": without_secrets(self.manifest),
            "bad_rows": self.bad_rows,
            "expected_usd": None if self.expected_usd is None else round(self.expected_usd, 6),
            **self.total.summary(),
            "ok_rate": _rounded(self.ok_rate),
            "by_status": dict(self.statuses.most_common()),
            "by_model": {model: sums.summary() for model, sums in self._models()},
            "top_reasons": self.reasons.top(_TOP),
            "rare_reasons": self.reasons.rare,
            "seconds": self.seconds.summary(),
            "waited_seconds": self.waited.summary(),
            "started_at": self.period.started,
            "first_finished_at": self.period.first_finished,
            "last_finished_at": self.period.last_finished,
            "wall_seconds": _rounded(self.period.wall_seconds),
            "at_work_seconds": _rounded(self.period.at_work_seconds),
            "images_per_second": _rounded(self.images_per_second),
            "versions": versions(),
        }

    def _models(self) -> list[tuple[str, Sums]]:
        return sorted(self.models.items(), key=lambda each: -each[1].items)

    # ── for people ──

    def __str__(self) -> str:
        """A few sentences."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        counts = ", ".join(f"{count:,} {_words(status)}" for status, count in self.statuses.most_common())
        share = "" if self.ok_rate is None else f" ({_share(self.ok_rate)} arrived)"
        yield f"{_counted(self.total.items, 'item')}: {counts}{share}." if counts else "No items."
        yield from (f"{what}: {figure}." for what, figure in self._money())
        if self.images_per_second:
            yield f"At work: {_duration(self.period.at_work_seconds)}, {self.images_per_second:,.2f} images a second."
        if self.bad_rows:
            yield f"{_counted(self.bad_rows, 'bad row')} of the manifest left out."

    def _money(self) -> Iterator[tuple[str, str]]:
        total = self.total
        expected = "" if self.expected_usd is None else f", and ${self.expected_usd:,.2f} expected"
        yield "Estimated cost", f"${total.spent_usd:,.2f}{expected}"
        if total.unpriced:
            yield "Without a known price", _counted(total.unpriced, "image")
        if total.charged_without_image:
            yield "Possibly charged without an image", _counted(total.charged_without_image, "item")
        if total.possible_duplicates:
            calls = _counted(total.possible_duplicates, "call")
            yield "Possibly paid twice", f"{calls}, ${total.possibly_spent_twice_usd:,.2f}"
        if total.reused:
            yield "Found in the journal, nothing paid again", _counted(total.reused, "image")

    def _times(self) -> Iterator[tuple[str, str]]:
        if self.images_per_second is not None:
            yield "At work", _duration(self.period.at_work_seconds)
            yield "Images a second", f"{self.images_per_second:,.2f}"
        for what, durations in (("Seconds an item", self.seconds), ("Of them waiting for the gateway", self.waited)):
            if durations.most > 0:
                named = durations.summary()
                yield what, f"half within {named['p50']:,.1f}, 99 % within {named['p99']:,.1f}"

    def _made(self) -> Iterator[tuple[str, str]]:
        yield "Images", f"{self.total.images:,}, {self.total.size_bytes / 1e6:,.1f} MB"
        yield "Pixels", f"{self.total.pixels / 1e6:,.1f} million"
        if self.total.variants:
            yield "Variants", f"{self.total.variants:,}"

    def markdown(self) -> str:
        """Tables for an artifact: how many items ended how, why, at what cost and in what time.

        Words of others are shown as text; nothing of them renders.
        """
        items = max(self.total.items, 1)
        statuses = [(_words(status), f"{n:,}", _share(n / items)) for status, n in self.statuses.most_common()]
        models = [
            (plain(name, 60), f"{sums.items:,}", f"{sums.images:,}", f"${sums.spent_usd:,.2f}")
            for name, sums in self._models()[:_LISTED]
        ]
        reasons = [
            (f"{each['count']:,}", _words(each["status"]), plain(each["reason"], 200), plain(each["example"], 40))
            for each in self.reasons.top(_TOP)
        ]
        parts = [
            f"## Batch {plain(self.batch, 100)}\n\n{self._heading()}\n",
            _table(("Status", "Items", "Share"), statuses),
            _table(("Items", "Status", "Reason", "Such as"), reasons),
            _table(("Model", "Items", "Images", "Estimated cost"), models),
            _table(("What", "Figure"), [*self._money(), *self._times(), *self._made()]),
        ]
        return "\n".join(filter(None, parts))

    def _heading(self) -> str:
        source = f" of {plain(without_secrets(self.manifest), 200)}" if self.manifest else ""
        left_out = f", {_counted(self.bad_rows, 'bad row')} left out" if self.bad_rows else ""
        return f"{_counted(self.total.items, 'item')}{source}{left_out}."


def versions() -> dict[str, str]:
    """The versions of the software that makes a batch."""
    return {"python": platform.python_version(), "prefect": prefect.__version__, "n1n_prefect": __version__}


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table whose cells are ready to stand in one; nothing without rows."""
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}\n{''.join(lines)}" if lines else ""


def _words(status: str) -> str:
    return status.replace("_", " ")


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duration(seconds: float) -> str:
    """Such as `1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
