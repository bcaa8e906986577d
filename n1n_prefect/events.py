"""Prefect events about images and runs, for automations and for whoever watches.

| Event | When | Payload beside `model` |
|---|---|---|
| `n1n.image.generated` | an image was paid for and is staged | file, answer |
| `n1n.image.reused` | it was paid for earlier; nothing was paid now | file, answer |
| `n1n.image.refused` | prompt or image refused on grounds of content | failure |
| `n1n.image.no_image` | an answer without an image | failure |
| `n1n.image.invalid` | the image is not what was asked for | failure, file, answer |
| `n1n.image.unknown_outcome` | sent, and the answer was lost | failure |
| `n1n.image.failed` | anything else; `n1n.error` says what | failure, and file where there is one |
| `n1n.image.uploaded` | an object was written to S3 | file, answer, `etag`, `version_id` |
| `n1n.image.already_there` | it was there already | the same |
| `n1n.run.reported` | a contact sheet was finished | the fields of `Totals` |
| `n1n.batch.chunk` | a chunk of a batch ended | the fields of `ChunkReport`, `first_failures` |
| `n1n.batch.finished` | a batch ended, or stopped | counts, cost, addresses of its tables |
| `n1n.review.requested` | a run waits for a person | counts, `deadline`, `on_timeout`, `wait` |
| `n1n.review.decided` | it was answered, or nobody was in time | counts, `decided_by`, `reviewer` |

*File* is `uri`, `sha256`, `width`, `height`, `size_bytes`, `media_type`, `estimated_cost_usd`; *answer* is `charged`,
`model_version`, `request_id`, `finish_reason`, `possible_duplicates`; *failure* is `error`, `reason`, `charged`,
`status_code`, `code`, `finish_reason`, `request_id`, `possible_duplicates`. What is not known is left out.

The resource of an image's events is `n1n.image.<request key>`, and automations match its labels:
`n1n.model`; `n1n.charged`, which is `no`, `yes` or `unknown`; and for failures `n1n.error`, the class, such as
`QuotaError`, and `n1n.final`, which is `false` where Prefect will try again. The resource of a run's event is
`n1n.run.<flow run id>` with the labels `n1n.images`, `n1n.failed`, `n1n.over_budget` and `n1n.possible_duplicates`.

Related to every event are the flow run, flow, task run, deployment, work pool and tags, as for Prefect's own: so
an automation pauses the deployment that a `BudgetExceededError` came from. No event holds a prompt, what a model
said, or a secret; a payload has 2 kB at most; and none can fail a run.
"""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from threading import Lock
from typing import Any, Literal
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event, RelatedResource, emit_event

from n1n_prefect import errors
from n1n_prefect.errors import N1nError, charged_in_all, cut, words_of
from n1n_prefect.images import GeneratedImage, UploadedImage
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings
from n1n_prefect.totals import Totals

EventKind = Literal[
    "generated", "reused", "refused", "no_image", "invalid", "unknown_outcome", "uploaded", "already_there", "failed"
]
"""What can happen to an image; `validated` is not among them, since `uploaded` says it."""

_KINDS: dict[type[BaseException], EventKind] = {
    errors.RefusedError: "refused",
    errors.NoImageError: "no_image",
    errors.ImageValidationError: "invalid",
    errors.OutcomeUnknownError: "unknown_outcome",
}

_MAX_PAYLOAD_BYTES = 2000
_MAX_URI_BYTES = 1100  # an S3 key of 1,024 bytes, and its bucket
_MAX_NAME_BYTES = 64


def kind_of(error: BaseException) -> EventKind:
    """What an error means for its image."""
    found: list[EventKind] = [kind for known, kind in _KINDS.items() if isinstance(error, known)]
    return found[0] if found else "failed"


def emit(
    kind: EventKind,
    *,
    image: GeneratedImage | None = None,
    uploaded: UploadedImage | None = None,
    error: BaseException | None = None,
    request_key: str = "",
    model: str = "",
    is_final: bool = True,
) -> None:
    """Tells Prefect what happened to one image, as the event `n1n.image.<kind>`.

    Outside of a run, and where `emit_events` is switched off, nothing happens.

    Args:
        kind: What happened.
        image: The image it happened to.
        uploaded: Where the image went.
        error: Why it failed.
        request_key: The paid request's identity, where neither image nor error knows it.
        model: The model that was asked, where the image does not know it.
        is_final: Whether Prefect will not try again what failed.
    """
    if not is_in_run():
        return
    try:
        if settings().emit_events:
            facts = _small(_facts(image, uploaded, error) | _given(model=model))
            key = request_key or _key_of(image, uploaded, error)
            ending = {"n1n.final": str(is_final).lower()} if error is not None else {}
            send(f"n1n.image.{kind}", _resource(key, facts) | ending, facts)
    except Exception:  # noqa: BLE001  watching an image must not lose it
        get_logger().debug("No event was emitted for %r.", kind, exc_info=True)


