"""What a run came to, in numbers."""

from collections import Counter
from collections.abc import Iterable

from pydantic.dataclasses import dataclass

from n1n_prefect.images import GeneratedImage, ImageOutcome

_NOT_FAILED = ("uploaded", "already_there", "pending", "rejected")


@dataclass(frozen=True)
class Totals:
    """The sums over a run's outcomes."""

    images: int
    """How many items there were."""

    by_status: dict[str, int]
    """How many items ended in each status, most frequent first."""

    estimated_cost_usd: float
    """What the images that were paid for in this run cost, in US dollars; reused ones cost nothing now."""

    unpriced: int
    """How many paid images have no known price."""

    reused: int
    """How many images were paid for earlier."""

    charged_without_image: int
    """How many items were, or may have been, charged although no image came of them."""

    possible_duplicates: int
    """How many calls lost their answer and were made again; each may have been billed as well."""

    @classmethod
    def of(cls, outcomes: Iterable[ImageOutcome]) -> "Totals":
        """The sums over these outcomes."""
        everything = list(outcomes)
        paid = [outcome for outcome in everything if not is_reused(outcome)]
        return cls(
            images=len(everything),
            by_status=dict(Counter(outcome.status for outcome in everything).most_common()),
            estimated_cost_usd=round(sum(outcome.estimated_cost_usd or 0.0 for outcome in paid), 6),
            unpriced=sum(outcome.estimated_cost_usd is None and image_of(outcome) is not None for outcome in paid),
            reused=len(everything) - len(paid),
            charged_without_image=sum(
                outcome.charged != "no" and not (image_of(outcome) or outcome.uploaded) for outcome in everything
            ),
            possible_duplicates=sum(outcome.possible_duplicates for outcome in everything),
        )

    @property
    def failed(self) -> int:
        """How many items ended without an image, and are neither unfinished nor rejected by a person."""
        return sum(count for status, count in self.by_status.items() if status not in _NOT_FAILED)

    def __str__(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in self.by_status.items())
        facts = [
            f"{self.images:,} image{'' if self.images == 1 else 's'}: {counts}.",
            f"Estimated cost ${self.estimated_cost_usd:,.2f}"
            + (f", and {self.unpriced} without a known price." if self.unpriced else "."),
            f"{self.reused} reused, nothing paid." if self.reused else "",
            f"{self.charged_without_image} possibly charged without an image." if self.charged_without_image else "",
            f"{self.possible_duplicates} possibly paid twice." if self.possible_duplicates else "",
        ]
        return " ".join(filter(None, facts)) if self.images else "No images."


def image_of(outcome: ImageOutcome) -> GeneratedImage | None:
    """The paid image behind an outcome, if one was delivered."""
    return outcome.image or (outcome.uploaded.original if outcome.uploaded else None)


def is_reused(outcome: ImageOutcome) -> bool:
    """Whether the outcome's image was paid for earlier."""
    image = image_of(outcome)
    return image is not None and image.reused
