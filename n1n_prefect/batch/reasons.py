"""Why items ended without an image, counted by kind of reason in bounded memory."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MOST = 4_000  # kinds
_READ = 1_000  # characters of a reason
_KEPT = 300  # characters of a kind
_VARIABLE = (
    (re.compile(r"\s*\(request id: [^)]*\)"), ""),
    (re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s,;)'\"]+", re.IGNORECASE), "…"),
    (re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\""), "'…'"),
    (re.compile(r"\b(?=[a-f-]{0,40}\d)[0-9a-f]{8,}(?:-[0-9a-f]{4,})*\b", re.IGNORECASE), "…"),
    (re.compile(r"(?<![\w-])(?<!HTTP )\d+(?:[.,:x]\d+)*(?![\w-])"), "#"),
)
_FIRST_SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)


def kind_of_reason(reason: str, id: str = "") -> str:  # noqa: A002 - the field's name
    """A reason's first sentence, without what differs from item to item: numbers, addresses, quoted words, ids.

    Such as `No answer within # seconds.`, whose rest was `(request id: 2f81) Try again.`

    Args:
        reason: A reason in words; its first 1,000 characters are looked at.
        id: The item's own name; one of letters alone stays where it stands, since it may be any word.
    """
    words = reason[:_READ]
    if id and not id.isalpha():
        words = words.replace(id, "…")
    for what, instead in _VARIABLE:
        words = what.sub(instead, words)
    found = _FIRST_SENTENCE.match(words.strip())
    return " ".join((found[0] if found else words).split())[:_KEPT]


class Reason(NamedTuple):
    """What several items have in common that ended without an image."""

    status: str
    kind: str


@dataclass
class Reasons:
    """How many items ended for each reason, and the id of one of them.

    Once there are more than 4,000 reasons, the rarer half is no longer told apart.
    """

    counts: Counter[Reason] = field(default_factory=Counter[Reason])
    examples: dict[Reason, str] = field(default_factory=dict[Reason, str])
    rare: int = 0
    """How many items had reasons that are no longer told apart."""

    def add(self, status: str, reason: str, id: str) -> None:  # noqa: A002
        """Counts an item."""
        known = Reason(status, kind_of_reason(reason, id))
        self.counts[known] += 1
        self.examples.setdefault(known, id)
        self._bound()

    def merge(self, other: "Reasons") -> None:
        """Counts the items that another one has counted."""
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples
        self.rare += other.rare
        self._bound()

    def _bound(self) -> None:
        if len(self.counts) <= _MOST:
            return
        kept = Counter(dict(self.counts.most_common(_MOST // 2)))
        self.rare += self.counts.total() - kept.total()
        self.counts, self.examples = kept, {reason: self.examples[reason] for reason in kept}

    def top(self, most: int) -> list[dict[str, Any]]:
        """The most frequent: `status`, `reason`, `count` and, as `example`, the id of an item."""
        return [
            {"status": reason.status, "reason": reason.kind, "count": count, "example": self.examples[reason]}
            for reason, count in self.counts.most_common(most)
        ]
