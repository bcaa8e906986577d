import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from n1n_prefect import events as events_module
from n1n_prefect.errors import GatewayError, ImageValidationError, N1nError, RefusedError, UploadError
from n1n_prefect.events import emit, emit_report, kind_of
from n1n_prefect.images import GeneratedImage, UploadedImage, Usage
from n1n_prefect.outcomes import outcome_of
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


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is handed to Prefect's `emit_event`."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(events_module, "emit_event", lambda **event: seen.append(event))
    return seen


@pytest.fixture
def run() -> Iterator[None]:
    """The context of a flow run, without an API behind it."""
    with FlowRunContext.model_construct():
        yield


class TestKindOf:
    def test_a_class_of_a_user_s_own_is_what_it_is_made_of(self):
        class TooRedError(RefusedError):
            pass

        assert kind_of(TooRedError("too red")) == outcome_of(TooRedError("too red")).status == "refused"
        assert kind_of(N1nError("x")) == kind_of(KeyError("x")) == "failed"


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
                "related": [],
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
            "n1n.final": "true",
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

    def test_what_prefect_will_try_again_is_not_final(self, events):
        emit("failed", error=GatewayError("503"), is_final=False)
        assert events[0]["resource"]["n1n.final"] == "false"

    def test_what_it_cost_is_said_once(self, events):
        error = RefusedError("no")
        error.charge = "It may have been charged."
        emit("refused", error=error)
        assert (events[0]["payload"]["reason"], events[0]["payload"]["charged"]) == ("no", "unknown")

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

        monkeypatch.setattr(events_module, "emit_event", broken)
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
                if events_module._surroundings.of(context.flow_run.id):
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
            emit_report(Totals.of([outcome_of(uploaded(original=image()))]))
            context = FlowRunContext.get()
            assert context
            assert context.flow_run
            return str(context.flow_run.id)

        flow_run_id = report()
        (stored,) = wait_for_events("n1n.run.reported", f"n1n.run.{flow_run_id}")
        assert stored.payload["images"] == 1
        assert stored.payload["by_status"] == {"uploaded": 1}
        assert stored.payload["estimated_cost_usd"] == 0.134
        labels = {name: value for name, value in stored.resource.items() if name.startswith("n1n.")}
        assert labels == {
            "n1n.images": "1",
            "n1n.failed": "0",
            "n1n.over_budget": "0",
            "n1n.possible_duplicates": "0",
        }


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
