import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from n1n_prefect import telemetry
from n1n_prefect.errors import ImageValidationError, N1nError, OutcomeUnknownError, RefusedError, UploadError
from n1n_prefect.images import GeneratedImage, ImageRequest, UploadedImage, Usage
from n1n_prefect.outcomes import outcome_of
from n1n_prefect.telemetry import annotate_image, annotate_upload, emit, get_logger, request_attributes, span
from n1n_prefect.totals import Totals

PROMPT = "a secret prompt about a red fox"
KEY = "sk-abcdefghijklmnop1234"


def image(**changes: Any) -> GeneratedImage:
    fields: dict[str, Any] = {
        "uri": "file:///storage/n1n/a",
        "sha256": "ab" * 32,
        "media_type": "image/png",
        "width": 1024,
        "height": 768,
        "size_bytes": 2_400_000,
        "model": "gemini-3-pro-image",
        "request_key": "cd" * 32,
        "model_version": "gemini-3-pro-image-0925",
        "response_id": "resp-1",
        "request_id": "req-1",
        "finish_reason": "STOP",
        "prompt_excerpt": PROMPT,
        "text": "Here is your fox.",
        "usage": Usage(
            input_text_tokens=9,
            input_image_tokens=258,
            output_text_tokens=3,
            output_image_tokens=1120,
            thinking_tokens=50,
        ),
        "estimated_cost_usd": 0.134,
    }
    return GeneratedImage(**(fields | changes))


def uploaded(**changes: Any) -> UploadedImage:
    fields: dict[str, Any] = {
        "bucket": "shop",
        "key": "week 46/äpple.png",
        "sha256": "ab" * 32,
        "media_type": "image/png",
        "width": 1024,
        "height": 768,
        "size_bytes": 2_400_000,
        "etag": "e1",
        "model": "gemini-3-pro-image",
        "request_key": "cd" * 32,
    }
    return UploadedImage(**(fields | changes))


class TestGetLogger:
    def test_plain_outside_of_a_run(self):
        assert get_logger() is logging.getLogger("n1n_prefect")

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    def test_of_the_run_inside_one(self):
        @task
        def name_in_task() -> str:
            return get_logger().name

        @flow
        def names() -> list[str]:
            return [get_logger().name, name_in_task()]

        assert names() == ["prefect.flow_runs", "prefect.task_runs"]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is handed to Prefect's `emit_event`."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(telemetry, "emit_event", lambda **event: seen.append(event))
    return seen


@pytest.fixture
def run() -> Iterator[None]:
    """The context of a flow run, without an API behind it."""
    with FlowRunContext.model_construct():
        yield


class TestEmitOutsideOfARun:
    def test_does_nothing(self, events):
        emit("generated", image=image())
        assert events == []


