"""A person decides about images, in Prefect's own resume dialog or through its API, while the run waits.

The question and its answer are kept as inputs of the flow run, under a key that names the very
images. So a run that is started again, after a suspension or after its process was killed, finds
what was decided and asks only what was not. Nothing here pays; what was paid is in the journal.
"""

import asyncio
import inspect
import json
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, get_args
from urllib.parse import urlsplit
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import Abort
from prefect.exceptions import Pause as Suspension

from n1n_prefect import events
from n1n_prefect.addresses import is_loopback
from n1n_prefect.artifacts import check_key
from n1n_prefect.blocks import S3Location
from n1n_prefect.contact_sheet import contact_sheet_markdown, without_gaps
from n1n_prefect.errors import InvalidRequestError, ReviewTimeoutError
from n1n_prefect.execution import require_block
from n1n_prefect.images import ANY_IMAGE
from n1n_prefect.outcomes import gather_outcomes
from n1n_prefect.review_deadlines import RUN_OUT, expiry_action, expiry_trigger
from n1n_prefect.review_record import ReviewRecord, outlasting_failures
from n1n_prefect.reviews import OnTimeout, Question, Review, WaitBy, numbered_words
from n1n_prefect.run_log import get_logger
from n1n_prefect.steps import Pause, arun, nothing_else, run

_LONGEST_WAIT = 365 * 86_400  # seconds; much more has no date any more
_LONGEST_LOOK = 10.0  # seconds between two looks at the run


def review_images(
    images: Iterable[object],
    *,
    timeout_seconds: float = 86_400,
    on_timeout: OnTimeout = "reject",
    wait: WaitBy = "pause",
    key: str = "review",
    title: str | None = "Which images shall be published?",
    may_regenerate: bool = True,
    show_prompts: bool = True,
) -> Review:
    """What a person decided about each image; the flow run waits for it. Call it in a flow.

    The run's page then has a Resume button, whose dialog shows the images. A program answers with
    `POST /flow_runs/{id}/resume` or `prefect.flow_runs.resume_flow_run(id, run_input={...})`:

    ```json
    {"run_input": {"approve": ["image 1"], "regenerate": ["image 3"], "note": "3: at night", "reviewer": "Ann"}}
    ```

    What is in neither list is rejected, so that `{"approve": []}` rejects all. Lines of the note that begin
    with a number and a colon are for that image, the others for all of them. Fields that are not used may
    be left out. An unknown field or image is refused with `status: REJECT` and a reason in a reply of 200,
    and the run goes on waiting. An answer without any field decides nothing, and neither does one that has
    an image in both lists: the run asks again. An artifact of the run shows the contact sheet as well.

    Where nothing can be decided, since no image came, nobody is asked. A run that is started again finds
    what was decided about the same images. The deadline is kept, too: once it has passed, its action
    is taken without asking again; but under `on_timeout="fail"` the next start asks anew.

    Args:
        images: Whatever `gather_outcomes` takes: uploads, outcomes or futures.
        timeout_seconds: How long to wait, from the first time this is asked in the run; at most a year.
        on_timeout: Then `reject` all, `approve` all, or `fail` with `ReviewTimeoutError`.
        wait: `pause` waits in this process. `suspend` ends it, and the flow runs again from the top once it is
            answered, for which it needs a deployment. When a suspended run's deadline passes, Prefect fails it;
            `review_deadline_automation` is what then starts it again, and `n1n-prefect resume` does, too.
        key: Tells several questions of a run apart: lower-case letters, digits and dashes.
        title: The heading of the contact sheet.
        may_regenerate: Whether an image may be sent back.
        show_prompts: Whether the first 80 characters of each prompt are shown.

    Raises:
        ReviewTimeoutError: Nobody decided in time, and `on_timeout` is `fail`.
        InvalidRequestError: The arguments are wrong, or this run cannot wait in this way.
    """
    asking = _asking(locals())
    return run(asking.steps(gather_outcomes(without_gaps(images))), lambda step: time.sleep(step.seconds))


async def areview_images(
    images: Iterable[object],
    *,
    timeout_seconds: float = 86_400,
    on_timeout: OnTimeout = "reject",
    wait: WaitBy = "pause",
    key: str = "review",
    title: str | None = "Which images shall be published?",
    may_regenerate: bool = True,
    show_prompts: bool = True,
) -> Review:
    """`review_images` for asynchronous flows, which may give it coroutines and asyncio tasks."""
    asking = _asking(locals())
    given = without_gaps(images)
    under_way = [asyncio.ensure_future(item) for item in given if inspect.isawaitable(item)]
    ended = iter(await asyncio.gather(*under_way, return_exceptions=True))
    items = [next(ended) if inspect.isawaitable(item) else item for item in given]
    outcomes = await asyncio.to_thread(gather_outcomes, items)
    return await arun(asking.steps(outcomes), nothing_else, lambda step: asyncio.sleep(step.seconds), (Pause,))


