"""OpenTelemetry spans below the one that Prefect opens for a task run.

```text
Prefect's span of the task run
├── n1n.generate                one image: journal, waiting, call, staging; also where it is reused
│   ├── n1n.stage               a record or an original written to the result storage
│   └── generate_content MODEL  one call on the wire, by OpenTelemetry's names for generative AI
├── n1n.derive                  the variants of one image: read, made and put
└── n1n.upload                  an object in S3
```

Prompts and what a model said are left out, unless OpenTelemetry's own variable
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is `true`; image bytes and secrets always are.
An SDK or processor that fails costs a span, never a call.
Without an SDK all this costs some tens of microseconds an image, since nothing is opened.
"""

import os
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson
from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN, ProxyTracerProvider, Span, SpanKind, StatusCode, Tracer

from n1n_prefect import metrics
from n1n_prefect.__about__ import __version__
from n1n_prefect.errors import N1nError, SourceError, StagingError, charged_in_all, words_of
from n1n_prefect.images import GeneratedImage, ImageRequest, UploadedImage
from n1n_prefect.masking import without_secrets
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.watching import unharmed

SpanName = Literal["n1n.generate", "n1n.stage", "n1n.derive", "n1n.upload"]
Attribute = str | bool | int | float | list[str]

_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_OPERATION = "generate_content"


@cache
def _tracer() -> Tracer:
    # One for the process: that of the API turns into an SDK's when one is configured later.
    return trace.get_tracer("n1n_prefect", __version__)


def _is_watched() -> bool:
    """Whether spans go anywhere: one that goes nowhere costs 15 to 30 microseconds."""
    try:
        return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
    except Exception:  # noqa: BLE001 - of the provider that a variable of OpenTelemetry's names
        return False


def _opened(name: str, kind: SpanKind, attributes: Mapping[str, Attribute] | None = None) -> Span:
    """A span that has begun, or one that takes everything and says nothing, where none is wanted or it failed."""
    if _is_watched():
        with unharmed:
            return _tracer().start_span(name, kind=kind, attributes=attributes)
    return INVALID_SPAN


def _below(span: Span) -> AbstractContextManager[object]:
    """Makes a span the current one, and leaves it open."""
    return nullcontext() if span is INVALID_SPAN else _current(span)


@contextmanager
def _current(span: Span) -> Generator[None]:
    # Not trace.use_span, which asks the span something while an error passes.
    token = None
    with unharmed:
        token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        if token is not None:
            with unharmed:
                context.detach(token)


# ── our own steps ────────────────────────────────────────────────────────────


@contextmanager
def span(name: SpanName, **attributes: Attribute | None) -> Generator[Span]:
    """A span around one step, below the current one.

    What is None or empty is left out. An error leaves its class in `error.type` and its words, without secrets,
    in the status and in an `exception` event; the traceback is left to Prefect's log.
    """
    if not _is_watched():
        yield INVALID_SPAN
        return
    current = _opened(name, SpanKind.CLIENT if name == "n1n.upload" else SpanKind.INTERNAL, _known(attributes))
    try:
        with _below(current):
            yield current
    except BaseException as exc:
        with unharmed:
            _record(current, exc)
        raise
    finally:
        _end(current)


def _end(span: Span, at_ns: int | None = None) -> None:
    if span is not INVALID_SPAN:
        with unharmed:
            span.end(at_ns)


def _record(current: Span, error: BaseException) -> None:
    kind, reason = type(error).__qualname__, words_of(error)
    current.set_attribute("error.type", kind)
    current.set_status(StatusCode.ERROR, reason or kind)
    current.add_event("exception", {"exception.type": kind, "exception.message": reason})
    if isinstance(error, N1nError):
        current.set_attributes(
            _known({"n1n.charged": charged_in_all(error), "http.response.status_code": error.status_code})
        )


def image_attributes(request: ImageRequest, *, request_key: str = "") -> dict[str, Attribute]:
    """What the span of an image says about its request; never the prompt."""
    return _known(
        {
            "n1n.model": request.model,
            "n1n.request_key": request_key,
            "n1n.aspect_ratio": request.aspect_ratio,
            "n1n.image_size": request.image_size,
            "n1n.input_images": len(request.images),
            "n1n.sample": request.sample,
        }
    )


