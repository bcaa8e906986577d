"""What a run shows of its images while it goes on: the contact sheet, progress, and labels and tags in the end."""

import asyncio
import inspect
import re
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.utilities.context import get_task_and_flow_run_ids

from n1n_prefect.contact_sheet import contact_sheet_markdown, without_gaps
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.events import emit_report
from n1n_prefect.images import ImageOutcome
from n1n_prefect.outcomes import gather_outcomes, is_under_way, outcomes_so_far
from n1n_prefect.run_log import get_logger
from n1n_prefect.steps import Pause, arun, nothing_else, run
from n1n_prefect.totals import Totals, image_of

_REFRESH_SECONDS = 10.0
_LOOK_SECONDS = 0.05


def create_contact_sheet_artifact(
    outcomes: Iterable[object] | None,
    key: str = "n1n-contact-sheet",
    *,
    title: str | None = None,
    description: str | None = None,
    show_prompts: bool = True,
) -> UUID:
    """The id of a new Markdown artifact of this run, with a picture of each image.

    Call it in a flow. Given futures, it waits for them, and on a long run shows what has come so
    far, anew every 10 seconds, with a progress artifact beside it whose key ends in `-progress`. In the
    end the flow run gets a tag for each model, such as `model:gemini-2.5-flash-image`, and the labels `n1n.model`,
    `n1n.images`, `n1n.failed`, `n1n.reused`, `n1n.estimated_cost_usd`, `n1n.unpriced`,
    `n1n.charged_without_image` and `n1n.possible_duplicates`; the event `n1n.run.reported` says the same. It takes
    about a second of CPU for 24 large PNG images. An image that cannot be read any more makes a row
    that says so, not an error.

    Args:
        outcomes: What to show, as for `contact_sheet_markdown`.
        key: The artifact's key: lower-case letters, digits and dashes. Each call adds a version.
        title: A heading.
        description: Shown beside the artifact, as Markdown; the run's sums in words, if not given.
        show_prompts: Whether the first 80 characters of each prompt are shown.

    Raises:
        InvalidRequestError: The key is not one, or this is outside of any run.
    """
    sheet = _Sheet(without_gaps(outcomes), key, title, description, show_prompts)
    with SyncClientContext.get_or_create() as context:

        def do(step: "Pause | _Create | _Change | _Mark") -> UUID | None:
            client = context.client
            match step:
                case Pause(seconds):
                    return time.sleep(seconds)
                case _Create(artifact):
                    return client.create_artifact(artifact).id
                case _Change(known, change):
                    client.update_artifact(known, change)
                case _Mark(run_id, labels, tags):
                    with _unharmed("The flow run got no labels and tags."):
                        client.update_flow_run_labels(run_id, labels)
                        own = client.read_flow_run(run_id).tags
                        if not tags <= {*own}:
                            client.update_flow_run(run_id, tags=[*own, *sorted(tags - {*own})])
            return None

        return run(sheet.steps(), do)


async def acreate_contact_sheet_artifact(
    outcomes: Iterable[object] | None,
    key: str = "n1n-contact-sheet",
    *,
    title: str | None = None,
    description: str | None = None,
    show_prompts: bool = True,
) -> UUID:
    """`create_contact_sheet_artifact` for asynchronous flows, which may give it coroutines and asyncio tasks.

    Pictures are made in a thread. A task's error is a row here, and is raised where you await the task.
    """
    given = without_gaps(outcomes)
    items = [asyncio.ensure_future(item) if inspect.isawaitable(item) else item for item in given]
    sheet = _Sheet(items, key, title, description, show_prompts)
    async with AsyncClientContext.get_or_create() as context:

        async def do(step: "Pause | _Create | _Change | _Mark") -> UUID | None:
            client = context.client
            match step:
                case Pause(seconds):
                    return await asyncio.sleep(seconds)
                case _Create(artifact):
                    return (await client.create_artifact(artifact)).id
                case _Change(known, change):
                    await client.update_artifact(known, change)
                case _Mark(run_id, labels, tags):
                    with _unharmed("The flow run got no labels and tags."):
                        await client.update_flow_run_labels(run_id, labels)
                        own = (await client.read_flow_run(run_id)).tags
                        if not tags <= {*own}:
                            await client.update_flow_run(run_id, tags=[*own, *sorted(tags - {*own})])
            return None

        return await arun(sheet.steps(), nothing_else, do, (Pause, _Create, _Change, _Mark))


# ── one sheet, from its first look to its last ───────────────────────────────


@dataclass(frozen=True)
class _Create:
    """Create an artifact; answered with its id."""

    artifact: ArtifactCreate


@dataclass(frozen=True)
class _Change:
    """Change an artifact."""

    id: UUID
    change: ArtifactUpdate


@dataclass(frozen=True)
class _Mark:
    """Give the flow run these labels, and these tags beside its own."""

    flow_run_id: UUID
    labels: dict[str, str | int | float | bool]
    tags: set[str]