@pytest.mark.usefixtures("run")
class TestEmit:
    def test_a_generated_image(self, events):
        emit("generated", image=image())
        assert events == [
            {
                "event": "n1n.image.generated",
                "resource": {
                    "prefect.resource.id": f"n1n.image.{'cd' * 32}",
                    "prefect.resource.name": "gemini-3-pro-image cdcdcdcdcdcd",
                    "n1n.model": "gemini-3-pro-image",
                    "n1n.charged": "yes",
                },
                "payload": {
                    "charged": "yes",
                    "model": "gemini-3-pro-image",
                    "model_version": "gemini-3-pro-image-0925",
                    "request_id": "req-1",
                    "finish_reason": "STOP",
                    "uri": "file:///storage/n1n/a",
                    "sha256": "ab" * 32,
                    "media_type": "image/png",
                    "width": 1024,
                    "height": 768,
                    "size_bytes": 2_400_000,
                    "estimated_cost_usd": 0.134,
                },
            }
        ]

    def test_a_reused_image_was_not_charged_now(self, events):
        emit("reused", image=image(reused=True))
        assert events[0]["payload"]["charged"] == "no"

    def test_an_upload_says_where_it_went(self, events):
        emit("uploaded", image=image(), uploaded=uploaded())
        payload = events[0]["payload"]
        assert payload["uri"] == "s3://shop/week 46/äpple.png"
        assert payload["etag"] == "e1"
        assert payload["estimated_cost_usd"] == 0.134

    def test_a_refusal_is_on_the_resource_of_its_request(self, events):
        error = RefusedError("The prompt was refused (SAFETY).", "req-9", status_code=200, finish_reason="SAFETY")
        error.request_key = "ef" * 32
        emit("refused", error=error, model="gemini-2.5-flash-image")
        assert events[0]["resource"] == {
            "prefect.resource.id": f"n1n.image.{'ef' * 32}",
            "prefect.resource.name": "gemini-2.5-flash-image efefefefefef",
            "n1n.model": "gemini-2.5-flash-image",
            "n1n.charged": "unknown",
            "n1n.error": "RefusedError",
        }
        assert events[0]["payload"] == {
            "error": "RefusedError",
            "reason": "The prompt was refused (SAFETY). (request id: req-9)",
            "charged": "unknown",
            "status_code": 200,
            "finish_reason": "SAFETY",
            "request_id": "req-9",
            "model": "gemini-2.5-flash-image",
        }

    def test_an_invalid_image_has_its_reason_and_its_pixels(self, events):
        emit("invalid", image=image(), error=ImageValidationError("too small"))
        payload = events[0]["payload"]
        assert (payload["reason"], payload["width"], payload["charged"]) == ("too small", 1024, "yes")

    def test_a_foreign_error_is_taken_too(self, events):
        emit("failed", error=KeyError("x"))
        assert events[0]["payload"] == {"error": "KeyError", "reason": "'x'"}
        assert events[0]["resource"]["prefect.resource.id"] == "n1n.image.unknown"

    def test_the_given_key_and_model_win(self, events):
        emit("generated", image=image(), request_key="mine", model="other")
        assert events[0]["resource"]["prefect.resource.id"] == "n1n.image.mine"
        assert events[0]["payload"]["model"] == "other"

    def test_no_prompt_no_words_no_secret(self, events):
        error = N1nError(f"401 for Bearer {KEY}", model_text=f"I cannot draw {PROMPT}")
        emit("failed", image=image(), error=error)
        said = json.dumps(events)
        assert PROMPT not in said
        assert "fox" not in said
        assert KEY not in said

    @pytest.mark.parametrize("filler", ["x", "🦊", "\ud800", '"', "\\"])
    def test_small_whatever_it_is_given(self, events, filler):
        long = filler * 5000
        big = image(uri=long, model=long, model_version=long, request_id=long, finish_reason=long, media_type=long)
        error = UploadError(long, long, status_code=500, code=long, finish_reason=long)
        emit("failed", image=big, uploaded=uploaded(key=long, etag=long, version_id=long), error=error)
        event = events[0]
        assert len(json.dumps(event["payload"], ensure_ascii=False).encode()) <= 2000
        assert event["payload"]["error"] == "UploadError"
        assert all(len(label.encode()) < 100 for label in event["resource"].values())

    def test_a_long_key_and_a_long_reason_fit_together(self, events):
        emit("failed", image=image(), uploaded=uploaded(key="k" * 1000), error=UploadError("m" * 2000))
        payload = events[0]["payload"]
        assert payload["uri"] == "s3://shop/" + "k" * 1000
        assert payload["reason"] == "m" * 400

    def test_switched_off(self, events, monkeypatch):
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_EMIT_EVENTS", "false")
        emit("generated", image=image())
        assert events == []

    def test_never_fails_a_run(self, monkeypatch):
        def broken(**event: Any) -> None:
            raise RuntimeError("no server")

        monkeypatch.setattr(telemetry, "emit_event", broken)
        emit("generated", image=image())

    def test_a_wrong_setting_never_fails_a_run(self, events, monkeypatch):
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_EMIT_EVENTS", "perhaps")
        emit("generated", image=image())
        assert events == []


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestEmitToTheServer:
    def test_events_of_a_run_arrive(self):
        @task
        def make() -> None:
            emit("generated", image=image(request_key=KEY_OF_ITS_OWN))

        @flow
        def make_one() -> None:
            make()

        make_one()
        (stored,) = wait_for_events("n1n.image.generated", f"n1n.image.{KEY_OF_ITS_OWN}")
        assert stored.payload["sha256"] == "ab" * 32
        assert any(related.id.startswith("prefect.flow-run.") for related in stored.related)

    def test_every_event_names_the_same_surroundings_once(self):
        key, first_known = "ee" * 32, []

        @task(tags=["of the task"])
        def draw(number: int) -> None:
            emit("generated", image=image(request_key=key, response_id=str(number)))

        @flow
        def draw_three() -> str:
            context = FlowRunContext.get()
            assert context
            assert context.flow_run
            draw(1)
            for _ in range(100):  # until Prefect has added to the first event what it found
                if telemetry._surroundings.of(context.flow_run.id):
                    first_known.append(True)
                    break
                time.sleep(0.1)
            draw(2)
            draw.with_options(tags=["another"])(3)
            return str(context.flow_run.id)

        flow_run_id = draw_three()
        assert first_known
        stored = wait_for_events("n1n.image.generated", f"n1n.image.{key}", 3)
        around = [
            sorted((resource.role, resource.id) for resource in event.related if resource.role != "task-run")
            for event in stored
        ]
        tags = [[found for role, found in each if role == "tag"] for each in around]
        assert tags == [["prefect.tag.of the task"]] * 2 + [["prefect.tag.another"]]
        places = [[found for found in each if found[0] != "tag"] for each in around]
        assert places[0] == places[1] == places[2]
        assert ("flow-run", f"prefect.flow-run.{flow_run_id}") in places[0]
        assert [role for role, _ in places[0]] == ["flow", "flow-run"]
        tasks = [resource.id for event in stored for resource in event.related if resource.role == "task-run"]
        assert len(tasks) == len(set(tasks)) == 3

    def test_what_a_run_came_to(self):
        @flow
        def report() -> str:
            telemetry.emit_report(Totals.of([outcome_of(uploaded(original=image()))]))
            context = FlowRunContext.get()
            assert context
            assert context.flow_run
            return str(context.flow_run.id)

        flow_run_id = report()
        (stored,) = wait_for_events("n1n.run.reported", f"n1n.run.{flow_run_id}")
        assert stored.payload["images"] == 1
        assert stored.payload["by_status"] == {"uploaded": 1}
        assert stored.payload["estimated_cost_usd"] == 0.134