def check_review(pending: S3Location, published: S3Location, *, wait: WaitBy = "pause") -> None:
    """Refuses, before anything is paid, what could not be published or waited for in the end.

    Args:
        pending: Where images wait for a decision.
        published: Where approved images go.
        wait: How the run is going to wait.

    Raises:
        InvalidRequestError: Both are the same place, or this run cannot wait in this way.
    """
    require_block(pending, S3Location, "pending")
    require_block(published, S3Location, "published")
    places = [(_store_of(place), place.uri_of(place.key_for(ANY_IMAGE))) for place in (pending, published)]
    if places[0] == places[1]:
        raise InvalidRequestError(
            f"pending and published are the same place, s3://{published.bucket}/{published.prefix}: what is published "
            "would be cleaned away. Give pending a prefix of its own, such as pending/."
        )
    context = FlowRunContext.get()
    if context and context.flow_run:
        _check_waiting(context.flow_run, wait)


def _store_of(place: S3Location) -> str:
    """The store's endpoint, however it is spelt."""
    url = urlsplit(str(place.get_client().meta.endpoint_url).lower())
    host, port = url.hostname or "", url.port or {"https": 443, "http": 80}.get(url.scheme)
    host = "amazonaws.com" if host.endswith(".amazonaws.com") else host  # where names of buckets are one namespace
    host = "localhost" if is_loopback(host) else host
    return f"{host}:{port}{url.path.rstrip('/')}"


def _check_waiting(flow_run: FlowRun, wait: WaitBy) -> None:
    if wait == "suspend":
        _check_suspendable(flow_run)
    elif flow_run.deployment_id is not None and _is_limited(flow_run.deployment_id):
        raise InvalidRequestError(
            "The deployment has a concurrency_limit: Prefect takes its slot from a run that pauses, and ends the "
            "process some minutes later. Use wait='suspend', or a deployment without the limit."
        )