def annotate_image(image: GeneratedImage, outcome: str) -> None:
    """Writes to the current span what an image is and how it came."""
    with unharmed:
        current = trace.get_current_span()
        if current.is_recording():
            about = {"n1n.outcome": outcome, "n1n.reused": image.reused, "n1n.request_id": image.request_id}
            current.set_attributes(_known(about) | _file(image))


def annotate_upload(uploaded: UploadedImage, outcome: str) -> None:
    """Writes what is known of an object in S3 to the current span."""
    with unharmed:
        current = trace.get_current_span()
        if current.is_recording():
            current.set_attributes(_known(_object(uploaded) | {"n1n.outcome": outcome}) | _file(uploaded))


def annotate_failure(outcome: str) -> None:
    """Writes to the current span how an image ended that did not come."""
    with unharmed:
        trace.get_current_span().set_attribute("n1n.outcome", outcome)


def _object(uploaded: UploadedImage) -> dict[str, Any]:
    return {
        "aws.s3.bucket": uploaded.bucket,
        "aws.s3.key": uploaded.key,
        "n1n.model": uploaded.model,
        "n1n.request_key": uploaded.request_key,
        "n1n.created": uploaded.created,
    }


def _file(image: GeneratedImage | UploadedImage) -> dict[str, Attribute]:
    return _known(
        {
            "n1n.image.sha256": image.sha256,
            "n1n.image.media_type": image.media_type,
            "n1n.image.width": image.width or None,
            "n1n.image.height": image.height or None,
            "n1n.image.size_bytes": image.size_bytes,
        }
    )


# ── calls on the wire ────────────────────────────────────────────────────────


class GatewayCall:
    """The span and the metrics of one call to the gateway.

    The span lasts from the first byte out to the last byte in. What the reply was is known
    only later, when it has been read: so it is written then, and the span closed with the earlier time.

    Args:
        loaded: What is asked.
        base_url: The gateway.
        request_key: The paid request's identity.
    """

    def __init__(self, loaded: LoadedRequest, *, base_url: str, request_key: str) -> None:
        self.loaded = loaded
        self.request_key = request_key
        address = urlsplit(base_url)
        self.about = _known(
            {
                "gen_ai.operation.name": _OPERATION,
                "gen_ai.provider.name": "gcp.gemini",  # whose wire format is spoken; the gateway is the server
                "gen_ai.request.model": loaded.request.model,
                "server.address": address.hostname,
                "server.port": address.port or {"https": 443, "http": 80}.get(address.scheme),
            }
        )
        self._span: Span | None = None
        self._seconds = 0.0
        self._end_ns = 0
        self._has_reply = False

    @contextmanager
    def sending(self, *, attempt: int, waited_seconds: float, size_bytes: int, lost: int) -> Generator[None]:
        """Opens the span, below which whatever is done here stands.

        Args:
            attempt: Which call for this image it is, from 1, by the journal.
            waited_seconds: How long it waited for a slot, a limit or another process.
            size_bytes: Length of the body that is sent.
            lost: How many earlier calls lost their answer.
        """
        if lost:
            metrics.called_again(self.loaded.request.model)
        self._span = _opened(f"{_OPERATION} {self.loaded.request.model}", SpanKind.CLIENT)
        with unharmed:
            if self._span.is_recording():
                self._span.set_attributes(self.about | self._asked(attempt, waited_seconds, size_bytes, lost))
        begun = time.perf_counter()
        try:
            with _below(self._span):
                yield
        finally:
            self._seconds, self._end_ns = time.perf_counter() - begun, time.time_ns()

    def arrived(self, status: int, headers: Mapping[str, str], size_bytes: int) -> None:
        """Notes a reply that came whole.

        Args:
            status: HTTP status.
            headers: Names in lower case.
            size_bytes: Length of its body, decompressed.
        """
        self._has_reply = True
        with unharmed:
            if self._span is not None and self._span.is_recording():
                sent = headers.get("content-length", "")
                size = int(sent) if sent.isascii() and sent.isdigit() else size_bytes
                self._span.set_attributes({"http.response.status_code": status, "http.response.body.size": size})

    def gave(self, image: GeneratedImage) -> None:
        """Closes the span of a call whose reply held this image."""
        if self._span is None:
            return
        model = image.model_version.removeprefix("models/") or image.model
        with unharmed:
            if self._span.is_recording():
                self._span.set_attributes(_answer(image) | {"gen_ai.response.model": model} | _file(image))
                if _captures():
                    self._span.set_attribute("gen_ai.output.messages", _said(image.text, image))
        metrics.called(self._seconds, self.about | {"gen_ai.response.model": model}, image.usage)
        self._close()

    def failed(self, error: BaseException, outcome: str) -> None:
        """Closes the span of a call that gave no image; what went wrong behind a whole reply is not the call's."""
        if self._span is None:
            return
        is_its_own = not self._has_reply or _is_about_reply(error)
        with unharmed:
            if self._span.is_recording():
                self._span.set_attribute("n1n.outcome", outcome)
                _say_failed(self._span, error, is_its_own=is_its_own)
        about = self.about | {"error.type": type(error).__qualname__} if is_its_own else self.about
        metrics.called(self._seconds, about, None)
        self._close()

    def _close(self) -> None:
        span, self._span = self._span, None
        if span is not None:
            _end(span, self._end_ns or None)

    def _asked(self, attempt: int, waited_seconds: float, size_bytes: int, lost: int) -> dict[str, Attribute]:
        request = self.loaded.request
        return _known(
            {
                "gen_ai.output.type": "image",
                "gen_ai.request.temperature": request.temperature,
                "gen_ai.request.seed": request.seed,
                "gen_ai.request.stream": request.stream or None,
                "http.request.body.size": size_bytes,
                "n1n.request_key": self.request_key,
                "n1n.attempt": attempt,
                "n1n.wait_seconds": round(waited_seconds, 6),
                "n1n.possible_duplicates": lost or None,
                **(_content(self.loaded) if _captures() else {}),
            }
        )


