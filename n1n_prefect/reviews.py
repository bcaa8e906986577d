"""What a person is asked about images, and what they said: pure values, a form, and the words around it."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from pydantic.dataclasses import dataclass

from n1n_prefect.contact_sheet import dialog_markdown
from n1n_prefect.images import ImageOutcome, ImageRequest, UploadedImage
from n1n_prefect.outcomes import has_image
from n1n_prefect.totals import image_of

Decision = Literal["approve", "reject", "regenerate"]
OnTimeout = Literal["reject", "approve", "fail"]
WaitBy = Literal["pause", "suspend"]

_MAX_SHEET_BYTES = 250_000  # 267 KB of a description were stored and shown
_MAX_NOTE = 2_000  # characters

# ── what was decided ─────────────────────────────────────────────────────────


# Most who import us review nothing, so that their schemas are built when they are first needed.
_LATER = ConfigDict(defer_build=True)


@dataclass(frozen=True, config=_LATER)
class ReviewedImage:
    """One image, and what was decided about it."""

    number: int
    """Its number in the dialog, which no other image of the run has, so that an answer is never about another."""

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

    place: int = 0
    """Its place among what was handed over, from 0."""

    @property
    def uploaded(self) -> UploadedImage | None:
        """The object in S3, if it was uploaded before the review."""
        return self.outcome.uploaded

    @property
    def set_aside(self) -> ImageOutcome:
        """The image as a row of a report, rejected for this reason; without its object, which is to be discarded."""
        verb = "Rejected" if self.decision == "reject" else "Sent back to be drawn anew"
        who = " since nobody decided in time" if self.decided_by == "timeout" else ""
        who = f" by {self.reviewer}" if self.reviewer else who
        reason = f"{verb}{who}" + (f": {self.note}" if self.note else ".")
        return replace(self.outcome, status="rejected", reason=reason, image=image_of(self.outcome), uploaded=None)


@dataclass(frozen=True, config=_LATER)
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
        again = [(requests[image.place], image.note) for image in self.to_regenerate]
        return [
            replace(request, prompt=f"{request.prompt}\n\n{note}" if note else request.prompt, sample=fresh + place)
            for place, (request, note) in enumerate(again)
        ]

    def __add__(self, other: "Review") -> "Review":
        return Review(self.images + other.images, self.failed + other.failed)


# ── what is asked ────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Question:
    """Images to decide about, and the terms."""

    outcomes: tuple[ImageOutcome, ...]
    """Everything that was handed over, in order."""

    may_regenerate: bool
    """Whether an image may be sent back to be drawn anew."""

    on_timeout: OnTimeout
    """What happens when nobody decides in time."""

    first: int = 1
    """The number of the first of them; those of later questions go on, and an answer to an earlier one is refused."""

    @property
    def by_number(self) -> dict[int, ImageOutcome]:
        """Everything, by number."""
        return dict(enumerate(self.outcomes, self.first))

    @property
    def candidates(self) -> dict[int, ImageOutcome]:
        """What there is to decide about, by number."""
        return {number: outcome for number, outcome in self.by_number.items() if has_image(outcome)}

    @property
    def numbered(self) -> list[ImageOutcome]:
        """Everything, named by its number."""
        return [replace(outcome, id=f"Image {number}") for number, outcome in self.by_number.items()]

    @property
    def failed(self) -> tuple[ImageOutcome, ...]:
        """What no image came of."""
        return tuple(outcome for outcome in self.outcomes if not has_image(outcome))

    @property
    def digest(self) -> str:
        """Names these very images and what was asked for, so that no answer is ever taken for one about others."""
        each = [f"{place}:{_identity_of(outcome)}" for place, outcome in enumerate(self.outcomes) if has_image(outcome)]
        return hashlib.sha256(" ".join(each).encode()).hexdigest()[:12]

    @property
    def form(self) -> type[BaseModel]:
        """What is answered: lists of images, a note and a name; as few fields whatever the number of images.

        Prefect's older UI gives the pictures only the room that the fields leave. Nothing is
        approved beforehand, so that a hasty click publishes nothing.
        """
        labels = [_label(number) for number in self.candidates]
        # Said by hand: a single choice would become a constant, of which Prefect's pages make no list.
        some: Any = list[Annotated[Literal[tuple(labels)], WithJsonSchema({"type": "string", "enum": labels})]]
        fields: dict[str, Any] = {"approve": (some, Field([], title="Approve", description="These are published."))}
        if self.may_regenerate:
            fields["regenerate"] = (some, Field([], title="Regenerate", description=_AGAIN.format(self._price())))
        fields["note"] = (str, Field("", title="Note", description=_NOTE, max_length=_MAX_NOTE))
        fields["reviewer"] = (str, Field("", title="Your name", max_length=100))
        return create_model("Review", __config__=ConfigDict(extra="forbid"), **fields)

    def description(self, deadline: datetime, *, objection: str = "", show_prompts: bool = True) -> str:
        """The text of the dialog: what the button does, until when, and the images by the fields' numbers.

        Args:
            deadline: Until when it waits.
            objection: Why an earlier answer was no decision.
            show_prompts: Whether the first 80 characters of the prompt are shown.
        """
        moment = f"{deadline.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
        again = " draws those under **Regenerate** anew and pays for them," if self.may_regenerate else ""
        terms = f"This publishes the images under **Approve**,{again} and rejects the rest."
        late = f"Nobody by {moment}: {_CONSEQUENCES[self.on_timeout]}."
        sheet = dialog_markdown(self.by_number, show_prompts=show_prompts, max_total_bytes=_MAX_SHEET_BYTES)
        return "\n\n".join(filter(None, (objection and f"**Asked again.** {objection}", terms, late, sheet)))

    def _price(self) -> str:
        costs = [outcome.estimated_cost_usd for outcome in self.candidates.values() if outcome.estimated_cost_usd]
        return f", about ${max(costs):,.3f} each" if costs else ""

    def decided(self, answer: Mapping[str, Any]) -> Review:
        """The review that an answer makes.

        Raises:
            ValueError: It is no answer to this question; says why.
        """
        said = self.form.model_validate(answer).model_dump()
        approved, again = set(said["approve"]), set(said.get("regenerate", ()))
        if both := sorted(approved & again):
            raise ValueError(f"{', '.join(both)}: under both Approve and Regenerate; choose one of them.")
        notes = _notes(said["note"], self.candidates)
        images = [
            ReviewedImage(
                number,
                outcome,
                "approve" if _label(number) in approved else "regenerate" if _label(number) in again else "reject",
                notes[number],
                reviewer=" ".join(said["reviewer"].split()),
                place=number - self.first,
            )
            for number, outcome in self.candidates.items()
        ]
        return Review(tuple(images), self.failed)

    def undecided(self) -> Review:
        """The review that the deadline makes."""
        decision: Decision = "approve" if self.on_timeout == "approve" else "reject"
        images = [
            ReviewedImage(number, outcome, decision, decided_by="timeout", place=number - self.first)
            for number, outcome in self.candidates.items()
        ]
        return Review(tuple(images), self.failed)

    def example(self) -> dict[str, Any]:
        """An answer, for people who write one."""
        return {"approve": [_label(min(self.candidates))]}


_CONSEQUENCES = {
    "reject": "all of them are rejected",
    "approve": "all of them are published",
    "fail": "the run fails, and nothing is published",
}
_AGAIN = "These are drawn anew by the note, and paid for{}. The rest is rejected."
_NOTE = "A line such as 2: at night is for image 2; other lines are for all of them."
_FOR_ONE = re.compile(r"\s*(?:image\s+)?(\d+)\s*:(?!\d)\s*", re.IGNORECASE)


def _label(number: int) -> str:
    return f"image {number}"


def _notes(text: str, numbers: Iterable[int]) -> dict[int, str]:
    """The note for each image: the lines that begin with its number, and those that begin with none.

    Raises:
        ValueError: A line is for an image that there is not.
    """
    notes: dict[int, list[str]] = {number: [] for number in numbers}
    for line in text.splitlines():
        named = _FOR_ONE.match(line)
        if named and int(named[1]) not in notes:
            raise ValueError(f"The note has a line for image {named[1]}, and there are images {_listed(notes)}.")
        for lines in [notes[int(named[1])]] if named else notes.values():
            lines.append(line[named.end() :] if named else line)
    return {number: "\n".join(lines).strip() for number, lines in notes.items()}


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _identity_of(outcome: ImageOutcome) -> str:
    image = outcome.uploaded or outcome.image
    return f"{image.sha256}:{image.request_key}" if image else ""


def numbered_words(images: Iterable[ReviewedImage]) -> str:
    """The decisions on one line, for the log."""
    return "; ".join(f"image {image.number} {image.decision}" + _quoted(image.note) for image in images)


def _quoted(note: str) -> str:
    return f" ({' '.join(note.split())})" if note else ""
