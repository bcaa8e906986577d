import asyncio
import hashlib
import json
import subprocess
import sys

import pytest
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from prefect import flow
from prefect.cache_policies import NO_CACHE

from n1n_prefect import (
    HintedDelays,
    N1nCredentials,
    Spending,
    aedit_image,
    agenerate_image,
    edit_image,
    generate_image,
    image_to_s3,
    upload_image,
)
from n1n_prefect.errors import JournalUnreadableError, N1nError, OutcomeUnknownError, RefusedError, StagingError
from n1n_prefect.images import GeneratedImage, ImageRequest
from n1n_prefect.spans import annotate_image, annotate_upload, image_attributes, span
from tests.examples import generated, png, uploaded
from tests.open_telemetry import measured

PROMPT = "a secret prompt about a red fox"
KEY = "sk-abcdefghijklmnop1234"
SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
QUICK = {"retry_delay_seconds": HintedDelays([0.05])}


class TestSpan:
    def test_name_scope_and_kind(self, seen):
        with span("n1n.generate"), span("n1n.upload"):
            pass
        finished = seen.only("n1n.generate")
        assert finished.kind is SpanKind.INTERNAL
        assert finished.instrumentation_scope.name == "n1n_prefect"
        assert finished.status.status_code is StatusCode.UNSET
        assert seen.only("n1n.upload").kind is SpanKind.CLIENT

    def test_attributes_with_dots_and_without_none(self, seen):
        with span("n1n.upload", **{"n1n.bucket": "shop", "n1n.size_bytes": 0, "n1n.key": None}):
            pass
        assert dict(seen.only("n1n.upload").attributes) == {"n1n.bucket": "shop", "n1n.size_bytes": 0}

    def test_steps_nest(self, seen):
        with span("n1n.generate"), span("n1n.stage"):
            pass
        assert seen.parent(seen.only("n1n.stage")) is seen.only("n1n.generate")

    def test_costs_next_to_nothing_without_an_sdk(self):
        script = (
            "from n1n_prefect.spans import span, annotate_image\n"
            "from tests.examples import generated\n"
            "with span('n1n.generate') as current:\n"
            "    annotate_image(generated(), 'generated')\n"
            "assert not current.is_recording()\n"
            "import sys; assert 'opentelemetry.sdk' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True)


class TestSpanErrors:
    def test_class_words_and_money(self, seen):
        with pytest.raises(OutcomeUnknownError), span("n1n.generate"):
            raise OutcomeUnknownError("524 after 120 s", status_code=524)
        finished = seen.only("n1n.generate")
        assert dict(finished.attributes) == {
            "error.type": "OutcomeUnknownError",
            "n1n.charged": "unknown",
            "http.response.status_code": 524,
        }
        assert finished.status.status_code is StatusCode.ERROR
        assert finished.status.description == "524 after 120 s"

    def test_one_event_without_traceback_or_secrets(self, seen):
        with pytest.raises(N1nError), span("n1n.generate"):
            raise N1nError(f"GET https://x/?key={KEY} said no") from ValueError(f"Bearer {KEY}")
        (event,) = seen.only("n1n.generate").events
        assert dict(event.attributes) == {
            "exception.type": "N1nError",
            "exception.message": "GET https://x/?key=*** said no",
        }
        assert KEY not in seen.text()

    def test_an_error_without_words(self, seen):
        with pytest.raises(KeyError), span("n1n.stage"):
            raise KeyError
        assert seen.only("n1n.stage").status.description == "KeyError"

    async def test_a_cancelled_call_is_an_error_too(self, seen):
        async def call() -> None:
            with span("n1n.generate"):
                await asyncio.sleep(60)

        running = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert seen.only("n1n.generate").attributes["error.type"] == "CancelledError"


class TestImageAttributes:
    def test_what_was_asked_and_never_the_prompt(self):
        request = ImageRequest(PROMPT, images=(b"x", b"y"), aspect_ratio="16:9", system_instruction="be kind")
        said = image_attributes(request, request_key="cd")
        assert said == {
            "n1n.model": "gemini-2.5-flash-image",
            "n1n.request_key": "cd",
            "n1n.aspect_ratio": "16:9",
            "n1n.input_images": 2,
            "n1n.sample": 0,
        }


class TestAnnotate:
    def test_an_image(self, seen):
        with span("n1n.generate"):
            annotate_image(generated(request_id="req-1"), "generated")
        assert dict(seen.only("n1n.generate").attributes) == {
            "n1n.outcome": "generated",
            "n1n.reused": False,
            "n1n.request_id": "req-1",
            "n1n.image.sha256": "ab" * 32,
            "n1n.image.media_type": "image/png",
            "n1n.image.width": 1024,
            "n1n.image.height": 1024,
            "n1n.image.size_bytes": 2_400_000,
        }

    def test_an_upload(self, seen):
        with span("n1n.upload"):
            annotate_upload(uploaded(created=False), "already_there")
        attributes = seen.only("n1n.upload").attributes
        assert attributes["aws.s3.bucket"] == "shop"
        assert attributes["aws.s3.key"] == "products/fox.png"
        assert attributes["n1n.created"] is False
        assert attributes["n1n.outcome"] == "already_there"

    def test_nothing_happens_outside_of_a_span(self):
        annotate_image(generated(), "generated")
        annotate_upload(uploaded(), "uploaded")


# ── through real task runs ───────────────────────────────────────────────────


@pytest.fixture
def gateway(n1n_gateway_factory):
    return n1n_gateway_factory(canned=True, grain=False)


@pytest.fixture
def credentials(gateway):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


def calls(seen):
    return seen.named("generate_content ")


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestATaskRun:
    def test_one_image_to_s3(self, seen, gateway, credentials, s3_location):
        @flow
        def draw():
            image = generate_image(PROMPT, credentials=credentials, seed=7, temperature=0.5, **SMALL)
            return image, upload_image(image, destination=s3_location)

        image, put = draw()
        (call,) = calls(seen)
        generate = seen.only("n1n.generate")
        assert seen.parent(call) is generate
        task_span = seen.parent(generate)
        assert task_span.instrumentation_scope.name == "prefect"
        assert seen.parent(seen.only("n1n.upload")).instrumentation_scope.name == "prefect"
        assert seen.below(generate) == ["n1n.stage", call.name, "n1n.stage", "n1n.stage"]
        assert [found.attributes["n1n.stage.what"] for found in seen.named("n1n.stage")] == [
            "sent",
            "original",
            "answered",
        ]
        said = dict(call.attributes)
        size = said.pop("http.response.body.size")
        assert size > image.size_bytes
        assert said.pop("http.request.body.size") > len(PROMPT)
        assert 0 <= said.pop("n1n.wait_seconds") < 60
        assert said == {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": "gemini-3.1-flash-image",
            "gen_ai.request.seed": 7,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.response.model": image.model_version or image.model,
            "gen_ai.response.id": image.response_id,
            "gen_ai.response.finish_reasons": ("STOP",),
            "gen_ai.usage.input_tokens": image.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": image.usage.output_tokens,
            "gen_ai.usage.reasoning.output_tokens": image.usage.thinking_tokens,
            "server.address": "127.0.0.1",
            "server.port": int(gateway.base_url.rpartition(":")[2]),
            "http.response.status_code": 200,
            "n1n.attempt": 1,
            "n1n.outcome": "generated",
            "n1n.charged": "yes",
            "n1n.estimated_cost_usd": image.estimated_cost_usd,
            "n1n.request_id": image.request_id,
            "n1n.request_key": image.request_key,
            "n1n.image.sha256": image.sha256,
            "n1n.image.media_type": image.media_type,
            "n1n.image.width": image.width,
            "n1n.image.height": image.height,
            "n1n.image.size_bytes": image.size_bytes,
        }
        assert call.kind is SpanKind.CLIENT
        original = seen.named("n1n.stage")[1]
        assert call.end_time <= original.start_time  # the call lasts to the last byte in, and no longer
        assert seen.only("n1n.upload").attributes["aws.s3.key"] == put.key
        assert PROMPT not in seen.text()
        assert gateway.api_key not in seen.text()

    async def test_asynchronous_tasks_at_once_keep_their_calls_apart(self, seen, credentials):
        @flow
        async def draw():
            drawn = (agenerate_image(f"{PROMPT} {n}", credentials=credentials, **SMALL) for n in range(4))
            return await asyncio.gather(*drawn)

        images = await draw()
        assert len(calls(seen)) == 4
        for call in calls(seen):
            generate = seen.parent(call)
            assert generate.attributes["n1n.request_key"] == call.attributes["n1n.request_key"]
            assert seen.parent(generate).instrumentation_scope.name == "prefect"
        assert {call.attributes["n1n.image.sha256"] for call in calls(seen)} == {image.sha256 for image in images}

    def test_a_retry_is_a_second_call_that_knows_it(self, seen, gateway, credentials):
        gateway.faults.add("overloaded")

        @flow
        def draw():
            return generate_image.with_options(**QUICK)(PROMPT, credentials=credentials, **SMALL)

        draw()
        first, second = calls(seen)
        assert [call.attributes["n1n.attempt"] for call in (first, second)] == [1, 2]
        assert (first.attributes["error.type"], first.attributes["n1n.outcome"]) == ("GatewayError", "failed")
        assert first.attributes["http.response.status_code"] == 503
        assert first.attributes["n1n.charged"] == "no"
        assert first.status.status_code is StatusCode.ERROR
        assert second.attributes["n1n.outcome"] == "generated"
        assert "n1n.possible_duplicates" not in second.attributes
        assert seen.parent(seen.parent(first)) is seen.parent(seen.parent(second))  # one task run

    def test_a_refusal(self, seen, gateway, credentials):
        gateway.faults.add("prohibited_content")

        @flow
        def draw():
            generate_image(PROMPT, credentials=credentials, return_state=True, **SMALL)

        draw()
        (call,) = calls(seen)
        assert call.attributes["n1n.outcome"] == seen.only("n1n.generate").attributes["n1n.outcome"] == "refused"
        assert call.attributes["error.type"] == "RefusedError"
        assert call.attributes["gen_ai.response.finish_reasons"] == ("PROHIBITED_CONTENT",)
        assert "http.response.body.size" in call.attributes

    def test_a_reused_image_was_not_called_for(self, seen, credentials):
        anew = generate_image.with_options(cache_policy=NO_CACHE)

        @flow
        def draw():
            return [anew(PROMPT, credentials=credentials, **SMALL).reused for _ in range(2)]

        assert draw() == [False, True]
        assert len(calls(seen)) == 1
        first, second = seen.named("n1n.generate")
        assert [found.attributes["n1n.outcome"] for found in (first, second)] == ["generated", "reused"]
        assert seen.below(second) == []

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_a_lost_answer_and_the_call_after_it(self, seen, gateway, credentials, kind):
        gateway.faults.add("close_before_reply")
        before = duplicates()

        @flow
        def draw():
            return generate_image.with_options(**QUICK)(PROMPT, credentials=credentials, **SMALL)

        @flow
        async def adraw():
            return await agenerate_image.with_options(**QUICK)(PROMPT, credentials=credentials, **SMALL)

        image = await adraw() if kind == "async" else await asyncio.to_thread(draw)
        assert image.possible_duplicates == 1
        lost, again = calls(seen)
        assert (lost.attributes["n1n.outcome"], lost.attributes["n1n.charged"]) == ("unknown_outcome", "unknown")
        assert "http.response.status_code" not in lost.attributes
        assert (again.attributes["n1n.attempt"], again.attributes["n1n.possible_duplicates"]) == (2, 1)
        assert duplicates() == before + 1

    def test_waiting_for_a_slot_is_counted(self, seen, gateway):
        one = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url, max_in_flight=1)
        gateway.latency_seconds = 0.3

        @flow
        def draw():
            futures = generate_image.map([f"{PROMPT} {n}" for n in range(2)], credentials=[one, one], **SMALL)
            futures.wait()

        draw()
        waits = sorted(call.attributes["n1n.wait_seconds"] for call in calls(seen))
        first, second = calls(seen)
        assert second.start_time >= first.end_time
        assert waits[1] > waits[0]

    @pytest.mark.usefixtures("own_storage")  # the reply stays in its spool
    @pytest.mark.parametrize("failure", [StagingError, JournalUnreadableError])
    def test_what_fails_behind_a_whole_reply_is_not_the_call_s_fault(self, seen, credentials, monkeypatch, failure):
        from n1n_prefect.staging import LocalStorage

        write = LocalStorage.write

        def refuse_originals(self, key, data):
            if "/originals/" in key:
                raise failure("the disk is full", is_transient=False)
            write(self, key, data)

        monkeypatch.setattr(LocalStorage, "write", refuse_originals)

        @flow
        def draw():
            generate_image(PROMPT, credentials=credentials, return_state=True, **SMALL)

        draw()
        (call,) = calls(seen)
        assert "error.type" not in call.attributes
        assert call.attributes["n1n.outcome"] == "failed"
        assert seen.only("n1n.generate").attributes["error.type"] == failure.__name__

    def test_what_an_edit_was_asked_and_what_an_item_became(self, seen, credentials, s3_location):
        @flow
        def draw():
            image = edit_image(PROMPT, png(64, 64), credentials=credentials, **SMALL)
            return image, image_to_s3("item", credentials=credentials, destination=s3_location, **SMALL)

        _, outcome = draw()
        assert seen.named("n1n.generate")[0].attributes["n1n.input_images"] == 1
        assert seen.only("n1n.upload").attributes["n1n.outcome"] == outcome.status == "uploaded"

    def test_no_call_is_made_and_none_is_seen(self, seen, credentials):
        @flow
        def draw():
            generate_image(PROMPT, credentials=credentials, aspect_ratio="1:17", return_state=True, **SMALL)

        draw()
        assert calls(seen) == []
        assert seen.only("n1n.generate").attributes["error.type"] == "InvalidRequestError"