def _is_limited(deployment_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        return client.read_deployment(deployment_id).global_concurrency_limit is not None


def _check_suspendable(flow_run: FlowRun) -> None:
    if flow_run.parent_task_run_id is not None:
        raise InvalidRequestError("A subflow cannot be suspended; use wait='pause', or call it in the flow itself.")
    if flow_run.deployment_id is None:
        raise InvalidRequestError(
            "A run without a deployment cannot be suspended, since nothing would start it again; "
            "deploy or serve the flow, or use wait='pause'."
        )


def review_deadline_automation(
    flow_name: str = "approve-then-publish", *, name: str = "n1n: act on a review's deadline"
) -> Automation:
    """An automation that starts a suspended run again when nobody decided in time, so that `on_timeout` takes effect.

    Prefect fails such a run, and no process is left that could act. Create one for each flow that
    suspends: `review_deadline_automation("my-flow").create()`. A paused run needs none.

    Args:
        flow_name: The flow whose runs it starts again, by its name in Prefect. All of them that Prefect failed
            since their pause ran out are started, whoever paused them.
        name: The automation's name.
    """
    fields = {
        "name": name,
        "description": "Starts suspended runs again whose review nobody answered, so that on_timeout takes effect.",
        "trigger": expiry_trigger({"prefect.resource.role": "flow", "prefect.resource.name": flow_name}),
        "actions": [expiry_action()],
    }
    return Automation.model_validate(fields)


# ── one question, from the first look to the answer ──────────────────────────


def _asking(given: Mapping[str, Any]) -> "_Asking":
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or TaskRunContext.get():
        raise InvalidRequestError("A review makes a flow run wait; call it in a @flow, and not in a task.")
    for name, choices in (("on_timeout", get_args(OnTimeout)), ("wait", get_args(WaitBy))):
        if given[name] not in choices:
            raise InvalidRequestError(f"{name}={given[name]!r} is none of {', '.join(choices)}.")
    if not given["timeout_seconds"] > 0:
        raise InvalidRequestError(f"timeout_seconds={given['timeout_seconds']!r} is not more than 0.")
    if given["timeout_seconds"] > _LONGEST_WAIT:
        raise InvalidRequestError(
            f"timeout_seconds={given['timeout_seconds']!r} is too long; wait at most {_LONGEST_WAIT}, a year."
        )
    check_key(given["key"])
    _check_waiting(context.flow_run, given["wait"])
    return _Asking(context.flow_run, **{name: given[name] for name in _Asking.__dataclass_fields__ if name in given})


@dataclass(frozen=True)
class _Asking:
    flow_run: FlowRun
    timeout_seconds: float
    on_timeout: OnTimeout
    wait: WaitBy
    key: str
    title: str | None
    may_regenerate: bool
    show_prompts: bool

    def steps(self, outcomes: "list[Any]") -> Generator[Pause, None, Review]:
        """Finds what was decided, or asks and waits."""
        question = Question(tuple(outcomes), self.may_regenerate, self.on_timeout)
        if not question.candidates:
            return Review(failed=question.failed)
        with get_client(sync_client=True) as client:
            kept = ReviewRecord(client, self.flow_run, question, f"n1n-{self.key}").numbered()
            review = kept.decision() or (yield from self._ask(client, kept))
            if kept.once("told"):
                self._tell(review)
        return review

    def _ask(self, client: SyncPrefectClient, kept: ReviewRecord) -> Generator[Pause, None, Review]:
        deadline = kept.deadline()
        if deadline and deadline <= _now():
            if self.on_timeout != "fail" or kept.was_started_by_automation():
                return self._expired(kept)
            kept.forget_deadline()
            deadline = None
        deadline = deadline or kept.set_deadline(_now() + timedelta(seconds=self.timeout_seconds))
        self._show(client, kept.question)
        while True:
            state = kept.ask(self.wait, deadline, show_prompts=self.show_prompts)
            self._tell_asked(kept, deadline)
            if self.wait == "suspend":
                raise Suspension(state=state)
            review = yield from self._answer(kept, deadline)
            if review:
                return review

    def _answer(self, kept: ReviewRecord, deadline: datetime) -> Generator[Pause, None, Review | None]:
        """The decision, or None where somebody set the run going without one."""
        started = time.monotonic()
        while True:
            left = (deadline - _now()).total_seconds()
            with outlasting_failures():
                state = kept.state()
                if state and state.is_running():
                    return kept.decision() or (None if left > 0 else self._expired(kept))
                if left <= 0 or (state and state.is_failed() and state.message == RUN_OUT):
                    return kept.take_back() or self._expired(kept)
                if state and not state.is_paused():
                    raise Abort(f"The run is {state.name} and waits for no decision any more.")
            until_deadline = left + 0.05 if left > 0 else _LONGEST_LOOK
            yield Pause(min(max(1.0, (time.monotonic() - started) / 20), _LONGEST_LOOK, until_deadline))

    def _expired(self, kept: ReviewRecord) -> Review:
        if self.on_timeout == "fail":
            raise ReviewTimeoutError(
                f"Nobody decided about the images within {self.timeout_seconds:g} seconds. They are paid for and kept; "
                f"to be asked again without paying again: n1n-prefect resume {self.flow_run.id}"
            )
        # That somebody's answer was no decision does not make it a consent.
        question = replace(kept.question, on_timeout="reject") if kept.was_answered() else kept.question
        return question.undecided()

    def _show(self, client: SyncPrefectClient, question: Question) -> None:
        markdown = contact_sheet_markdown(question.numbered, title=self.title, show_prompts=self.show_prompts)
        artifact = ArtifactCreate(
            type="markdown", key=f"n1n-{self.key}", data=markdown, flow_run_id=self.flow_run.id,
            description="What is to be decided: press Resume on the run's page.",
        )  # fmt: skip
        client.create_artifact(artifact)

    def _tell_asked(self, kept: ReviewRecord, deadline: datetime) -> None:
        question = kept.question
        get_logger().info(
            "Waiting until %s for a decision (images: %d); then on_timeout=%r. Press Resume on the run's page, or "
            "POST /flow_runs/%s/resume %s",
            deadline.isoformat(timespec="seconds"), len(question.candidates), self.on_timeout, self.flow_run.id,
            json.dumps({"run_input": question.example()}),
        )  # fmt: skip
        costs = [outcome.estimated_cost_usd or 0.0 for outcome in question.candidates.values()]
        events.emit_review(
            "requested",
            self.key,
            {
                "images": len(question.candidates),
                "failed": len(question.failed),
                "deadline": deadline.isoformat(timespec="seconds"),
                "on_timeout": self.on_timeout,
                "wait": self.wait,
                "estimated_cost_usd": round(sum(costs), 6),
            },
        )

    def _tell(self, review: Review) -> None:
        first = review.images[0]
        who = f"{first.reviewer or 'A person'} decided" if first.decided_by == "person" else "Nobody decided in time"
        get_logger().info("%s: %s", who, numbered_words(review.images))
        events.emit_review(
            "decided",
            self.key,
            {
                "approved": len(review.approved),
                "rejected": len(review.rejected),
                "to_regenerate": len(review.to_regenerate),
                "decided_by": first.decided_by,
                "reviewer": first.reviewer,
            },
        )


def _now() -> datetime:
    return datetime.now(timezone.utc)
