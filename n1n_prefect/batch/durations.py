"""How long items took, and when they were at work, counted without keeping them."""

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

_LEAST = 0.001  # seconds
_LONGEST = 1e7  # seconds; four months
_WIDTH = math.log(1.02)
_PAUSE = 10  # minutes


@dataclass
class Durations:
    """Seconds, counted in classes 2 % wide from a millisecond on: about 1,160 at most."""

    classes: Counter[int] = field(default_factory=Counter[int])
    """How many lie in each class; the first holds what is shorter as well, the last what is longer."""

    least: float = math.inf
    """The shortest, in seconds."""

    most: float = 0.0
    """The longest, in seconds."""

    def add(self, seconds: float) -> None:
        """Counts one."""
        bounded = min(max(seconds, _LEAST), _LONGEST)
        self.classes[int(math.log(bounded / _LEAST) / _WIDTH)] += 1
        self.least, self.most = min(self.least, seconds), max(self.most, seconds)

    def merge(self, other: "Durations") -> None:
        """Counts those that another one has counted."""
        self.classes.update(other.classes)
        self.least, self.most = min(self.least, other.least), max(self.most, other.most)

    def percentile(self, share: float) -> float | None:
        """The seconds that this share of all do not exceed, at most 1 % off; None where nothing was counted.

        Args:
            share: From 0 to 1, such as 0.5 for the median.
        """
        rank = max(math.ceil(share * self.classes.total()), 1)
        for number in sorted(self.classes):
            rank -= self.classes[number]
            if rank <= 0:
                middle = _LEAST * math.exp((number + 0.5) * _WIDTH)
                return round(min(max(middle, self.least), self.most), 3)
        return None

    def summary(self) -> dict[str, float | None]:
        """Its percentiles `p50`, `p90` and `p99`, and the longest, in seconds."""
        named = {f"p{share}": self.percentile(share / 100) for share in (50, 90, 99)}
        return {**named, "max": round(self.most, 3) if self.classes else None}


@dataclass
class Period:
    """When items were at work."""

    started: datetime | None = None
    """When the first was taken up, in UTC."""

    first_finished: datetime | None = None
    last_finished: datetime | None = None
    minutes: set[int] = field(default_factory=set[int])
    """The minutes in which an item began or ended."""

    def add(self, finished: datetime, seconds: float) -> None:
        """Counts an item in that ended then, and had begun so many seconds before."""
        started = finished - timedelta(seconds=seconds)
        minutes = {int(moment.timestamp() // 60) for moment in (started, finished)}
        self.merge(Period(started, finished, finished, minutes))

    def merge(self, other: "Period") -> None:
        """Counts in what another one has counted."""
        self.started = _first(self.started, other.started)
        self.first_finished = _first(self.first_finished, other.first_finished)
        self.last_finished = max(filter(None, (self.last_finished, other.last_finished)), default=None)
        self.minutes |= other.minutes

    @property
    def wall_seconds(self) -> float:
        """From the first item's begin to the last one's end."""
        return (self.last_finished - self.started).total_seconds() if self.started and self.last_finished else 0.0

    @property
    def at_work_seconds(self) -> float:
        """The same without pauses: more than ten minutes in which no item began or ended."""
        minutes = sorted(self.minutes)
        gaps = (later - earlier for earlier, later in pairwise(minutes))
        return self.wall_seconds - 60 * sum(gap for gap in gaps if gap > _PAUSE)


def _first(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(filter(None, (one, other)), default=None)
