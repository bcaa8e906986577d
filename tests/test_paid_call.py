"""The paid sequence, killed at every step and answered in every way."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from n1n_prefect import errors
from n1n_prefect.images import ImageRequest, Spending
from n1n_prefect.journal import journal_key
from n1n_prefect.paid_call import PaidCall
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.spool import SpooledReply
from n1n_prefect.steps import (
    Describe,
    Fetch,
    Forget,
    Models,
    Open,
    Pause,
    Read,
    Recall,
    Reserve,
    Send,
    Settle,
    Turn,
    Warn,
    Write,
    arun,
    run,
)  # fmt: skip

SAMPLES = Path(__file__).parent / "samples"
KEY = "k" * 64


def reply(name="gemini/pro-thinking.json", status=200, **headers):
    body = (SAMPLES / name).read_bytes()
    return SpooledReply(status, {n.replace("_", "-"): v for n, v in headers.items()}, memoryview(body))


class Killed(BaseException):
    """What SIGKILL would be, if a test could look at what it leaves."""


@dataclass
class World:
    """Everything outside the sequence: storage, spool and a gateway that plays a script."""

    script: list = field(default_factory=lambda: [reply()])
    stored: dict = field(default_factory=dict)
    spooled: dict = field(default_factory=dict)
    fetched: object = b""
    paid: int = 0
    turns: list = field(default_factory=list)
    open: str = ""
    warnings: list = field(default_factory=list)
    trail: list = field(default_factory=list)
    kill_at: int | None = None
    kill_after: bool = False

    def do(self, step):
        number = len(self.trail)
        self.trail.append(
            type(step).__name__ + (f" {step.key.rpartition('/')[2]}" if isinstance(step, (Read, Write)) else "")
        )
        if number == self.kill_at and not self.kill_after:
            raise Killed
        answer = self._do(step)
        if number == self.kill_at:
            raise Killed
        return answer

    async def ado(self, step):
        return self.do(step)

    def _do(self, step):  # noqa: C901 - one case a step
        match step:
            case Read(key):
                return self.stored.get(key)
            case Write(key, data):
                self.stored[key] = bytes(data)
            case Describe(key):
                return {"uri": f"mem:/{key}", "storage_block_id": "", "storage_key": key}
            case Recall(name):
                return self.spooled.get(name)
            case Forget(name):
                self.spooled.pop(name, None)
            case Turn():
                # A turn that is not ours comes with what another process does meanwhile.
                meanwhile = self.turns.pop(0) if self.turns else None
                if meanwhile:
                    meanwhile(self)
                return meanwhile is not None
            case Open(name):
                self.open = name
            case Send():
                self._send()
            case Warn(message):
                self.warnings.append(message)
            case Fetch():
                if isinstance(self.fetched, Exception):
                    raise self.fetched
                return self.fetched
            case Models():
                return ["model-a", "model-b"]
            case Reserve() | Pause():
                pass
        return None

    def _send(self):
        self.paid += 1
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, BaseException):
            raise answer
        self.spooled[self.open] = answer


def call(spending=None, **options):
    return PaidCall(LoadedRequest(request=ImageRequest("a red fox", **options), images=()), KEY, spending or Spending())


def made(world, **options):
    return run(call(**options).steps(), world.do)


def journal(world):
    return {key.rpartition("/")[2]: json.loads(data) for key, data in world.stored.items() if "journal" in key}


class TestTheStraightWay:
    def test_sent_is_written_before_the_call_and_answered_after_the_bytes(self):
        world = World()
        made(world)
        assert world.trail == [
            "Read 0.sent", "Turn", "Open", "Write 0.sent", "Send", "Recall", "Describe", world.trail[7],
            "Write 0.answered", "Forget",
        ]  # fmt: skip
        assert world.trail[7].endswith(".png")

    def test_the_image_is_a_reference_to_the_bytes_as_sent(self):
        world = World()
        image = made(world, aspect_ratio="16:9", model="gemini-3-pro-image", image_size="1K")
        assert world.stored[image.storage_key].startswith(b"\x89PNG")
        assert (image.media_type, image.width, image.height) == ("image/png", 2, 1)  # said to be a JPEG
        assert (image.aspect_ratio, image.image_size, image.model) == ("16:9", "1K", "gemini-3-pro-image")
        assert (image.request_key, image.reused, image.prompt_excerpt) == (KEY, False, "a red fox")
        assert image.estimated_cost_usd == pytest.approx((14 * 2 + (163 + 174) * 12 + 1120 * 120) / 1e6)

    async def test_the_async_driver_takes_the_same_steps(self):
        sync, other = World(), World()
        image = made(sync)
        assert await arun(call().steps(), other.do, other.ado) == image
        assert other.trail == sync.trail

    def test_the_second_time_it_is_found_and_nothing_is_paid(self):
        world = World()
        first = made(world)
        again = made(world)
        assert world.paid == 1
        assert again.reused
        assert again.sha256 == first.sha256
        assert again.usage == first.usage

    def test_the_whole_text_is_in_the_journal(self):
        world = World()
        made(world)
        assert journal(world)["0.answered"]["text"] == "Here is your fox."

    def test_what_cannot_work_touches_nothing(self):
        world = World()
        with pytest.raises(errors.InvalidRequestError) as caught:
            made(world, aspect_ratio="3:1")
        assert world.trail == []
        assert caught.value.request_key == KEY

    def test_staging_that_cannot_be_written_spends_nothing(self):
        world = World()

        def broken(step):
            if isinstance(step, Write):
                raise errors.StagingError("disk full")
            return world.do(step)

        with pytest.raises(errors.StagingError):
            run(call().steps(), broken)
        assert world.paid == 0

    def test_a_journal_that_cannot_be_read_spends_nothing(self):
        world = World()

        def broken(step):
            if isinstance(step, Read):
                raise errors.JournalUnreadableError("denied")
            return world.do(step)

        with pytest.raises(errors.JournalUnreadableError):
            run(call().steps(), broken)
        assert world.paid == 0

    def test_a_record_of_an_unknown_schema_spends_nothing(self):
        world = World(stored={journal_key(KEY, 0, "sent"): b'{"schema": 99}'})
        with pytest.raises(errors.JournalUnreadableError, match="99"):
            made(world)
        assert world.paid == 0


class TestKilled:
    STEPS = 10

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("step", range(STEPS))
    def test_after_a_kill_at_any_step_the_image_comes_and_is_paid_once_if_its_answer_was_read(self, step, after):
        world = World(kill_at=step, kill_after=after)
        with pytest.raises(Killed):
            made(world)
        paid_before = world.paid
        world.kill_at = None
        image = made(world)
        assert image.sha256
        answer_was_read = paid_before == 1
        assert world.paid == 1 if answer_was_read or paid_before == 0 else 2
        assert world.spooled == {}

    @pytest.mark.parametrize("step", [1, 2], ids=["turn", "open"])
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_what_only_waited_for_its_turn_is_known_not_to_be_sent(self, step, after):
        world = World(kill_at=step, kill_after=after)
        with pytest.raises(Killed):
            made(world)
        assert journal(world) == {}

    def test_a_kill_while_the_answer_is_under_way_is_known_to_be_unknown(self):
        world = World(script=[Killed()])
        with pytest.raises(Killed):
            made(world)
        assert set(journal(world)) == {"0.sent"}
        with pytest.raises(errors.OutcomeUnknownError, match="on_unknown_outcome") as caught:
            made(world, spending=Spending(on_unknown_outcome="fail"))
        assert (caught.value.is_transient, world.paid) == (False, 1)

    def test_a_torn_sent_was_never_sent(self):
        world = World(stored={journal_key(KEY, 0, "sent"): b'{"sche'})
        made(world, spending=Spending(on_unknown_outcome="fail"))
        assert world.paid == 1

    def test_a_torn_answered_is_an_unknown_outcome(self):
        world = World()
        made(world)
        world.stored[journal_key(KEY, 0, "answered")] = b""
        with pytest.raises(errors.OutcomeUnknownError):
            made(world, spending=Spending(on_unknown_outcome="fail"))


class TestRefresh:
    def refreshed(self, world, by="task-run-1", **spending):
        return run(replace(call(Spending(**spending)), refresh=by).steps(), world.do)

    def test_pays_for_a_new_answer_and_keeps_the_old(self):
        world = World()
        made(world)
        assert not self.refreshed(world).reused
        assert {"0.answered", "1.answered"} <= set(journal(world))
        assert world.paid == 2

    def test_pays_once_for_each_who_asks(self):
        world = World()
        made(world)
        for _ in range(3):
            self.refreshed(world)
        assert world.paid == 2
        self.refreshed(world, by="task-run-2")
        assert world.paid == 3
        assert {"0.answered", "1.answered", "2.answered"} <= set(journal(world))

    def test_the_newest_answer_is_found_from_then_on(self):
        world = World(script=[reply(x_oneapi_request_id="old"), reply(x_oneapi_request_id="new")])
        assert [made(world).request_id, self.refreshed(world).request_id] == ["old", "new"]
        assert made(world).request_id == "new"

    def test_one_that_failed_is_tried_again_and_does_not_fall_back(self):
        world = World(script=[reply(), reply("errors/google-retry-info.json", 429), reply()])
        made(world)
        with pytest.raises(errors.RateLimitError):
            self.refreshed(world)
        assert not self.refreshed(world).reused
        assert world.paid == 3

    def test_one_that_failed_leaves_the_old_answer_to_the_others(self):
        world = World(script=[reply(), reply("errors/google-retry-info.json", 429)])
        made(world)
        with pytest.raises(errors.RateLimitError):
            self.refreshed(world)
        assert made(world).reused
        assert world.paid == 2

    def test_an_answer_that_was_read_is_not_paid_again_by_its_retry(self):
        world = World()
        made(world)
        world.kill_at, world.kill_after = len(world.trail) + 6, True
        with pytest.raises(Killed):
            self.refreshed(world)
        assert world.trail[-1] == "Send"
        world.kill_at = None
        self.refreshed(world)
        assert world.paid == 2

    def test_what_the_others_lost_is_not_counted_against_it(self):
        world = World(script=[errors.OutcomeUnknownError("lost"), errors.OutcomeUnknownError("lost"), reply()])
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            self.refreshed(world)
        assert caught.value.is_transient
        assert self.refreshed(world).sha256


class TestUnknownOutcomes:
    LOST = errors.OutcomeUnknownError("lost")

    def lost(self):
        return errors.OutcomeUnknownError("lost")

    def test_by_default_it_is_made_again_once(self):
        world = World(script=[self.lost(), self.lost(), self.lost()])
        with pytest.raises(errors.OutcomeUnknownError) as first:
            made(world)
        assert first.value.is_transient
        with pytest.raises(errors.OutcomeUnknownError) as second:
            made(world)
        assert not second.value.is_transient
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)
        assert world.paid == 2

    def test_fail_means_that_not_even_the_first_is_worth_a_retry(self):
        world = World(script=[self.lost()])
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            made(world, spending=Spending(on_unknown_outcome="fail"))
        assert not caught.value.is_transient

    @pytest.mark.parametrize("status", [504, 524])
    def test_a_proxy_that_stopped_waiting(self, status):
        world = World(script=[reply("errors/cloudflare-524.html", status), reply()])
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            made(world)
        assert caught.value.charged == "unknown"
        assert world.spooled == {}
        assert made(world).sha256

    def test_an_image_after_an_unknown_one_is_found_first(self):
        world = World(script=[self.lost(), reply()])
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)
        made(world)
        assert made(world).reused
        assert world.paid == 2


class TestFailures:
    def test_not_reached_is_known_not_to_be_paid(self):
        world = World(script=[errors.GatewayError("refused"), reply()])
        with pytest.raises(errors.GatewayError):
            made(world)
        assert journal(world)["0.answered"]["outcome"] == "failed"
        made(world, spending=Spending(on_unknown_outcome="fail"))

    def test_a_rate_limit_is_transient_as_often_as_it_comes(self):
        world = World(script=[reply("errors/google-retry-info.json", 429)])
        for _ in range(6):
            with pytest.raises(errors.RateLimitError) as caught:
                made(world)
            assert (caught.value.is_transient, caught.value.retry_after_seconds) == (True, 34.4)

    def test_a_refusal_is_replayed_free(self):
        world = World(script=[reply("gemini/blocked-prompt.json"), reply()])
        with pytest.raises(errors.RefusedError) as first:
            made(world)
        with pytest.raises(errors.RefusedError, match="nothing was paid now") as second:
            made(world)
        assert world.paid == 1
        assert second.value.model_text == first.value.model_text == "The prompt is not allowed."
        assert not second.value.is_transient

    @pytest.mark.parametrize("name", ["gemini/no-image.json", "gemini/refused-image-safety.json"])
    def test_no_image_and_flaky_refusals_have_a_budget_of_their_own(self, name):
        world = World(script=[reply(name)])
        with pytest.raises(errors.N1nError) as first:
            made(world)
        with pytest.raises(errors.N1nError) as second:
            made(world)
        with pytest.raises(errors.N1nError) as third:
            made(world)
        assert [e.value.is_transient for e in (first, second, third)] == [True, False, False]
        assert world.paid == 2

    def test_no_budget_at_all(self):
        world = World(script=[reply("gemini/no-image.json")])
        with pytest.raises(errors.NoImageError) as caught:
            made(world, spending=Spending(no_image_retries=0))
        assert not caught.value.is_transient

    def test_a_missing_model_names_those_the_key_has(self):
        with pytest.raises(errors.ModelNotAvailableError, match="It serves: model-a, model-b"):
            made(World(script=[reply("errors/no-channel.json", 503)]))

    def test_an_echoed_key_is_not_written_down(self, tmp_path):
        body = json.dumps({"error": {"message": "bad key hush-hush"}}).encode()
        world = World(script=[SpooledReply(401, {}, memoryview(body))])
        with pytest.raises(errors.AuthenticationError):
            run(replace(call(), secret="hush-hush").steps(), world.do)
        assert b"hush-hush" not in b"".join(world.stored.values())

    def test_what_is_no_image_was_paid_for_and_is_bounded(self):
        import base64

        body = {
            "candidates": [
                {"content": {"parts": [{"inlineData": {"data": base64.b64encode(b"<html>no</html>").decode()}}]}}
            ]
        }
        world = World(script=[SpooledReply(200, {}, memoryview(json.dumps(body).encode()))])
        with pytest.raises(errors.MalformedReplyError) as caught:
            made(world)
        assert caught.value.charged == "yes"
        with pytest.raises(errors.MalformedReplyError) as caught:
            made(world)
        assert not caught.value.is_transient


class TestAddresses:
    def test_an_image_given_by_address_is_fetched_and_staged(self):
        png = (SAMPLES / "gemini").joinpath("openai-b64.json")
        import base64

        data = base64.b64decode(json.loads(png.read_text())["data"][0]["b64_json"])
        world = World(script=[reply("gemini/parts-url.json")], fetched=data)
        assert world.stored.get(made(world).storage_key) == data

    def test_one_that_cannot_be_fetched_is_fetched_again_without_paying(self):
        world = World(script=[reply("gemini/parts-url.json")], fetched=errors.SourceError("gone", status_code=404))
        with pytest.raises(errors.SourceError) as caught:
            made(world)
        assert (caught.value.charged, caught.value.is_transient) == ("yes", True)
        import base64

        data = json.loads((SAMPLES / "gemini/openai-b64.json").read_text())["data"][0]["b64_json"]
        world.fetched = base64.b64decode(data)
        assert made(world).sha256
        assert world.paid == 1

    def test_one_that_is_refused_is_not_fetched_again_and_again(self):
        world = World(script=[reply("gemini/parts-url.json")], fetched=errors.SourceError("no https:// address"))
        with pytest.raises(errors.SourceError) as caught:
            made(world)
        assert (caught.value.charged, caught.value.is_transient) == ("yes", False)


class TestBudget:
    """What is reserved, and what is said of its cost afterwards."""

    def counted(self, world, raises=None, at=None):
        seen = []

        def do(step):
            if isinstance(step, Reserve | Settle):
                seen.append(step)
            if at and isinstance(step, at[0]) and at[1] in getattr(step, "key", ""):
                raise raises
            return "it" if isinstance(step, Reserve) else world.do(step)

        steps = call(Spending(max_usd_per_run=1)).steps()
        if raises is None:
            return seen, run(steps, do)
        with pytest.raises(type(raises)):
            run(steps, do)
        return seen, None

    def test_it_is_corrected_to_what_the_image_cost(self):
        (reserved, settled), image = self.counted(World())
        assert reserved.usd > 0.03
        assert settled == Settle("it", image.estimated_cost_usd)

    def test_what_was_not_charged_is_given_back(self):
        error = errors.GatewayError("refused")
        (reserved, settled), _ = self.counted(World(script=[error]), error)
        assert reserved.usd > 0.03
        assert settled == Settle("it", 0.0)

    def test_what_breaks_off_before_the_call_is_given_back(self):
        world = World()
        (_, settled), _ = self.counted(world, Killed(), (Open, ""))
        assert settled == Settle("it", 0.0)
        assert world.paid == 0

    def test_an_answer_that_may_cost_something_stays_counted(self):
        seen, _ = self.counted(World(script=[error := errors.OutcomeUnknownError("lost")]), error)
        assert len(seen) == 1

    def test_so_does_one_that_could_not_be_written_down(self):
        world = World(script=[reply("gemini/no-image.json")])
        seen, _ = self.counted(world, errors.StagingError("outage"), (Write, "answered"))
        assert (len(seen), world.paid) == (1, 1)

    def test_an_image_that_was_paid_for_is_not_counted(self):
        world = World()
        made(world)
        seen, image = self.counted(world)
        assert (seen, image.reused) == ([], True)

    def test_a_model_without_a_price_cannot_be_held_to_a_ceiling(self):
        world = World()
        with pytest.raises(errors.InvalidRequestError, match="no known price"):
            run(call(Spending(max_usd_per_run=1), model="gemini-9-image").steps(), world.do)
        assert world.paid == 0


class TestStagingThatFailsAfterTheAnswer:
    def failing(self, world, what):
        def do(step):
            if isinstance(step, Write) and what in step.key:
                raise errors.StagingError("outage")
            return world.do(step)

        return do

    @pytest.mark.parametrize("what", ["originals", "answered"])
    def test_it_is_said_to_be_paid_and_staged_later_without_paying(self, what):
        world = World()
        with pytest.raises(errors.StagingError) as caught:
            run(call().steps(), self.failing(world, what))
        assert caught.value.charged == "yes"
        assert made(world).sha256
        assert world.paid == 1

    def test_an_outcome_without_an_image_that_cannot_be_written_is_said_to_cost_what_it_may(self):
        world = World(script=[reply("gemini/no-image.json")])
        with pytest.raises(errors.StagingError) as caught:
            run(call().steps(), self.failing(world, "answered"))
        assert caught.value.charged == "unknown"
        with pytest.raises(errors.NoImageError):
            made(world)
        assert world.paid == 1

    def test_a_reply_that_vanished_and_a_journal_that_cannot_be_read_may_have_cost(self):
        world = World()

        def do(step):
            if isinstance(step, Recall):
                world.spooled.clear()
            if world.paid and isinstance(step, Read):
                raise errors.JournalUnreadableError("denied, so nothing was spent") from PermissionError("denied")
            return world.do(step)

        with pytest.raises(errors.StagingError) as caught:
            run(call().steps(), do)
        assert (world.paid, caught.value.charged) == (1, "unknown")
        assert "nothing was spent" not in str(caught.value)


class TestOlderReplies:
    def test_an_older_lost_answer_that_lies_in_the_spool_is_found(self):
        world = World()
        with pytest.raises(errors.StagingError):
            run(call().steps(), TestStagingThatFailsAfterTheAnswer().failing(world, "originals"))
        elsewhere, world.spooled = world.spooled, {}
        world.script = [errors.OutcomeUnknownError("lost")]
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)
        world.spooled = elsewhere
        assert made(world).sha256
        assert world.paid == 2


class TestSharedWithOtherProcesses:
    """A turn that is refused means that another process is making the same call."""

    def made(self, world, **spending):
        return run(replace(call(Spending(**spending)), is_shared=True).steps(), world.do)

    def test_what_another_process_ends_meanwhile_is_found(self):
        world = World(turns=[made])
        image = self.made(world)
        assert image.reused
        assert world.paid == 1

    def test_what_another_process_ended_between_our_look_and_our_turn_is_found(self):
        class Late(World):
            def _do(self, step):
                if isinstance(step, Turn) and not self.paid:
                    made(other)
                    self.stored.update(other.stored)
                    self.paid = other.paid
                return super()._do(step)

        other, world = World(), Late()
        assert self.made(world).reused
        assert world.paid == 1

    def test_one_whose_holder_was_killed_is_known_to_be_unknown(self):
        def is_killed(world):
            world.stored[journal_key(KEY, 0, "sent")] = b'{"schema": 1}'

        world = World(turns=[is_killed])
        with pytest.raises(errors.OutcomeUnknownError):
            self.made(world, on_unknown_outcome="fail")
        assert world.paid == 0
        image = self.made(World(turns=[is_killed]))
        assert (image.reused, image.possible_duplicates) == (False, 1)

    def test_it_waits_longer_and_longer_but_for_5_seconds_at_most(self):
        pauses = []

        def do(step):
            if isinstance(step, Pause):
                pauses.append(step.seconds)
            return world.do(step)

        world = World(turns=[lambda world: None] * 8)
        run(replace(call(), is_shared=True).steps(), do)
        assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 5]

    def test_one_that_is_sent_is_neither_judged_nor_taken_before_the_turn_is_ours(self):
        """Its holder may be alive: not even a user who wants no repeats is told that its answer is lost."""

        def answers(world):
            world.stored.update(other.stored)
            world.spooled.clear()

        other, world = World(), World(turns=[answers])
        made(other)
        sent = journal_key(KEY, 0, "sent")
        world.stored[sent] = other.stored[sent]
        world.spooled[f"{KEY}-0"] = reply()
        image = self.made(world, on_unknown_outcome="fail")
        assert image.reused
        assert world.paid == 0


class TestTwoProcessesWithoutLocks:
    """They may take the same number; what one of them was given is not lost to the other."""

    @pytest.mark.parametrize("name", ["errors/google-retry-info.json", "gemini/no-image.json"])
    def test_a_failure_does_not_overwrite_an_image(self, name):
        class Late(World):
            def _send(self):
                made(other)
                self.stored.update(other.stored)
                super()._send()

        other, world = World(), Late(script=[reply(name, 429 if "errors" in name else 200)])
        assert made(world).reused
        assert journal(world)["0.answered"]["outcome"] == "image"
        assert made(world).reused
        assert world.paid == 1

    def test_a_reply_that_another_process_staged_is_found(self):
        class Late(World):
            def _do(self, step):
                if isinstance(step, Recall) and self.paid:
                    made(other)
                    self.stored.update(other.stored)
                    self.spooled.clear()
                return super()._do(step)

        other, world = World(), Late()
        assert made(world).reused
        assert world.paid == 1

    def test_an_answer_that_comes_while_we_look_is_found(self):
        class Late(World):
            def _do(self, step):
                if isinstance(step, Recall):
                    self.stored.update(other.stored)  # and its spooled reply is forgotten
                return super()._do(step)

        other, world = World(), Late()
        made(other)
        sent = journal_key(KEY, 0, "sent")
        world.stored[sent] = other.stored[sent]
        assert made(world).reused
        assert world.paid == 0


class TestPossibleDuplicates:
    def test_an_image_after_a_lost_answer_says_so(self):
        world = World(script=[errors.OutcomeUnknownError("lost"), reply()])
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            made(world)
        assert (caught.value.possible_duplicates, world.warnings) == (0, [])
        assert made(world).possible_duplicates == 1
        assert "may be paid twice" in world.warnings[0]
        assert made(world).possible_duplicates == 1  # found again

    @pytest.mark.parametrize("where", [Turn, Reserve], ids=["no turn", "over budget"])
    def test_an_error_before_the_next_call_does_not_make_the_lost_one_free(self, where):
        world = World(script=[errors.OutcomeUnknownError("lost"), reply()])
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)

        def do(step):
            if isinstance(step, where):
                raise errors.BudgetExceededError("no more")
            return world.do(step)

        with pytest.raises(errors.BudgetExceededError) as caught:
            run(call(Spending(max_usd_per_run=1)).steps(), do)
        assert (caught.value.possible_duplicates, caught.value.charged) == (1, "unknown")

    def test_an_answer_without_an_image_may_have_cost_though_the_next_call_is_free(self):
        world = World(script=[reply("gemini/no-image.json"), reply("errors/google-retry-info.json", 429)])
        with pytest.raises(errors.NoImageError):
            made(world)
        with pytest.raises(errors.RateLimitError) as caught:
            made(world)
        assert caught.value.charged == "unknown"

    def test_an_error_after_a_lost_answer_says_so(self):
        world = World(script=[errors.OutcomeUnknownError("lost"), reply("gemini/blocked-prompt.json")])
        with pytest.raises(errors.OutcomeUnknownError):
            made(world)
        for _ in range(2):
            with pytest.raises(errors.RefusedError) as caught:
                made(world)
            assert caught.value.possible_duplicates == 1


class TestExpiry:
    def later(self, world, seconds):
        since = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        return run(replace(call(), since=since).steps(), world.do)

    def test_an_expired_answer_is_paid_for_anew(self):
        world = World()
        made(world)
        assert self.later(world, -60).reused
        assert not self.later(world, 60).reused
        assert world.paid == 2
        assert {"0.answered", "1.answered"} <= set(journal(world))

    def test_a_record_without_a_time_is_older_than_any(self):
        world = World(stored={journal_key(KEY, 0, "sent"): b'{"schema": 1, "at": "yesterday"}'})
        assert self.later(world, -3600).possible_duplicates == 0


class TestCancelled:
    """An asynchronous task that is cancelled, as by Prefect's `timeout_seconds`."""

    async def test_an_image_that_is_being_staged_is_staged(self):
        world, reached, go_on = World(), threading.Event(), threading.Event()

        def do(step):
            if isinstance(step, Describe):
                reached.set()
                go_on.wait(30)
            return world.do(step)

        making = asyncio.create_task(arun(call().steps(), do, world.ado))
        await asyncio.to_thread(reached.wait, 30)
        making.cancel()
        await asyncio.sleep(0)
        making.cancel()  # and once more, as impatient people do
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert journal(world)["0.answered"]["outcome"] == "image"
        assert made(world).reused

    def test_an_image_that_is_being_staged_when_the_flow_fails_is_staged(self):
        """The end of `asyncio.run` cancels every task there is."""
        world = World()

        def do(step):
            if isinstance(step, Write) and "originals" in step.key:
                reached.set()
                time.sleep(0.3)
            return world.do(step)

        async def fails():
            await asyncio.to_thread(reached.wait, 30)
            raise RuntimeError("another image")

        async def flow():
            await asyncio.gather(arun(call().steps(), do, world.ado), fails())

        reached = threading.Event()
        with pytest.raises(RuntimeError, match="another image"):
            asyncio.run(flow())
        assert journal(world)["0.answered"]["outcome"] == "image"

    async def test_it_needs_no_thread_of_the_loop_s_own(self):
        """Synchronous calls that wait for an asynchronous one may hold them all."""
        gate, world = threading.Event(), World()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        waiting = asyncio.get_running_loop().run_in_executor(None, gate.wait, 30)
        assert (await arun(call().steps(), world.do, world.ado)).sha256
        gate.set()
        await waiting

    async def test_a_call_under_way_is_known_to_be_unknown_and_its_dollars_stay_counted(self):
        world, amounts, sending = World(), [], asyncio.Event()

        async def ado(step):
            if isinstance(step, Send):
                sending.set()
                await asyncio.sleep(30)
            return world.do(step)

        def do(step):
            if isinstance(step, Reserve):
                amounts.append(step.usd)
            return world.do(step)

        making = asyncio.create_task(arun(call(Spending(max_usd_per_run=1)).steps(), do, ado))
        await asyncio.wait_for(sending.wait(), 30)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert set(journal(world)) == {"0.sent"}
        assert len(amounts) == 1

    async def test_one_that_waits_for_its_turn_leaves_nothing(self):
        world, waiting = World(), asyncio.Event()

        async def ado(step):
            waiting.set()
            await asyncio.sleep(30)

        making = asyncio.create_task(arun(call().steps(), world.do, ado))
        await asyncio.wait_for(waiting.wait(), 30)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert journal(world) == {}
