"""What a run shows of its images while it goes on: the contact sheet as an artifact of Prefect's."""

import asyncio
import inspect
import re
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.utilities.context import get_task_and_flow_run_ids

from n1n_prefect.contact_sheet import contact_sheet_markdown, without_gaps
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageOutcome
from n1n_prefect.outcomes import gather_outcomes, is_under_way, outcomes_so_far
from n1n_prefect.steps import arun, run
from n1n_prefect.telemetry import emit_report
from n1n_prefect.totals import Totals

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
    far, anew every 10 seconds. The event `n1n.run.reported` goes with it, with the run's sums and
    its estimated cost. It takes about a second of CPU for 24 large PNG images. An image that cannot
    be read any more makes a row that says so, not an error.

    Args:
        outcomes: What to show, as for `contact_sheet_markdown`.
        key: The artifact's key: lower-case letters, digits and dashes. Each call adds a version.
        title: A heading.
        description: Shown beside the artifact, as Markdown.
        show_prompts: Whether the first 80 characters of each prompt are shown.

    Raises:
        InvalidRequestError: The key is not one, or this is outside of any run.
    """
    sheet = _Sheet(without_gaps(outcomes), key, title, description, show_prompts)
    with SyncClientContext.get_or_create() as context:

        def do(step: "_Wait | _Put") -> UUID | None:
            if isinstance(step, _Wait):
                return time.sleep(step.seconds)
            if step.id is None:
                return context.client.create_artifact(step.artifact).id
            context.client.update_artifact(step.id, step.change)
            return step.id

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

        async def do(step: "_Wait | _Put") -> UUID | None:
            if isinstance(step, _Wait):
                return await asyncio.sleep(step.seconds)
            if step.id is None:
                return (await context.client.create_artifact(step.artifact)).id
            await context.client.update_artifact(step.id, step.change)
            return step.id

        return await arun(sheet.steps(), _nothing_else, do, (_Wait, _Put))


# ── one sheet, from its first look to its last ───────────────────────────────


@dataclass(frozen=True)
class _Wait:
    seconds: float


@dataclass(frozen=True)
class _Put:
    """Create the artifact, or change the one of that id; answered with its id."""

    artifact: ArtifactCreate
    id: UUID | None

    @property
    def change(self) -> ArtifactUpdate:
        return ArtifactUpdate(data=self.artifact.data)


def _nothing_else(step: object) -> None:
    raise TypeError(step)


@dataclass(frozen=True)
class _Sheet:
    items: list[object]
    key: str
    title: str | None
    description: str | None
    show_prompts: bool

    def steps(self) -> Generator[Any, Any, UUID]:
        """Shows what there is every few seconds, until all items have ended."""
        ids = self._run_ids()
        id: UUID | None = None  # noqa: A001 - the artifact's
        due = time.monotonic() + _REFRESH_SECONDS
        while any(map(is_under_way, self.items)):
            yield _Wait(_LOOK_SECONDS)
            if time.monotonic() >= due:
                id = yield _Put(self._artifact(outcomes_so_far(self.items), ids), id)  # noqa: A001
                due = time.monotonic() + _REFRESH_SECONDS
        ended = gather_outcomes(self.items)
        made: UUID = yield _Put(self._artifact(ended, ids), id)
        emit_report(Totals.of(ended))
        return made

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
            description=self.description,
            data=contact_sheet_markdown(outcomes, title=self.title, show_prompts=self.show_prompts),
            task_run_id=ids[0],
            flow_run_id=ids[1],
        )


def check_key(key: str) -> None:
    """Refuses what cannot be an artifact's key."""
    if not re.fullmatch("[a-z0-9-]+", key):
        better = re.sub("[^a-z0-9]+", "-", key.lower()).strip("-") or "n1n-contact-sheet"
        raise InvalidRequestError(
            f"key={key!r} cannot be an artifact's key, which has lower-case letters, digits and dashes; use {better!r}."
        )