def emit_report(totals: Totals) -> None:
    """Tells Prefect what the current run came to, as the event `n1n.run.reported`.

    Outside of a flow run, and where `emit_events` is switched off, nothing happens.
    """
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if run is None:
        return
    try:
        if settings().emit_events:
            resource = {
                "prefect.resource.id": f"n1n.run.{run.id}",
                "prefect.resource.name": run.name,
                "n1n.images": str(totals.images),
                "n1n.failed": str(totals.failed),
                "n1n.over_budget": str(totals.by_status.get("over_budget", 0)),
                "n1n.possible_duplicates": str(totals.possible_duplicates),
            }
            send("n1n.run.reported", resource, dataclasses.asdict(totals))  # pyright: ignore[reportArgumentType]
    except Exception:  # noqa: BLE001  watching a run must not lose it
        get_logger().debug("No event was emitted for the report.", exc_info=True)


def emit_review(kind: Literal["requested", "decided"], key: str, facts: Mapping[str, object]) -> None:
    """Tells Prefect that the current run waits for a person, or was answered, as `n1n.review.<kind>`.

    The resource is `n1n.review.<flow run id>.<key>`. Outside of a flow run, and where `emit_events` is
    switched off, nothing happens.

    Args:
        kind: What happened.
        key: Which of the run's reviews.
        facts: The payload: small values, and no words of a prompt or a note.
    """
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if run is None:
        return
    try:
        if settings().emit_events:
            resource = {"prefect.resource.id": f"n1n.review.{run.id}.{key}", "prefect.resource.name": run.name}
            payload = {
                name: cut(fact, _MAX_NAME_BYTES) if isinstance(fact, str) else fact for name, fact in facts.items()
            }
            send(f"n1n.review.{kind}", resource, payload)
    except Exception:  # noqa: BLE001  watching a run must not lose it
        get_logger().debug("No event was emitted for the review.", exc_info=True)


def emit_batch(kind: Literal["chunk", "finished"], batch_id: str, facts: Mapping[str, object]) -> None:
    """Tells Prefect what a chunk of a batch, or the whole of it, came to, as the event `n1n.batch.<kind>`.

    The resource is `n1n.batch.<batch id>`. Outside of a run, and where `emit_events` is switched off, nothing
    happens.

    Args:
        kind: Whether it is about a chunk or the whole.
        batch_id: The batch.
        facts: The payload: small values, and no words of a prompt.
    """
    if not is_in_run():
        return
    try:
        if settings().emit_events:
            resource = {"prefect.resource.id": f"n1n.batch.{batch_id}", "prefect.resource.name": batch_id}
            send(f"n1n.batch.{kind}", resource, dict(facts))
    except Exception:  # noqa: BLE001  watching a batch must not lose it
        get_logger().debug("No event was emitted for the batch.", exc_info=True)


def is_in_run() -> bool:
    """Whether there is a run that an event could be about, and whoever carries it out wants one for each image."""
    return not _held_back.get() and bool(TaskRunContext.get() or FlowRunContext.get())


@contextmanager
def held_back() -> Generator[None]:
    """Nothing is emitted for a single image within, or told of as an asset: one event tells of many images."""
    token = _held_back.set(True)
    try:
        yield
    finally:
        _held_back.reset(token)


_held_back: ContextVar[bool] = ContextVar("n1n_prefect_held_back", default=False)


# ── what is said ─────────────────────────────────────────────────────────────


def _key_of(*sources: object) -> str:
    return next((key for source in sources if (key := str(getattr(source, "request_key", "")))), "unknown")


def _resource(request_key: str, facts: Mapping[str, object]) -> dict[str, str]:
    model = str(facts.get("model", ""))
    labels = {
        "prefect.resource.id": f"n1n.image.{cut(request_key, _MAX_NAME_BYTES)}",
        "prefect.resource.name": f"{model or 'image'} {request_key[:12]}",
        "n1n.model": model,
        "n1n.charged": str(facts.get("charged", "")),
        "n1n.error": str(facts.get("error", "")),
    }
    return {name: label for name, label in labels.items() if label}


def _facts(
    image: GeneratedImage | None, uploaded: UploadedImage | None, error: BaseException | None
) -> dict[str, object]:
    """What is known, in small values; the object in S3 is a better address than the staged original."""
    facts: dict[str, object] = {}
    if error is not None:
        facts |= _failure(error)
    if image is not None:
        facts |= _answer(image) | _file(image)
    if uploaded is not None:
        facts |= _file(uploaded) | _given(etag=uploaded.etag, version_id=uploaded.version_id)
    return facts