BROKEN = ["start", "open", "end", "instruments", "meter"]


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api", "seen")
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("broken", BROKEN)
class TestBrokenTelemetry:
    """What watches a call may fail by itself, and neither fails, changes nor loses the call."""

    @staticmethod
    async def drawn(kind, credentials, times=1, **options):
        """What came of one image, and of more tries for it in the same run."""
        states = []
        given = {"credentials": credentials, "return_state": True, **SMALL}
        options = {"cache_policy": NO_CACHE, **options}

        @flow
        def draw():
            states.extend(generate_image.with_options(**options)(PROMPT, **given) for _ in range(times))

        @flow
        async def adraw():
            task = agenerate_image.with_options(**options)
            states.extend([await task(PROMPT, **given) for _ in range(times)])

        await (adraw() if kind == "async" else asyncio.to_thread(draw))
        return [await state.aresult(raise_on_failure=False) for state in states]

    async def test_an_image_is_paid_once_answered_and_returned(self, faults, gateway, credentials, kind, broken):
        faults.break_(broken)
        image, again = await self.drawn(kind, credentials, times=2)
        assert faults.met
        assert isinstance(image, GeneratedImage)
        assert (image.reused, again.reused) == (False, True)  # the journal says what was answered
        assert again.sha256 == image.sha256 == hashlib.sha256(image.read_bytes()).hexdigest()
        assert len(gateway.ledger.calls) == 1

    async def test_an_error_stays_what_it_is(self, faults, gateway, credentials, kind, broken):
        gateway.faults.add("prohibited_content")
        faults.break_(broken)
        (error,) = await self.drawn(kind, credentials)
        assert isinstance(error, RefusedError)
        assert faults.met
        assert len(gateway.ledger.calls) == 1

    async def test_a_lost_answer_is_still_known_as_one(self, faults, gateway, credentials, kind, broken):
        gateway.faults.add("close_before_reply")
        faults.break_(broken)
        (image,) = await self.drawn(kind, credentials, **QUICK)
        assert image.possible_duplicates == 1
        assert len(gateway.ledger.calls) == 2

    async def test_an_upload_is_made(self, faults, credentials, s3_location, kind, broken):
        (image,) = await self.drawn(kind, credentials)
        faults.break_(broken)

        @flow
        def put():
            return upload_image(image, destination=s3_location)

        uploaded = await asyncio.to_thread(put)
        assert faults.met
        written = s3_location.read(uploaded.bucket, uploaded.key, 10_000_000)
        assert hashlib.sha256(written).hexdigest() == image.sha256