@contextmanager
def _unharmed(lost: str) -> Generator[None]:
    """Says at DEBUG what could not be shown: a run without that is as good as another, and its images go on."""
    try:
        yield
    except Exception:  # noqa: BLE001
        get_logger().debug("%s", lost, exc_info=True)


@dataclass(frozen=True)
class _Sheet:
    items: list[object]
    key: str
    title: str | None
    description: str | None
    show_prompts: bool

    def steps(self) -> Generator[Any, Any, UUID]:
        """Shows what there is every few seconds, until all items have ended; only the last sheet may fail."""
        ids = self._run_ids()
        sheet: UUID | None = None
        progress: UUID | None = None
        due = time.monotonic() + _REFRESH_SECONDS
        while any(map(is_under_way, self.items)):
            yield Pause(_LOOK_SECONDS)
            if time.monotonic() >= due:
                with _unharmed("The contact sheet was not refreshed."):
                    sheet = yield from self._put(self._artifact(outcomes_so_far(self.items), ids), sheet)
                with _unharmed("Progress was not shown."):
                    progress = yield from self._put(self._progress(ids), progress)
                due = time.monotonic() + _REFRESH_SECONDS
        ended = gather_outcomes(self.items)
        made = yield from self._put(self._artifact(ended, ids), sheet)
        if progress is not None:
            with _unharmed("Progress was not shown."):
                yield from self._put(self._progress(ids), progress)
        totals = Totals.of(ended)
        if ids[1] is not None:
            yield _Mark(ids[1], _labels(totals, ended), {f"model:{model}" for model in _models(ended)})
        emit_report(totals)
        return made

    def _put(self, artifact: ArtifactCreate, id: UUID | None) -> Generator[Any, Any, UUID]:  # noqa: A002
        """Creates the artifact, or changes the one of that id."""
        if id is None:
            return (yield _Create(artifact))
        yield _Change(id, ArtifactUpdate(data=artifact.data, description=artifact.description))
        return id

    def _run_ids(self) -> tuple[UUID | None, UUID | None]:
        check_key(self.key)
        task_run_id, flow_run_id = get_task_and_flow_run_ids()
        if not (task_run_id or flow_run_id):
            raise InvalidRequestError(
                "An artifact belongs to a run, and this is outside of any. Call it in a @flow, "
                "or save what contact_sheet_markdown(outcomes) gives."
            )
        return task_run_id, flow_run_id

    def _artifact(self, outcomes: list[ImageOutcome], ids: tuple[UUID | None, UUID | None]) -> ArtifactCreate:
        return ArtifactCreate(
            type="markdown",
            key=self.key,
            description=self.description or str(Totals.of(outcomes)),
            data=contact_sheet_markdown(outcomes, title=self.title, show_prompts=self.show_prompts),
            task_run_id=ids[0],
            flow_run_id=ids[1],
        )

    def _progress(self, ids: tuple[UUID | None, UUID | None]) -> ArtifactCreate:
        """How much has ended, in per cent."""
        ended = sum(not is_under_way(item) for item in self.items)
        return ArtifactCreate(
            type="progress",
            key=f"{self.key}-progress",
            description=f"{ended:,} of {len(self.items):,} images have ended.",
            data=round(100 * ended / max(len(self.items), 1), 1),
            task_run_id=ids[0],
            flow_run_id=ids[1],
        )


# ── what the run is marked with ──────────────────────────────────────────────

_MOST_MODELS = 5


def _models(outcomes: Iterable[ImageOutcome]) -> list[str]:
    """The models that were asked, most used first; some, where there are many."""
    images = ((outcome, image_of(outcome)) for outcome in outcomes)
    asked = Counter(_printable(image.model if image else outcome.model) for outcome, image in images)
    asked.pop("", None)
    return [model for model, _ in asked.most_common(_MOST_MODELS)]


def _printable(model: str) -> str:
    return "".join(filter(str.isprintable, model))[:80].strip()


def _labels(totals: Totals, outcomes: Iterable[ImageOutcome]) -> dict[str, str | int | float | bool]:
    return {
        "n1n.model": ", ".join(_models(outcomes)),
        "n1n.images": totals.images,
        "n1n.failed": totals.failed,
        "n1n.reused": totals.reused,
        "n1n.estimated_cost_usd": totals.estimated_cost_usd,
        "n1n.unpriced": totals.unpriced,
        "n1n.charged_without_image": totals.charged_without_image,
        "n1n.possible_duplicates": totals.possible_duplicates,
    }


def check_key(key: str) -> None:
    """Refuses what cannot be an artifact's key."""
    if not re.fullmatch("[a-z0-9-]+", key):
        better = re.sub("[^a-z0-9]+", "-", key.lower()).strip("-") or "n1n-contact-sheet"
        raise InvalidRequestError(
            f"key={key!r} cannot be an artifact's key, which has lower-case letters, digits and dashes; use {better!r}."
        )