KEY_OF_ITS_OWN = "e0" * 32


def wait_for_events(name: str, resource_id: str, count: int = 1) -> list[Any]:
    """The stored events of a name about a resource, oldest first; they are delivered in the background."""
    wanted = EventFilter(event=EventNameFilter(name=[name]), resource=EventResourceFilter(id=[resource_id]))
    with get_client(sync_client=True) as client:
        for _ in range(120):
            events = client.read_events(filter=wanted, limit=count).events
            if len(events) == count:
                return sorted(events, key=lambda event: event.occurred)
            time.sleep(0.25)
    pytest.fail(f"not {count} {name} events within 30 s")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What a configured OpenTelemetry SDK would export."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry.trace, "get_tracer", provider.get_tracer)
    return exporter


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (finished,) = spans.get_finished_spans()
    return finished


class TestSpan:
    def test_name_scope_and_kind(self, spans):
        with span("n1n.generate"):
            pass
        finished = only(spans)
        assert (finished.name, finished.kind) == ("n1n.generate", SpanKind.CLIENT)
        assert finished.instrumentation_scope.name == "n1n_prefect"
        assert finished.status.status_code is StatusCode.UNSET

    def test_attributes_with_dots_and_without_none(self, spans):
        with span("n1n.upload", **{"n1n.bucket": "shop", "n1n.size_bytes": 0, "n1n.key": None}):
            pass
        assert dict(only(spans).attributes) == {"n1n.bucket": "shop", "n1n.size_bytes": 0}

    def test_steps_nest(self, spans):
        with span("n1n.generate"), span("n1n.stage"):
            pass
        stage, generate = spans.get_finished_spans()
        assert stage.parent.span_id == generate.context.span_id

    def test_costs_no_sdk(self):
        with span("n1n.generate", **{"gen_ai.request.model": "m"}) as current:
            annotate_image(image())
        assert not current.is_recording()


