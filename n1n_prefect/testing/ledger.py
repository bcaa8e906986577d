"""What was billed: every paid call that reached the local gateway, in order."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Literal

from pydantic.dataclasses import dataclass

from n1n_prefect import catalog

CallOutcome = Literal["image", "no_image", "refused", "error"]

# US dollars for one image by size tier: Google's list, read 2026-07 to 2026-10. The models'
# text and thoughts are left out, so that a bill can be checked in one's head.
PRICES: dict[str, dict[str, float]] = {
    "gemini-2.5-flash-image": {"1K": 0.039},
    "gemini-3-pro-image": {"1K": 0.134, "2K": 0.134, "4K": 0.24},
    "gemini-3.1-flash-image": {"512": 0.045, "1K": 0.067, "2K": 0.101, "4K": 0.151},
    "gemini-3.1-flash-lite-image": {"1K": 0.0336},
    "gemini-nano-banana-2.1": {"1K": 0.0336, "2K": 0.0504, "4K": 0.1134},
}
_UNKNOWN_MODEL_USD = 0.04


def price_usd(model: str, image_size: str | None = None) -> float:
    """What the local gateway charges for one image, in US dollars."""
    known = catalog.find(model)
    tiers = PRICES.get(known.id, {}) if known else {}
    return tiers.get(image_size or "1K", _UNKNOWN_MODEL_USD)


@dataclass(frozen=True)
class Call:
    """One paid call as the gateway saw it."""

    number: int
    """Counts from one, in order of arrival."""

    at: datetime
    """When it arrived, in UTC."""

    model: str
    """The model in the address."""

    request_id: str
    """The `X-Oneapi-Request-Id` of the reply."""

    status: int
    """HTTP status of the answer; 0 where the connection ended without one."""

    outcome: CallOutcome
    """What the gateway made of it, whether or not it reached the caller."""

    billed: bool = False
    """Whether it was charged."""

    usd: float = 0.0
    """What was charged, in US dollars."""

    delivered: bool = True
    """Whether the whole answer left; False where the connection was cut, by a fault or by the caller."""

    fault: str = ""
    """The scripted faults that were applied, joined by `+`."""

    seconds: float = 0.0
    """From the call's arrival until its answer was ready."""

    prompt_excerpt: str = ""
    """The first 80 characters of the prompt; empty where the request was not understood."""

    prompt_sha256: str = ""
    """SHA-256 of the prompt, lower-case hex."""

    request_sha256: str = ""
    """SHA-256 of model and body in canonical form: equal for calls that ask the same."""

    dropped: tuple[str, ...] = ()
    """Fields that the gateway ignored, as the real one does: misspelt in snake_case, or unknown to it."""

    image_sha256: str = ""
    """SHA-256 of the answer's image in lower-case hex, if the gateway was made with `hash_images`; else empty."""


class Ledger:
    """The calls of one gateway and their bill; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._usd = 0.0
        self._arrived = 0
        self._in_flight = 0
        self._most_in_flight = 0

    @property
    def calls(self) -> list[Call]:
        """Every call that was answered or broken off, in the order in which that happened."""
        with self._lock:
            return list(self._calls)

    @property
    def billed(self) -> list[Call]:
        """The calls that were charged."""
        return [call for call in self.calls if call.billed]

    @property
    def usd(self) -> float:
        """The bill in US dollars."""
        return round(self._usd, 6)

    @property
    def most_in_flight(self) -> int:
        """How many calls were being answered at the same moment, at most."""
        return self._most_in_flight

    def duplicates(self) -> list[list[Call]]:
        """The groups of calls that asked the same and were each charged, the first of a group included."""
        groups: dict[str, list[Call]] = {}
        for call in self.billed:
            groups.setdefault(call.request_sha256, []).append(call)
        return [group for group in groups.values() if len(group) > 1]

    def reset(self) -> None:
        """Forgets every call and counts from one again."""
        with self._lock:
            self._calls.clear()
            self._usd = 0.0
            self._arrived = 0
            self._most_in_flight = self._in_flight

    def summary(self) -> str:
        """The bill in a few lines of text."""
        calls, billed, again = self.calls, self.billed, self.duplicates()
        lines = [
            f"{_count(len(calls), 'call')}, {len(billed)} billed: ${self.usd:.4f}",
            f"  answered with an image: {sum(call.outcome == 'image' and call.delivered for call in calls)}",
            f"  billed and not delivered: {sum(not call.delivered for call in billed)}",
            f"  refused or without an image: {sum(call.outcome in ('refused', 'no_image') for call in calls)}",
            f"  errors: {sum(call.outcome == 'error' for call in calls)}",
        ]
        if again:
            extra = [call for group in again for call in group[1:]]
            lines.append(
                f"  the same request billed more than once: {_count(len(again), 'request')}, "
                f"{_count(len(extra), 'call')} too many, ${sum(call.usd for call in extra):.4f}"
            )
        return "\n".join(lines)

    @contextmanager
    def arrival(self) -> Generator[int, None, None]:
        """Numbers a call and counts it as in flight for as long as the context lasts."""
        with self._lock:
            self._arrived += 1
            number = self._arrived
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            yield number
        finally:
            with self._lock:
                self._in_flight -= 1

    def write(self, call: Call) -> None:
        """Enters a call; its bill is due from here on, whatever becomes of the answer."""
        with self._lock:
            self._calls.append(call)
            self._usd += call.usd

    def cut_off(self, call: Call) -> Call:
        """Notes that the call's answer did not leave whole."""
        cut = replace(call, delivered=False)
        with self._lock:
            # A reset in between has dropped the call.
            self._calls[:] = [cut if entry is call else entry for entry in self._calls]
        return cut


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