def _say_failed(span: Span, error: BaseException, *, is_its_own: bool) -> None:
    if is_its_own:
        _record(span, error)
    reason = getattr(error, "finish_reason", "")
    if reason:
        span.set_attribute("gen_ai.response.finish_reasons", [reason])
    if _captures() and (text := getattr(error, "model_text", "")):
        span.set_attribute("gen_ai.output.messages", _said(text, None, reason))


def _is_about_reply(error: BaseException) -> bool:
    """Whether an error that came after a whole reply is what the reply said, and not what became of it here."""
    return isinstance(error, N1nError) and not isinstance(error, (StagingError, SourceError))


def _answer(image: GeneratedImage) -> dict[str, Attribute]:
    usage = image.usage
    return _known(
        {
            "n1n.outcome": "generated",
            "gen_ai.response.id": image.response_id,
            "gen_ai.response.finish_reasons": [image.finish_reason] if image.finish_reason else None,
            "gen_ai.usage.input_tokens": usage.prompt_tokens or None,
            "gen_ai.usage.output_tokens": usage.output_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens or None,
            "n1n.request_id": image.request_id,
            "n1n.charged": "yes",
            "n1n.estimated_cost_usd": image.estimated_cost_usd,
        }
    )


# ── content, where it is asked for ───────────────────────────────────────────


def _captures() -> bool:
    """Whether prompts and the model's words go into spans, in any way that the variable has for it."""
    return os.environ.get(_CAPTURE, "").strip().lower() in ("true", "1", "span_only", "span_and_event")


def _content(loaded: LoadedRequest) -> dict[str, str]:
    """Prompt and input images as OpenTelemetry's messages; of an image its hash in the place of its bytes."""
    request = loaded.request
    parts: list[dict[str, str]] = [{"type": "text", "content": without_secrets(request.prompt)}]
    parts += [
        {"type": "uri", "modality": "image", "mime_type": image.media_type, "uri": image.address}
        for image in loaded.images
    ]
    standing = request.system_instruction or ""
    return {
        "gen_ai.input.messages": _json([{"role": "user", "parts": parts}]),
        "gen_ai.system_instructions": _json([{"type": "text", "content": without_secrets(standing)}])
        if standing
        else "",
    }


def _said(text: str, image: GeneratedImage | None, finish_reason: str = "") -> str:
    """What the model wrote, cut to 200 characters beside an image, and where that is."""
    parts = [{"type": "text", "content": without_secrets(text)}] if text else []
    if image is not None:
        parts.append({"type": "uri", "modality": "image", "mime_type": image.media_type, "uri": image.uri})
    reason = (image.finish_reason if image else finish_reason).lower()
    return _json([{"role": "assistant", "parts": parts, "finish_reason": reason or "stop"}])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _known(values: Mapping[str, Any]) -> dict[str, Attribute]:
    return {name: value for name, value in values.items() if value not in (None, "")}
