"""What others can watch: Prefect events for automations, OpenTelemetry spans for traces, and the run's log.

None of them holds a prompt, image bytes or a secret, and none can fail a run.
"""

import dataclasses
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from threading import Lock
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event, RelatedResource, emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from n1n_prefect.__about__ import __version__
from n1n_prefect.errors import N1nError, without_secrets
from n1n_prefect.images import GeneratedImage, ImageRequest, UploadedImage
from n1n_prefect.settings import settings
from n1n_prefect.totals import Totals

EventKind = Literal[
    "generated", "reused", "refused", "no_image", "invalid", "unknown_outcome", "uploaded", "already_there", "failed"
]
"""What can happen to an image; `validated` is not among them, since `uploaded` says it."""

SpanName = Literal["n1n.generate", "n1n.stage", "n1n.upload"]
Attribute = str | bool | int | float | list[str]

_MAX_PAYLOAD_BYTES = 2000
_MAX_URI_BYTES = 1100  # an S3 key of 1,024 bytes, and its bucket
_MAX_REASON_BYTES = 400
_MAX_NAME_BYTES = 64

# ── log ──────────────────────────────────────────────────────────────────────


def get_logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    """The log of the current task or flow run, or the logger `n1n_prefect` outside of one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("n1n_prefect")


# ── events ───────────────────────────────────────────────────────────────────


def emit(
    kind: EventKind,
    *,
    image: GeneratedImage | None = None,
    uploaded: UploadedImage | None = None,
    error: BaseException | None = None,
    request_key: str = "",
    model: str = "",
) -> None:
    """Tells Prefect what happened to one image, as the event `n1n.image.<kind>`.

    The resource is `n1n.image.<request key>`, so that an image's events stand together. Its
    labels `n1n.model`, `n1n.charged` and `n1n.error` can be matched by automations; the rest
    is payload, of 2 kB at most. Outside of a run, and where `emit_events` is switched off,
    nothing happens.

    Args:
        kind: What happened.
        image: The image it happened to.
        uploaded: Where the image went.
        error: Why it failed.
        request_key: The paid request's identity, where neither image nor error knows it.
        model: The model that was asked, where the image does not know it.
    """
    if not (TaskRunContext.get() or FlowRunContext.get()):
        return
    try:
        if settings().emit_events:
            facts = _small(_facts(image, uploaded, error) | _given(model=model))
            key = request_key or _key_of(image, uploaded, error)
            _send(f"n1n.image.{kind}", _resource(key, facts), facts)
    except Exception:  # noqa: BLE001  watching an image must not lose it
        get_logger().debug("No event was emitted for %r.", kind, exc_info=True)


def emit_report(totals: Totals) -> None:
    """Tells Prefect what the current run came to, as the event `n1n.run.reported`.

    The resource is `n1n.run.<flow run id>`; the payload has the fields of `Totals`. Outside of a
    flow run, and where `emit_events` is switched off, nothing happens.
    """
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if run is None:
        return
    try:
        if settings().emit_events:
            resource = {"prefect.resource.id": f"n1n.run.{run.id}", "prefect.resource.name": run.name}
            _send("n1n.run.reported", resource, dataclasses.asdict(totals))  # pyright: ignore[reportArgumentType]
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
                name: _cut(fact, _MAX_NAME_BYTES) if isinstance(fact, str) else fact for name, fact in facts.items()
            }
            _send(f"n1n.review.{kind}", resource, payload)
    except Exception:  # noqa: BLE001  watching a run must not lose it
        get_logger().debug("No event was emitted for the review.", exc_info=True)


def _send(event: str, resource: dict[str, str], payload: dict[str, object]) -> None:
    """Emits an event that names the run, its flow, deployment, work pool and tags, as every event in a run does.

    Prefect looks those up anew for each event, at the price of a task run of its own. They are
    the same for all events of a flow run, but for the task: so the first event goes Prefect's
    way, and what was found for it is given to the others, out of the sight of the run.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow else None
    known = _surroundings.of(run.id) if run else None
    if run is None or not known:
        emitted = emit_event(event=event, resource=resource, payload=payload)
        if run is not None and emitted is not None:
            _surroundings.learn(run.id, emitted)
        return
    own = [_task_resource(task)] if task else []
    related = [*own, *known, *_tag_resources({*run.tags, *(task.task_run.tags if task else ())})]
    _unseen(lambda: emit_event(event=event, resource=resource, payload=payload, related=related))


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
        return [resource for resource in found if resource.role not in ("task-run", "tag")]


_surroundings = _Surroundings()


def _key_of(*sources: object) -> str:
    return next((key for source in sources if (key := str(getattr(source, "request_key", "")))), "unknown")