class TestSpanThatBreaks:
    @pytest.mark.parametrize("broken", ["start", "open", "end"])
    def test_neither_stops_nor_hides_what_it_is_around(self, seen, faults, broken):
        faults.break_(broken)
        before = get_current_span()
        with span("n1n.generate"):
            done = True
        with pytest.raises(KeyError), span("n1n.stage"):
            raise KeyError
        assert done
        assert faults.met
        assert get_current_span() is before


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestContent:
    """Words go into spans where OpenTelemetry's own variable asks for them; bytes and keys never do."""

    @pytest.fixture(autouse=True)
    def asked_for(self, monkeypatch):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")

    async def test_prompt_inputs_and_the_model_s_words(self, seen, credentials):
        @flow
        async def draw():
            request = ImageRequest(f"{PROMPT} {KEY}", images=(png(64, 64),), system_instruction="be kind", **SMALL)
            return await aedit_image(request, credentials=credentials)

        image = await draw()
        (call,) = calls(seen)
        (asked,) = json.loads(call.attributes["gen_ai.input.messages"])
        assert asked["role"] == "user"
        assert asked["parts"][0] == {"type": "text", "content": f"{PROMPT} ***"}
        assert asked["parts"][1]["uri"] == image.inputs[0]
        assert json.loads(call.attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": "be kind"}]
        (answered,) = json.loads(call.attributes["gen_ai.output.messages"])
        assert answered["role"] == "assistant"
        assert answered["parts"][-1]["uri"] == image.uri
        assert KEY not in seen.text()
        assert len(seen.text()) < 20_000

    def test_words_in_the_place_of_an_image(self, seen, gateway, credentials):
        gateway.faults.add("text_only", times=None)

        @flow
        def draw():
            given = {"credentials": credentials, "spending": Spending(no_image_retries=0)}
            generate_image(PROMPT, return_state=True, **given, **SMALL)

        draw()
        (call,) = calls(seen)
        (answered,) = json.loads(call.attributes["gen_ai.output.messages"])
        assert answered["parts"][0]["content"]


# ── metrics ──────────────────────────────────────────────────────────────────


def count(name, **attributes):
    """The sum of a counter over the points that have these attributes, dots written as two underscores."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    return sum(point.value for found, point in measured().get(name, []) if wanted.items() <= found.items())


def duplicates():
    return count("n1n.possible_duplicates")


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api", "seen")
class TestMetrics:
    def test_of_a_run(self, gateway, credentials, s3_location):
        model = "gemini-3-pro-image"
        gateway.faults.add("overloaded", match="again")
        gateway.faults.add("prohibited_content", match="refused")

        @flow
        def draw():
            given = {"credentials": credentials, "model": model}
            images = [generate_image.with_options(**QUICK)(prompt, **given) for prompt in ("again", "once", "once")]
            generate_image("refused", return_state=True, **given)
            for image in images:
                upload_image(image, destination=s3_location)
            return images

        images = draw()
        of_model = {"gen_ai__request__model": model}
        ended = {
            kind: count("n1n.images", n1n__outcome=kind, **of_model)
            for kind in ("generated", "failed", "refused", "uploaded", "already_there")
        }
        # The second "once" was skipped by its cache policy; the failure that Prefect tried again is no image's end.
        assert ended == {"generated": 2, "failed": 0, "refused": 1, "uploaded": 2, "already_there": 1}
        cost = count("n1n.cost", **of_model)
        assert cost == pytest.approx(sum(image.estimated_cost_usd for image in images[:2]))
        durations = [
            (found, point)
            for found, point in measured()["gen_ai.client.operation.duration"]
            if found["gen_ai.request.model"] == model
        ]
        by_error = {found.get("error.type", ""): point.count for found, point in durations}
        assert by_error == {"": 2, "GatewayError": 1, "RefusedError": 1}
        good = next(point for found, point in durations if "error.type" not in found)
        assert tuple(good.explicit_bounds) == (
            0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
        )  # fmt: skip
        tokens = {
            found["gen_ai.token.type"]: point.sum
            for found, point in measured()["gen_ai.client.token.usage"]
            if found["gen_ai.request.model"] == model
        }
        assert tokens == {
            "input": sum(image.usage.prompt_tokens for image in images[:2]),
            "output": sum(image.usage.output_tokens for image in images[:2]),
        }
