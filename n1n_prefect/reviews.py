"""What a person is asked about images, and what they said: pure values, a form, and the words around it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.dataclasses import dataclass

from n1n_prefect.contact_sheet import contact_sheet_markdown
from n1n_prefect.images import ImageOutcome, ImageRequest, UploadedImage

Decision = Literal["approve", "reject", "regenerate"]
OnTimeout = Literal["reject", "approve", "fail"]
WaitBy = Literal["pause", "suspend"]

_MAX_SHEET_BYTES = 250_000  # 267 KB of a description were stored and shown
_MAX_NOTE = 2_000  # characters

# ── what was decided ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ReviewedImage:
    """One image, and what was decided about it."""

    number: int
    """Its number in the dialog: its place among what was handed over, from 1."""

    outcome: ImageOutcome
    """How it came about."""

    decision: Decision
    """`approve`, `reject` or `regenerate`."""

    note: str = ""
    """What the person wrote about it."""

    decided_by: Literal["person", "timeout"] = "person"
    """A person, or the deadline."""

    reviewer: str = ""
    """The name that the person gave."""

    @property
    def uploaded(self) -> UploadedImage | None:
        """The object in S3, if it was uploaded before the review."""
        return self.outcome.uploaded

    @property
    def set_aside(self) -> ImageOutcome:
        """The image as a row of a report, rejected for this reason."""
        verb = "Rejected" if self.decision == "reject" else "Sent back to be drawn anew"
        who = " since nobody decided in time" if self.decided_by == "timeout" else ""
        who = f" by {self.reviewer}" if self.reviewer else who
        return replace(
            self.outcome, status="rejected", reason=f"{verb}{who}" + (f": {self.note}" if self.note else ".")
        )


@dataclass(frozen=True)
class Review:
    """What was decided about some images. Reviews of several rounds add up: `first + second`."""

    images: tuple[ReviewedImage, ...] = ()
    """Every image that there was to decide about, in order."""

    failed: tuple[ImageOutcome, ...] = ()
    """What could not be reviewed since no image came of it."""

    @property
    def approved(self) -> list[ReviewedImage]:
        """The images to publish."""
        return [image for image in self.images if image.decision == "approve"]

    @property
    def rejected(self) -> list[ReviewedImage]:
        """The images that nobody wants."""
        return [image for image in self.images if image.decision == "reject"]

    @property
    def to_regenerate(self) -> list[ReviewedImage]:
        """The images to be drawn anew, which costs money."""
        return [image for image in self.images if image.decision == "regenerate"]

    @property
    def set_aside(self) -> list[ImageOutcome]:
        """The images that are not to be published, as rows of a report with the reason."""
        return [image.set_aside for image in self.images if image.decision != "approve"]

    def next_requests(self, requests: Sequence[ImageRequest]) -> list[ImageRequest]:
        """What to draw anew, each with its note below the prompt and a sample that was not drawn yet.

        Args:
            requests: What the reviewed images were drawn from, in the same order.
        """
        fresh = max((request.sample for request in requests), default=0) + 1
        again = [(requests[image.number - 1], image.note) for image in self.to_regenerate]
        return [
            replace(request, prompt=f"{request.prompt}\n\n{note}" if note else request.prompt, sample=fresh + place)
            for place, (request, note) in enumerate(again)
        ]

    def __add__(self, other: "Review") -> "Review":
        return Review(self.images + other.images, self.failed + other.failed)


# ── what is asked ────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    """Images to decide about, and the terms."""

    outcomes: tuple[ImageOutcome, ...]
    """Everything that was handed over, in order."""

    may_regenerate: bool
    """Whether an image may be sent back to be drawn anew."""

    on_timeout: OnTimeout
    """What happens when nobody decides in time."""

    @property
    def candidates(self) -> dict[int, ImageOutcome]:
        """What there is to decide about, by number."""
        return {number: outcome for number, outcome in enumerate(self.outcomes, 1) if _has_image(outcome)}

    @property
    def failed(self) -> tuple[ImageOutcome, ...]:
        """What no image came of."""
        return tuple(outcome for outcome in self.outcomes if not _has_image(outcome))

    @property
    def digest(self) -> str:
        """Names these very images, so that no answer is ever taken for one about others."""
        each = [f"{number}:{_sha256_of(outcome)}" for number, outcome in self.candidates.items()]
        return hashlib.sha256(" ".join(each).encode()).hexdigest()[:12]

    @property
    def form(self) -> type[BaseModel]:
        """The fields that are answered: `image_1`, `note_1` and so on, and `reviewer`.

        No decision has a default, so that neither an empty answer nor a hasty click publishes anything.
        """
        decision: Any = Decision if self.may_regenerate else Literal["approve", "reject"]
        fields: dict[str, Any] = {}
        for number in self.candidates:
            fields[f"image_{number}"] = (decision, _field(len(fields), f"Image {number}", _HINTS[self.may_regenerate]))
            note = _field(len(fields), f"Note on image {number}", _NOTES[self.may_regenerate], "", _MAX_NOTE)
            fields[f"note_{number}"] = (str, note)
        fields["reviewer"] = (str, _field(len(fields), "Your name", "Kept with the decision. May be empty.", "", 100))
        return create_model("Review", __config__=ConfigDict(extra="forbid"), **fields)

    def description(self, deadline: datetime, *, title: str | None, show_prompts: bool) -> str:
        """The text of the dialog: the terms and a contact sheet whose numbers are those of the fields."""
        numbered = [replace(outcome, id=f"Image {number}") for number, outcome in enumerate(self.outcomes, 1)]
        sheet = contact_sheet_markdown(
            numbered, title=title, show_prompts=show_prompts, max_total_bytes=_MAX_SHEET_BYTES
        )
        return f"{self._terms(deadline)}\n\n{sheet}"

    def _terms(self, deadline: datetime) -> str:
        moment = f"{deadline.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
        terms = [f"Decide about each image by **{moment}**; {_CONSEQUENCES[self.on_timeout]}."]
        if self.may_regenerate:
            terms.append(f"**regenerate** draws a new image and **pays for it**{self._price()}.")
        return " ".join(terms)

    def _price(self) -> str:
        costs = [outcome.estimated_cost_usd for outcome in self.candidates.values() if outcome.estimated_cost_usd]
        return f", about ${max(costs):,.3f} each" if costs else ""

    def decided(self, answer: Mapping[str, Any]) -> Review:
        """The review that an answer makes.

        Raises:
            ValidationError: It does not answer this question.
        """
        said = self.form.model_validate(answer).model_dump()
        images = [
            ReviewedImage(
                number,
                outcome,
                said[f"image_{number}"],
                said[f"note_{number}"].strip(),
                reviewer=said["reviewer"].strip(),
            )
            for number, outcome in self.candidates.items()
        ]
        return Review(tuple(images), self.failed)

    def undecided(self) -> Review:
        """The review that the deadline makes."""
        decision: Decision = "approve" if self.on_timeout == "approve" else "reject"
        images = [
            ReviewedImage(number, outcome, decision, decided_by="timeout")
            for number, outcome in self.candidates.items()
        ]
        return Review(tuple(images), self.failed)

    def example(self) -> dict[str, str]:
        """An answer, for people who write one."""
        return {f"image_{number}": "approve" for number in self.candidates}


_CONSEQUENCES = {
    "reject": "after that all of them are rejected",
    "approve": "after that all of them are approved",
    "fail": "after that the run fails, and nothing is published",
}
_HINTS = {
    True: "approve publishes it, reject removes it, regenerate draws another one and pays for it.",
    False: "approve publishes it, reject removes it.",
}
_NOTES = {
    True: "With regenerate, what the new image should have; it is put below the prompt. Else for the log.",
    False: "For the log.",
}


def _field(position: int, title: str, description: str, default: Any = ..., max_length: int | None = None) -> Any:
    return Field(
        default, title=title, description=description, max_length=max_length, json_schema_extra={"position": position}
    )


def _has_image(outcome: ImageOutcome) -> bool:
    return outcome.ok or (outcome.status == "pending" and outcome.image is not None)


def _sha256_of(outcome: ImageOutcome) -> str:
    image = outcome.uploaded or outcome.image
    return image.sha256 if image else ""


def numbered_words(images: Iterable[ReviewedImage]) -> str:
    """The decisions on one line, for the log."""
    return "; ".join(f"image {image.number} {image.decision}" + _quoted(image.note) for image in images)


def _quoted(note: str) -> str:
    return f" ({' '.join(note.split())})" if note else ""