def _resource(request_key: str, facts: Mapping[str, object]) -> dict[str, str]:
    model = str(facts.get("model", ""))
    labels = {
        "prefect.resource.id": f"n1n.image.{_cut(request_key, _MAX_NAME_BYTES)}",
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
        "uri": _cut(image.uri, _MAX_URI_BYTES),
        "sha256": _cut(image.sha256, _MAX_NAME_BYTES),
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
    facts: dict[str, object] = {"error": type(error).__name__, "reason": _reason(error)}
    if isinstance(error, N1nError):
        facts |= _given(
            charged=error.charged,
            status_code=error.status_code,
            code=error.code,
            finish_reason=error.finish_reason,
            request_id=error.request_id,
            possible_duplicates=error.possible_duplicates or None,
        )
    return facts


def _reason(error: BaseException) -> str:
    """What an error says, short and without secrets."""
    return _cut(without_secrets(str(error)), _MAX_REASON_BYTES)


def _given(**values: str | float | None) -> dict[str, object]:
    """The values that are known, words cut to a name's length."""
    return {
        name: _cut(value, _MAX_NAME_BYTES) if isinstance(value, str) else value
        for name, value in values.items()
        if value not in (None, "")
    }


def _cut(text: str, size: int) -> str:
    """At most so many bytes of UTF-8, and nothing that is not valid in it."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


# ── spans ────────────────────────────────────────────────────────────────────


@contextmanager
def span(name: SpanName, **attributes: Attribute | None) -> Generator[Span]:
    """A span around one step, below the one that Prefect opened for the task.

    Costs nothing to speak of until an OpenTelemetry SDK is configured. What is None or
    empty is left out. An error leaves its class in `error.type` and its words, without secrets, in the
    status and in an `exception` event; the traceback is left to Prefect's log.
    """
    tracer = trace.get_tracer("n1n_prefect", __version__)
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes=_known(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as exc:
            _record(current, exc)
            raise


def _record(current: Span, error: BaseException) -> None:
    kind, reason = type(error).__qualname__, _reason(error)
    current.set_attribute("error.type", kind)
    current.set_status(StatusCode.ERROR, reason or kind)
    current.add_event("exception", {"exception.type": kind, "exception.message": reason})
    if isinstance(error, N1nError):
        current.set_attribute("n1n.charged", error.charged)
        if error.status_code is not None:
            current.set_attribute("http.response.status_code", error.status_code)
        if error.finish_reason:
            current.set_attribute("gen_ai.response.finish_reasons", [error.finish_reason])


def request_attributes(request: ImageRequest, *, base_url: str = "", request_key: str = "") -> dict[str, Attribute]:
    """What a span says about a request: OpenTelemetry's names for generative AI, and ours; never the prompt.

    The provider is the one whose wire format is spoken; the gateway is `server.address`.
    """
    address = urlsplit(base_url)
    return _known(
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.system": "gcp.gemini",  # the older name, which many backends still read
            "gen_ai.output.type": "image",
            "gen_ai.request.model": request.model,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.seed": request.seed,
            "gen_ai.request.stream": request.stream or None,
            "server.address": address.hostname,
            "server.port": address.port,
            "n1n.request_key": request_key,
            "n1n.aspect_ratio": request.aspect_ratio,
            "n1n.image_size": request.image_size,
            "n1n.input_images": len(request.images),
            "n1n.sample": request.sample,
        }
    )


def annotate_image(image: GeneratedImage) -> None:
    """Writes what is known of an answer with an image to the current span."""
    usage = image.usage
    output = usage.output_text_tokens + usage.output_image_tokens + usage.thinking_tokens
    _annotate(
        {
            "gen_ai.response.model": image.model_version or image.model,
            "gen_ai.response.id": image.response_id,
            "gen_ai.response.finish_reasons": [image.finish_reason] if image.finish_reason else None,
            "gen_ai.usage.input_tokens": usage.prompt_tokens or None,
            "gen_ai.usage.output_tokens": output or None,
            "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens or None,
            "n1n.request_id": image.request_id,
            "n1n.request_key": image.request_key,
            "n1n.reused": image.reused,
            "n1n.estimated_cost_usd": image.estimated_cost_usd,
            "n1n.image.sha256": image.sha256,
            "n1n.image.media_type": image.media_type,
            "n1n.image.width": image.width,
            "n1n.image.height": image.height,
            "n1n.image.size_bytes": image.size_bytes,
        }
    )


def annotate_upload(uploaded: UploadedImage) -> None:
    """Writes what is known of an object in S3 to the current span."""
    _annotate(
        {
            "aws.s3.bucket": uploaded.bucket,
            "aws.s3.key": uploaded.key,
            "n1n.request_key": uploaded.request_key,
            "n1n.created": uploaded.created,
            "n1n.image.sha256": uploaded.sha256,
            "n1n.image.media_type": uploaded.media_type,
            "n1n.image.size_bytes": uploaded.size_bytes,
        }
    )


def _annotate(values: Mapping[str, Any]) -> None:
    trace.get_current_span().set_attributes(_known(values))


def _known(values: Mapping[str, Any]) -> dict[str, Attribute]:
    return {name: value for name, value in values.items() if value not in (None, "")}