class TestSpanErrors:
    def test_class_words_and_money(self, spans):
        with pytest.raises(OutcomeUnknownError), span("n1n.generate"):
            raise OutcomeUnknownError("524 after 120 s", status_code=524)
        finished = only(spans)
        assert dict(finished.attributes) == {
            "error.type": "OutcomeUnknownError",
            "n1n.charged": "unknown",
            "http.response.status_code": 524,
        }
        assert finished.status.status_code is StatusCode.ERROR
        assert finished.status.description == "524 after 120 s"

    def test_a_refusal_has_its_finish_reason(self, spans):
        with pytest.raises(RefusedError), span("n1n.generate"):
            raise RefusedError("no", finish_reason="SAFETY")
        assert only(spans).attributes["gen_ai.response.finish_reasons"] == ("SAFETY",)

    def test_one_event_without_traceback_or_secrets(self, spans):
        with pytest.raises(N1nError), span("n1n.generate"):
            raise N1nError(f"GET https://x/?key={KEY} said no") from ValueError(f"Bearer {KEY}")
        finished = only(spans)
        (event,) = finished.events
        assert dict(event.attributes) == {
            "exception.type": "N1nError",
            "exception.message": "GET https://x/?key=*** said no",
        }
        assert KEY not in finished.to_json()

    def test_an_error_without_words(self, spans):
        with pytest.raises(KeyError), span("n1n.stage"):
            raise KeyError
        assert only(spans).status.description == "KeyError"

    async def test_a_cancelled_call_is_an_error_too(self, spans):
        async def call() -> None:
            with span("n1n.generate"):
                await asyncio.sleep(60)

        running = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert only(spans).attributes["error.type"] == "CancelledError"


class TestRequestAttributes:
    def test_in_opentelemetry_s_names(self, spans):
        request = ImageRequest(
            PROMPT, images=(b"x", b"y"), model="gemini-3-pro-image", aspect_ratio="16:9", image_size="2K", seed=0
        )
        attributes = request_attributes(request, base_url="https://api.n1n.ai:8443/v1", request_key="cd")
        with span("n1n.generate", **attributes):
            pass
        assert dict(only(spans).attributes) == {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.system": "gcp.gemini",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": "gemini-3-pro-image",
            "gen_ai.request.seed": 0,
            "server.address": "api.n1n.ai",
            "server.port": 8443,
            "n1n.request_key": "cd",
            "n1n.aspect_ratio": "16:9",
            "n1n.image_size": "2K",
            "n1n.input_images": 2,
            "n1n.sample": 0,
        }

    def test_no_prompt(self):
        request = ImageRequest(PROMPT, system_instruction="be kind")
        said = str(request_attributes(request))
        assert "fox" not in said
        assert "kind" not in said


class TestAnnotate:
    def test_an_answer(self, spans):
        with span("n1n.generate"):
            annotate_image(image())
        assert dict(only(spans).attributes) == {
            "gen_ai.response.model": "gemini-3-pro-image-0925",
            "gen_ai.response.id": "resp-1",
            "gen_ai.response.finish_reasons": ("STOP",),
            "gen_ai.usage.input_tokens": 267,
            "gen_ai.usage.output_tokens": 1173,
            "gen_ai.usage.reasoning.output_tokens": 50,
            "n1n.request_id": "req-1",
            "n1n.request_key": "cd" * 32,
            "n1n.reused": False,
            "n1n.estimated_cost_usd": 0.134,
            "n1n.image.sha256": "ab" * 32,
            "n1n.image.media_type": "image/png",
            "n1n.image.width": 1024,
            "n1n.image.height": 768,
            "n1n.image.size_bytes": 2_400_000,
        }

    def test_unknown_usage_is_left_out(self, spans):
        with span("n1n.generate"):
            annotate_image(image(usage=Usage(), model_version="", finish_reason="", estimated_cost_usd=None))
        attributes = only(spans).attributes
        assert not [name for name in attributes if name.startswith("gen_ai.usage")]
        assert attributes["gen_ai.response.model"] == "gemini-3-pro-image"
        assert "n1n.estimated_cost_usd" not in attributes

    def test_an_upload(self, spans):
        with span("n1n.upload"):
            annotate_upload(uploaded(created=False))
        attributes = only(spans).attributes
        assert attributes["aws.s3.bucket"] == "shop"
        assert attributes["aws.s3.key"] == "week 46/äpple.png"
        assert attributes["n1n.created"] is False

    def test_nothing_happens_outside_of_a_span(self):
        annotate_image(image())
        annotate_upload(uploaded())
