"""What a configured OpenTelemetry SDK sees of this process: spans and metrics, in memory.

The API takes one provider a process and keeps it, so that the session has one; each test sees its own part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import format_span_id


class _Keeper(SpanProcessor):
    """Keeps what ends while a test watches."""

    def __init__(self) -> None:
        self.kept: list[ReadableSpan] | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if self.kept is not None:
            self.kept.append(span)


@cache
def _provided() -> tuple[_Keeper, InMemoryMetricReader]:
    keeper, reader = _Keeper(), InMemoryMetricReader()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keeper)
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    return keeper, reader


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
    """The spans that end from here on."""
    keeper, _ = _provided()
    seen = Seen()
    keeper.kept = seen.spans
    yield seen
    keeper.kept = None


def measured() -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Every metric of ours until now: attributes and data points by name."""
    _, reader = _provided()
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            if scope.scope.name == "n1n_prefect":
                for metric in scope.metrics:
                    found[metric.name] = [(dict(point.attributes), point) for point in metric.data.data_points]
    return found


def span_id(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id) if span.context else ""
