"""What a configured OpenTelemetry SDK sees of this process: spans and metrics, in memory.

The API takes one provider a process and keeps it, so that the session has one of each; a test sees its own part
of the spans, and its own meters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Counter, Histogram, Meter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import format_span_id

from n1n_prefect.metrics import _instruments


class _Keeper(SpanProcessor):
    """Keeps what ends while a test watches."""

    def __init__(self) -> None:
        self.kept: list[ReadableSpan] | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if self.kept is not None:
            self.kept.append(span)


class _Faulty(SpanProcessor):
    """Fails with our spans, where a test wants it to; Prefect does not survive it with its own."""

    def __init__(self) -> None:
        self.fails_at = ""
        self.failures = 0

    def on_start(self, span: SdkSpan, parent_context: Any = None) -> None:
        self._fail("start", span)

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end", span)

    def _fail(self, at: str, span: ReadableSpan) -> None:
        if self.fails_at == at and is_ours(span):
            self.failures += 1
            raise RuntimeError(f"a processor that fails at the {at}")


def is_ours(span: ReadableSpan) -> bool:
    return bool(span.instrumentation_scope and span.instrumentation_scope.name == "n1n_prefect")


class _Meters(MeterProvider):
    """Gives the meters of one test after the other, each with a reader of its own."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.begin()

    def begin(self) -> None:
        """Counts from zero again."""
        self.reader = InMemoryMetricReader()
        self._of_test = MeterProvider([self.reader], shutdown_on_exit=False)
        _instruments.cache_clear()

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        return self._of_test.get_meter(*args, **kwargs)


@cache
def _provided() -> tuple[_Keeper, _Faulty, _Meters]:
    keeper, faulty, meters = _Keeper(), _Faulty(), _Meters()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keeper)
    provider.add_span_processor(faulty)
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(meters)
    return keeper, faulty, meters


@dataclass
class Seen:
    """The spans that ended in a test, oldest end first."""

    spans: list[ReadableSpan] = field(default_factory=list)

    def named(self, start: str) -> list[ReadableSpan]:
        """The spans whose name starts so, by their beginning."""
        found = [span for span in self.spans if span.name.startswith(start)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def only(self, start: str) -> ReadableSpan:
        (span,) = self.named(start)
        return span

    def parent(self, span: ReadableSpan) -> ReadableSpan | None:
        """The span that another stands below, if it has ended."""
        wanted = span.parent.span_id if span.parent else None
        return next((other for other in self.spans if other.context and other.context.span_id == wanted), None)

    def below(self, span: ReadableSpan) -> list[str]:
        """The names of what stands directly below a span, in order of their beginning."""
        return [other.name for other in self.named("") if self.parent(other) is span]

    def text(self) -> str:
        """Everything that would be exported."""
        return "".join(span.to_json() for span in self.spans)


@pytest.fixture
def seen() -> Iterator[Seen]:
    """The spans that end from here on; what is measured counts from zero."""
    keeper, _, meters = _provided()
    meters.begin()
    seen = Seen()
    keeper.kept = seen.spans
    yield seen
    keeper.kept = None


class Faults:
    """What is broken in the SDK, and how often that was met."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._met = 0

    def break_(self, what: str) -> None:
        """Breaks `start` or `end` of spans, what is written to `open` ones, `instruments` or the `meter` itself."""
        if what in ("start", "end"):
            _provided()[1].fails_at = what
        elif what == "open":
            for name in ("is_recording", "set_attribute", "set_attributes", "set_status", "add_event"):
                self._break(SdkSpan, name, is_ours)
        elif what == "instruments":
            self._break(Counter, "add", _always)
            self._break(Histogram, "record", _always)
        else:
            _instruments.cache_clear()
            self._break(Meter, "create_counter", _always)
            self._break(Meter, "create_histogram", _always)

    def _break(self, owner: type, name: str, concerns: Callable[[Any], bool]) -> None:
        whole = getattr(owner, name)

        def broken(this: Any, *args: Any, **kwargs: Any) -> Any:
            if not concerns(this):
                return whole(this, *args, **kwargs)
            self._met += 1
            raise RuntimeError(f"{name} is broken")

        self._monkeypatch.setattr(owner, name, broken)

    @property
    def met(self) -> int:
        return self._met + _provided()[1].failures


def _always(_: object) -> bool:
    return True


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """What breaks in the SDK until the test has ended."""
    faulty = _provided()[1]
    faulty.failures = 0
    yield Faults(monkeypatch)
    faulty.fails_at = ""
    _instruments.cache_clear()


def measured() -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Every metric of ours in this test until now: attributes and data points by name."""
    data = _provided()[2].reader.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            if scope.scope.name == "n1n_prefect":
                for metric in scope.metrics:
                    found[metric.name] = [(dict(point.attributes), point) for point in metric.data.data_points]
    return found


def span_id(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id) if span.context else ""