def _small(facts: dict[str, object]) -> dict[str, object]:
    """The facts without the long ones that would make them a big event."""
    for name in ("uri", "reason"):
        if len(json.dumps(facts, ensure_ascii=False).encode()) > _MAX_PAYLOAD_BYTES:
            facts.pop(name, None)
    return facts


def _file(image: GeneratedImage | UploadedImage) -> dict[str, object]:
    return {
        "uri": cut(image.uri, _MAX_URI_BYTES),
        "sha256": cut(image.sha256, _MAX_NAME_BYTES),
        "width": image.width,
        "height": image.height,
        "size_bytes": image.size_bytes,
        **_given(media_type=image.media_type, model=image.model, estimated_cost_usd=image.estimated_cost_usd),
    }


def _answer(image: GeneratedImage) -> dict[str, object]:
    return {
        "charged": "no" if image.reused else "yes",
        **_given(
            model_version=image.model_version,
            request_id=image.request_id,
            finish_reason=image.finish_reason,
            possible_duplicates=image.possible_duplicates or None,
        ),
    }


def _failure(error: BaseException) -> dict[str, object]:
    facts: dict[str, object] = {"error": type(error).__name__, "reason": words_of(error)}
    if isinstance(error, N1nError):
        facts |= _given(
            charged=charged_in_all(error),
            status_code=error.status_code,
            code=error.code,
            finish_reason=error.finish_reason,
            request_id=error.request_id,
            possible_duplicates=error.possible_duplicates or None,
        )
    return facts


def _given(**values: str | float | None) -> dict[str, object]:
    """The values that are known, words cut to a name's length."""
    return {
        name: cut(value, _MAX_NAME_BYTES) if isinstance(value, str) else value
        for name, value in values.items()
        if value not in (None, "")
    }


# ── how it is sent ───────────────────────────────────────────────────────────


def send(
    event: str,
    resource: dict[str, str],
    payload: dict[str, Any] | None = None,
    involved: Sequence[RelatedResource] = (),
) -> None:
    """Emits an event that names the run, its flow, deployment, work pool and tags, as every event in a run does.

    Args:
        event: Its name.
        resource: What it is about.
        payload: What is said of it.
        involved: What else is related, beside the run and what is around it.

    Prefect looks those up anew for each event, at the price of a task run of its own. They are
    the same for all events of a flow run, but for the task: so the first event goes Prefect's
    way, and what was found for it is given to the others, out of the sight of the run.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow else None
    known = _surroundings.of(run.id) if run else None
    if run is None or not known:
        emitted = emit_event(event=event, resource=resource, payload=payload, related=list(involved))
        if run is not None and emitted is not None:
            _surroundings.learn(run.id, emitted)
        return
    own = [_task_resource(task)] if task else []
    tags = _tag_resources({*run.tags, *(task.task_run.tags if task else ())})
    around = [*involved, *own, *known, *tags]
    _unseen(lambda: emit_event(event=event, resource=resource, payload=payload, related=around))


def _task_resource(task: TaskRunContext) -> RelatedResource:
    return RelatedResource(
        {
            "prefect.resource.id": f"prefect.task-run.{task.task_run.id}",
            "prefect.resource.role": "task-run",
            "prefect.resource.name": task.task_run.name,
        }
    )


def _tag_resources(tags: set[str]) -> list[RelatedResource]:
    return [
        RelatedResource({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})
        for tag in sorted(tags)
    ]


def _unseen(call: Callable[[], object]) -> None:
    """Calls without the run's contexts, by which Prefect would look up what is given already."""

    def outside() -> None:
        FlowRunContext.__var__.set(None)  # pyright: ignore[reportArgumentType]
        TaskRunContext.__var__.set(None)  # pyright: ignore[reportArgumentType]
        call()

    copy_context().run(outside)


# What an event is related to that its run's other events are not.
_ITS_OWN = ("task-run", "tag", "asset", "asset-materialized-by")


class _Surroundings:
    """What Prefect found around the first event of each flow run; it adds that to the event some time later."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self._first: OrderedDict[UUID, Event] = OrderedDict()
        self._lock = Lock()

    def learn(self, flow_run_id: UUID, event: Event) -> None:
        with self._lock:
            self._first.setdefault(flow_run_id, event)
            if len(self._first) > self.most:
                self._first.popitem(last=False)

    def of(self, flow_run_id: UUID) -> list[RelatedResource]:
        """The run, its flow, deployment and work pool; empty until they are known."""
        with self._lock:
            first = self._first.get(flow_run_id)
        found = list(first.related) if first else []
        return [resource for resource in found if resource.role not in _ITS_OWN]


_surroundings = _Surroundings()
