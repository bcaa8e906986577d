"""A person decides: asked through the real engine, answered through the API as a script or the page does."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed, Pending, Running, Scheduled

import n1n_prefect as n1n
from n1n_prefect import InvalidRequestError, N1nCredentials, ReviewTimeoutError, S3Location
from n1n_prefect.cli import main as command
from n1n_prefect.images import ImageOutcome
from n1n_prefect.review_deadlines import EXPIRED, RUN_OUT
from n1n_prefect.review_record import ReviewRecord
from n1n_prefect.reviews import Question
from n1n_prefect.testing import LocalGateway
from tests import publishing
from tests.s3_servers import S3Server, new_bucket
from tests.staged_images import good, png, refused, staged
from tests.unsteady import Trouble, unsteady

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]

PATIENCE_SECONDS = 120


class Api:
    """Prefect's API, spoken without Prefect."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, **body: Any) -> Any:
        for _ in range(20):
            reply = httpx.post(f"{self.url}{path}", json=body, timeout=60)
            if reply.status_code != 503:  # its database is locked for the moment
                break
            time.sleep(1)
        assert reply.is_success, reply.text
        return reply.json() if reply.content else None

    def get(self, path: str) -> Any:
        reply = httpx.get(f"{self.url}{path}", timeout=60)
        return reply.json() if reply.is_success else None

    def run(self, name: str) -> dict[str, Any]:
        found = self.post("/flow_runs/filter", flow_runs={"name": {"any_": [name]}})
        return found[0] if found else {}

    def asked(self, name: str) -> "Asked":
        """The run's question, once it waits."""
        for _ in range(PATIENCE_SECONDS * 10):
            run = self.run(name)
            if run and run["state"]["type"] == "PAUSED":
                keys = run["state"]["state_details"]["run_input_keyset"]
                read = {what: self.get(f"/flow_runs/{run['id']}/input/{key}") for what, key in keys.items()}
                if read["description"]:
                    return Asked(self, run, read["schema"], read["description"])
            time.sleep(0.1)
        raise AssertionError(f"{name} does not wait: {run}")


@dataclass(frozen=True)
class Asked:
    api: Api
    run: dict[str, Any]
    schema: dict[str, Any]
    description: str

    def says(self, **run_input: Any) -> dict[str, Any]:
        return self.api.post(f"/flow_runs/{self.run['id']}/resume", run_input=run_input)


@dataclass
class Person:
    """Answers the questions of one run, one after another, in a thread."""

    name: str
    answers: tuple[Callable[[Asked], Any], ...]
    asked: list[Asked] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator["Person"]:
        thread = threading.Thread(target=self.live, daemon=True)
        thread.start()
        yield self
        thread.join(PATIENCE_SECONDS)
        if self.failures:
            raise self.failures[0]
        assert len(self.asked) == len(self.answers)

    def live(self) -> None:
        api = Api(PREFECT_API_URL.value())
        try:
            for answer in self.answers:
                question = api.asked(self.name)
                self.asked.append(question)
                answer(question)
        except BaseException as exc:
            self.failures.append(exc)


def says(**run_input: Any) -> Callable[[Asked], Any]:
    return lambda asked: asked.says(**run_input)


# ── the example flow ─────────────────────────────────────────────────────────


@pytest.fixture
def gateway(n1n_gateway_factory) -> LocalGateway:
    """A quick gateway; no two of its pictures are equal."""
    return n1n_gateway_factory(canned=True, grain=False)


@dataclass(frozen=True)
class Shop:
    """Where the example flow runs, under a name of its own."""

    name: str
    credentials: N1nCredentials
    pending: S3Location
    published: S3Location
    store: Any
    gateway: LocalGateway

    def run(self, *answers: Callable[[Asked], Any], **parameters: Any) -> tuple[Any, Person]:
        """The flow's final state, and what a person was asked."""
        person = Person(self.name, answers)
        named = publishing.FLOW.with_options(flow_run_name=self.name)
        with person.watching():
            state = named("a red fox", *self.blocks, return_state=True, **parameters)
        return state, person

    @property
    def blocks(self) -> tuple[N1nCredentials, S3Location, S3Location]:
        return self.credentials, self.pending, self.published

    def count(self) -> tuple[int, int]:
        """How many objects are pending and how many are published."""
        return self._count(self.pending), self._count(self.published)

    def _count(self, place: S3Location) -> int:
        return self.store.list_objects_v2(Bucket=place.bucket, Prefix=f"{place.prefix}/")["KeyCount"]

    @property
    def paid(self) -> list[str]:
        return sorted(call.prompt_excerpt for call in self.gateway.ledger.billed)


@pytest.fixture
def shop(gateway: LocalGateway, moto_server: S3Server, moto_client: Any) -> Shop:
    bucket = new_bucket(moto_client)
    return Shop(
        f"shop-{uuid.uuid4().hex}",
        N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url),
        moto_server.location(bucket, prefix="pending"),
        moto_server.location(bucket, prefix="published"),
        moto_client,
        gateway,
    )


class TestTheFlow:
    def test_publishes_what_is_approved(self, shop):
        state, person = shop.run(says(approve=["image 1", "image 2", "image 3"], reviewer="Ann"))
        assert state.message == "3 images: 3 uploaded. Estimated cost $0.12."
        assert shop.count() == (0, 3)
        assert [row.uploaded.key.split("/")[0] for row in state.result()] == ["published"] * 3
        assert "data:image/webp" in person.asked[0].description
        assert shop.paid == ["a red fox"] * 3

    def test_removes_what_is_rejected_and_is_complete(self, shop):
        state, _ = shop.run(says(approve=[], note="too dark"))
        assert state.is_completed()
        assert state.message.startswith("3 images: 3 rejected.")
        assert shop.count() == (0, 0)
        assert {row.reason for row in state.result()} == {"Rejected: too dark"}

    def test_draws_anew_by_the_note_and_keeps_what_was_approved(self, shop):
        state, person = shop.run(
            says(approve=["image 1"], regenerate=["image 3"], note="2: too dark\n3: at night"),
            says(regenerate=["image 4"], note="with a lantern"),
            says(approve=["image 5"], reviewer="Ann"),
        )
        assert state.message.startswith("5 images: 3 rejected, 2 uploaded.")
        assert shop.count() == (0, 2)
        night = "a red fox at night"
        assert shop.paid == ["a red fox"] * 3 + [night, f"{night} with a lantern"]
        assert ["regenerate" in asked.schema["properties"] for asked in person.asked] == [True, True, False]
        assert "about $0.039 each" in person.asked[0].schema["properties"]["regenerate"]["description"]
        assert "pays for them" in person.asked[0].description
        assert "pays" not in person.asked[2].description

    def test_the_same_again_is_another_picture(self, shop):
        state, _ = shop.run(says(regenerate=["image 1"]), says(approve=["image 2"]), candidates=1)
        assert shop.count() == (0, 1)
        first, second = sorted(state.result(), key=lambda row: row.status)
        assert first.image.sha256 != second.image.sha256
        assert shop.paid == ["a red fox"] * 2

    def test_an_answer_to_an_earlier_question_is_refused(self, shop):
        replies = []

        def too_late(asked):
            replies.append(asked.says(approve=["image 1"]))
            asked.says(approve=[], note="none of them")

        shop.run(says(regenerate=["image 1"]), too_late, candidates=1)
        assert replies[0]["status"] == "REJECT"
        assert shop.count() == (0, 0)
        assert shop.paid == ["a red fox"] * 2

    def test_what_was_refused_is_told_and_not_asked(self, shop):
        shop.gateway.faults.add("IMAGE_PROHIBITED_CONTENT", times=1)
        state, person = shop.run(_approve_all)
        labels = person.asked[0].schema["properties"]["approve"]["items"]["enum"]
        assert len(labels) == 2
        missing = ({"image 1", "image 2", "image 3"} - set(labels)).pop()
        assert f"- {missing.capitalize()}: refused." in person.asked[0].description
        assert state.message.startswith("3 images: 2 uploaded, 1 refused.")

    def test_nobody_is_asked_where_all_were_refused(self, shop):
        shop.gateway.faults.add("IMAGE_PROHIBITED_CONTENT", times=None)
        state, _ = shop.run()
        assert state.is_failed()
        assert "3 refused" in state.message
        assert "PROHIBITED_CONTENT" in state.message

    def test_the_same_place_is_refused_before_anything_is_paid(self, shop):
        with pytest.raises(InvalidRequestError, match="pending and published are the same place"):
            publishing.FLOW("a red fox", shop.credentials, shop.pending, shop.pending)
        assert shop.paid == []

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("http://127.0.0.1:9000", "http://LOCALHOST:9000/"),
            ("https://store.example", "https://Store.example:443"),
            ("", "https://s3.eu-west-3.amazonaws.com"),
            ("", "https://s3.us-east-1.amazonaws.com"),
        ],
    )
    def test_the_same_place_by_another_spelling_as_well(self, first, second):
        given = {"bucket": "shop", "region_name": "eu-west-3", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
        pending, published, other = (
            S3Location(endpoint_url=url, **given) for url in (first, second, "https://other.example")
        )
        with pytest.raises(InvalidRequestError, match="the same place"):
            n1n.check_review(pending, published)
        n1n.check_review(pending, other)

    def test_a_suspension_without_a_deployment_is_refused_before_anything_is_paid(self, shop):
        with pytest.raises(InvalidRequestError, match="without a deployment cannot be suspended"):
            publishing.FLOW("a red fox", *shop.blocks, wait="suspend")
        assert shop.paid == []

    def test_an_object_that_is_gone_is_published_from_its_original(self, shop):
        def tidy_up_and_approve(asked):
            for item in shop.store.list_objects_v2(Bucket=shop.pending.bucket, Prefix="pending/")["Contents"]:
                shop.store.delete_object(Bucket=shop.pending.bucket, Key=item["Key"])
            _approve_all(asked)

        state, _ = shop.run(tidy_up_and_approve, candidates=2)
        assert state.message.startswith("2 images: 2 uploaded.")
        assert shop.count() == (0, 2)


def _approve_all(asked: Asked) -> Any:
    return asked.says(approve=asked.schema["properties"]["approve"]["items"]["enum"])


class TestDeadlines:
    @pytest.mark.parametrize(
        ("on_timeout", "counts", "message"),
        [
            ("reject", (0, 0), "2 images: 2 rejected."),
            ("approve", (0, 2), "2 images: 2 uploaded."),
        ],
    )
    def test_takes_the_action_and_completes(self, shop, on_timeout, counts, message):
        state, _ = shop.run(candidates=2, timeout_minutes=0.02, on_timeout=on_timeout)
        assert state.message.startswith(message)
        assert shop.count() == counts
        assert Api(PREFECT_API_URL.value()).run(shop.name)["state"]["type"] == "COMPLETED"

    def test_fails_and_asks_again_when_it_is_resumed(self, shop, capsys):
        state, _ = shop.run(candidates=2, timeout_minutes=0.02, on_timeout="fail")
        assert state.is_failed()
        with pytest.raises(ReviewTimeoutError, match="to be asked again without paying again: n1n-prefect resume"):
            state.result()
        assert shop.count() == (2, 0)

        api, person = Api(PREFECT_API_URL.value()), Person(shop.name, (_approve_all,))
        run = api.run(shop.name)
        with get_client(sync_client=True) as client:
            longer = {**run["parameters"], "timeout_minutes": 10}
            client.update_flow_run(uuid.UUID(run["id"]), parameters=longer)
        save(shop)
        with person.watching():
            assert command(["resume", run["id"], "--entrypoint", ENTRYPOINT, *blocks_of(shop)]) == 0
        assert shop.count() == (0, 2)
        assert shop.paid == ["a red fox"] * 2
        assert capsys.readouterr().out.splitlines()[-1].endswith("2 images: 2 uploaded. Estimated cost $0.08.")

    def test_is_acted_on_where_the_server_was_quicker(self, shop):
        def expire(asked):
            with get_client(sync_client=True) as client:
                expired = Failed(message="The flow was paused and never resumed.")
                client.set_flow_run_state(uuid.UUID(asked.run["id"]), expired, force=True)

        state, _ = shop.run(expire, candidates=1, on_timeout="approve")
        assert state.message.startswith("1 image: 1 uploaded.")


ENTRYPOINT = "flows/approve_then_publish.py:approve_then_publish"


def save(shop: Shop) -> None:
    shop.credentials.save(shop.name, overwrite=True)
    shop.pending.save(f"{shop.name}-pending", overwrite=True)
    shop.published.save(f"{shop.name}-published", overwrite=True)


def blocks_of(shop: Shop) -> list[str]:
    kinds = {
        "credentials": f"n1n-credentials/{shop.name}",
        "pending": f"s3-image-location/{shop.name}-pending",
        "published": f"s3-image-location/{shop.name}-published",
    }
    return [word for parameter, block in kinds.items() for word in ("--block", f"{parameter}={block}")]


# ── answers that are none ────────────────────────────────────────────────────


class TestBadAnswers:
    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            ({"approve": ["image 9"]}, "'image 9' is not one of"),
            ({"approve": "image 1"}, "is not of type 'array'"),
            ({"publish": ["image 1"]}, "Additional properties are not allowed"),
            ({"approve": [], "note": "x" * 2001}, "is too long"),
        ],
    )
    def test_are_refused_and_the_run_goes_on_waiting(self, answer, why):
        replies = []

        def ask_badly(asked):
            replies.append(asked.says(**answer))
            assert asked.api.run(asked.run["name"])["state"]["type"] == "PAUSED"
            asked.says(approve=["image 1"])

        review, _ = reviewed([good()], ask_badly)
        assert (replies[0]["status"], len(review.approved)) == ("REJECT", 1)
        assert why in replies[0]["details"]["reason"]

    def test_an_empty_one_is_no_decision(self):
        review, person = reviewed([good()], says(), says(approve=["image 1"]))
        assert len(review.approved) == 1
        assert person.asked[1].description.startswith("**Asked again.** There was no answer last time.")

    def test_neither_is_an_image_in_both_lists(self):
        both = says(approve=["image 1"], regenerate=["image 1"])
        review, person = reviewed([good()], both, says(regenerate=["image 1"]))
        assert len(review.to_regenerate) == 1
        assert "image 1: under both Approve and Regenerate" in person.asked[1].description

    def test_neither_is_a_run_that_somebody_set_going(self):
        def set_going(asked):
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(uuid.UUID(asked.run["id"]), Running(), force=True)

        review, person = reviewed([good()], set_going, says(approve=["image 1"]))
        assert len(review.approved) == 1
        assert len(person.asked) == 2

    def test_a_cancelled_run_waits_no_longer(self):
        def cancel(asked):
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(uuid.UUID(asked.run["id"]), Cancelled(), force=True)

        name = f"cancelled-{uuid.uuid4().hex}"
        with Person(name, (cancel,)).watching(), pytest.raises(BaseException, match="is Cancelled and waits for no"):
            asking.with_options(flow_run_name=name)([good()])
        assert Api(PREFECT_API_URL.value()).run(name)["state"]["type"] == "CANCELLED"


@flow(validate_parameters=False)
def asking(outcomes: list[Any], options: dict[str, Any] | None = None) -> n1n.Review:
    return n1n.review_images(outcomes, **(options or {}))


def reviewed(outcomes: list[Any], *answers: Callable[[Asked], Any], **options: Any) -> tuple[n1n.Review, Person]:
    person = Person(f"review-{uuid.uuid4().hex}", answers)
    with person.watching():
        review = asking.with_options(flow_run_name=person.name)(outcomes, options=options)
    return review, person


# ── a server that is not always well ─────────────────────────────────────────


def reviewed_through(*troubles: Trouble, answers: tuple[Callable[[Asked], Any], ...], **options: Any) -> n1n.Review:
    """What was decided where the run's own requests meet trouble, and the person's do not."""

    @flow(validate_parameters=False)
    def asking_through() -> n1n.Review:
        with unsteady(*troubles):
            return n1n.review_images([good()], **options)

    person = Person(f"unsteady-{uuid.uuid4().hex}", answers)
    with person.watching():
        return asking_through.with_options(flow_run_name=person.name)()


_EXPIRING = {"answers": (), "timeout_seconds": 2.0, "on_timeout": "approve"}


class TestAnUnsteadyServer:
    @pytest.mark.parametrize("what", ["-deadline", "-asked-0", "-schema", "-description", "-told"])
    def test_a_record_whose_answer_was_lost_is_kept_once(self, what):
        lost = Trouble(rf'POST .*/input .*"key": ?"[^"]*{what}"', 503, arrives=True)
        assert len(reviewed_through(lost, answers=(says(approve=["image 1"]),)).approved) == 1

    def test_a_run_that_waits_though_the_answer_was_lost_goes_on_waiting(self):
        lost = Trouble(r'POST .*/set_state .*"PAUSED"', 503, arrives=True)
        assert len(reviewed_through(lost, answers=(says(approve=["image 1"]),)).approved) == 1

    @pytest.mark.parametrize("status", [500, 504])
    def test_a_look_at_the_run_that_fails_ends_no_wait(self, status):
        broken = Trouble(r"GET .*/flow_runs/[0-9a-f-]{36} ", status)
        assert len(reviewed_through(broken, answers=(says(approve=["image 1"]),)).approved) == 1

    def test_neither_does_a_decision_that_cannot_be_read(self):
        broken = Trouble(r"GET .*/input/\S*-response ")
        assert len(reviewed_through(broken, answers=(says(approve=["image 1"]),)).approved) == 1

    @pytest.mark.parametrize(
        "broken",
        [
            Trouble(r'POST .*/set_state .*"RUNNING"'),
            Trouble(r'POST .*/set_state .*"RUNNING"', arrives=True),
            Trouble(r"GET .*/input/\S*-response "),
        ],
    )
    def test_neither_does_a_deadline_that_cannot_be_acted_on_at_once(self, broken):
        review = reviewed_through(broken, **_EXPIRING)
        assert [image.decided_by for image in review.approved] == ["timeout"]

    def test_a_server_that_refuses_is_believed(self):
        refusing = Trouble(r"GET .*/flow_runs/[0-9a-f-]{36} ", 403)
        with pytest.raises(PrefectHTTPStatusError, match="403"):
            reviewed_through(refusing, answers=(), timeout_seconds=60)


class TestRecord:
    def test_a_deadline_whose_removal_was_not_answered_is_gone(self):
        with recorded(Trouble("DELETE .*/input/.*-deadline", 503, arrives=True)) as kept:
            kept.set_deadline(_NOON)
            kept.forget_deadline()
            assert kept.deadline() is None

    def test_another_value_under_the_same_key_is_no_repetition(self):
        with recorded() as kept:
            assert kept.set_deadline(_NOON) == kept.set_deadline(_NOON)
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                kept.set_deadline(_NOON + timedelta(days=1))

    def test_a_mark_that_cannot_be_kept_is_told(self):
        with recorded(Trouble("POST .*/input .*-told")) as kept, pytest.raises(PrefectHTTPStatusError, match="500"):
            kept.once("told")


_NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


@contextmanager
def recorded(*troubles: Trouble) -> Iterator[ReviewRecord]:
    """What is kept of a question, in a run that is only a row."""
    with unsteady(*troubles), get_client(sync_client=True) as client:
        run = client.create_flow_run(asking, state=Pending())
        yield ReviewRecord(client, run, Question((good(),), True, "fail"), "n1n-review")


class TestStartedByAutomation:
    def test_also_where_it_waited_for_a_free_slot(self):
        with recorded() as record:
            deployment = deployed_with_one_slot(record.client)
            first, run = [record.client.create_flow_run_from_deployment(deployment) for _ in range(2)]
            kept = replace(record, flow_run=run)
            assert kept.client.set_flow_run_state(first.id, Pending()).status == "ACCEPT"
            run_out(kept)
            assert kept.was_started_by_automation()
            answer = kept.client.set_flow_run_state(run.id, Pending())  # as a worker asks
            assert (answer.state.type, answer.state.name) == ("SCHEDULED", "AwaitingConcurrencySlot")
            assert kept.was_started_by_automation()
            kept.client.set_flow_run_state(first.id, Completed(), force=True)
            for state in (Scheduled(name="Late"), Pending(), Running()):
                kept.client.set_flow_run_state(run.id, state, force=True)
            assert kept.was_started_by_automation()

    def test_not_where_a_person_started_it_since(self):
        with recorded() as kept:
            assert not kept.was_started_by_automation()
            run_out(kept)
            kept.client.set_flow_run_state(kept.flow_run.id, Failed(message="Nobody decided."), force=True)
            kept.client.set_flow_run_state(kept.flow_run.id, Scheduled(), force=True)
            assert not kept.was_started_by_automation()


def deployed_with_one_slot(client: SyncPrefectClient) -> uuid.UUID:
    flow_id = client.create_flow(asking)
    return client.create_deployment(flow_id, f"one-{uuid.uuid4().hex}", concurrency_limit=1)


def run_out(kept: ReviewRecord) -> None:
    """The server fails the run, and the automation starts it."""
    for state in (Failed(message=RUN_OUT), Scheduled(name=EXPIRED)):
        kept.client.set_flow_run_state(kept.flow_run.id, state, force=True)


# ── other ways to ask ────────────────────────────────────────────────────────


class TestHow:
    def test_an_asynchronous_flow_may_give_coroutines(self):
        @flow
        async def drawing() -> n1n.Review:
            async def draw(outcome: ImageOutcome) -> ImageOutcome:
                return outcome

            return await n1n.areview_images([draw(good()), asyncio.ensure_future(draw(refused()))])

        person = Person(f"async-{uuid.uuid4().hex}", (says(approve=["image 1"]),))
        with person.watching():
            review = asyncio.run(drawing.with_options(flow_run_name=person.name)())
        assert [image.number for image in review.approved] == [1]
        assert [row.status for row in review.failed] == ["refused"]

    def test_a_subflow_may_pause(self):
        person = Person(f"subflow-{uuid.uuid4().hex}", (says(approve=["image 1"]),))

        @flow
        def whole() -> n1n.Review:
            return asking.with_options(flow_run_name=person.name)([good()])

        with person.watching():
            assert len(whole().approved) == 1

    def test_no_pictures_are_needed_of_what_has_no_original(self):
        bare = good(image=None)
        review, person = reviewed([n1n.UploadedImage(**_bare_upload(bare))], says(approve=["image 1"]))
        assert review.approved[0].uploaded.key == bare.uploaded.key
        assert "**Image 1**" in person.asked[0].description

    def test_prompts_are_left_out_on_demand(self):
        _, person = reviewed([good()], says(approve=[]))
        assert "A red mug on a table" in person.asked[0].description
        _, person = reviewed([good()], says(approve=[]), show_prompts=False)
        assert "A red mug" not in person.asked[0].description

    def test_a_task_cannot_ask(self):
        @task
        def ask() -> None:
            n1n.review_images([good()])

        @flow
        def asks() -> None:
            ask()

        with pytest.raises(InvalidRequestError, match="call it in a @flow, and not in a task"):
            asks()

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"on_timeout": "explode"}, "on_timeout='explode' is none of reject, approve, fail"),
            ({"wait": "sleep"}, "wait='sleep' is none of pause, suspend"),
            ({"timeout_seconds": 0}, "timeout_seconds=0 is not more than 0"),
            ({"timeout_seconds": float("nan")}, "timeout_seconds=nan is not more than 0"),
            ({"timeout_seconds": float("inf")}, "timeout_seconds=inf .* at most 31536000, a year"),
            ({"timeout_seconds": 1e12}, "timeout_seconds=1000000000000.0 .* at most 31536000, a year"),
            ({"key": "Round 1"}, "key='Round 1' cannot be"),
            ({"wait": "suspend"}, "without a deployment"),
        ],
    )
    def test_wrong_arguments_are_refused(self, options, why):
        with pytest.raises(InvalidRequestError, match=why):
            asking([good()], options=options)

    def test_it_is_told_to_automations_and_shown_on_the_page(self):
        _, person = reviewed([good(), refused()], says(approve=["image 1"], note="a secret note", reviewer="Ann"))
        run = person.asked[0].run
        artifacts = person.asked[0].api.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        assert [artifact["key"] for artifact in artifacts] == ["n1n-review"]
        assert "Which images shall be published?" in artifacts[0]["data"]
        events = events_of(run["id"], count=2)
        assert [event.event for event in events] == ["n1n.review.requested", "n1n.review.decided"]
        assert {key: events[0].payload[key] for key in ("images", "failed", "wait", "on_timeout")} == {
            "images": 1, "failed": 1, "wait": "pause", "on_timeout": "reject",
        }  # fmt: skip
        assert events[1].payload["approved"] == 1
        assert events[1].payload["reviewer"] == "Ann"
        assert "secret" not in str(events)
        assert "red mug" not in str(events)


def _bare_upload(outcome: ImageOutcome) -> dict[str, Any]:
    names = [name for name in n1n.UploadedImage.__dataclass_fields__ if name != "original"]
    return {name: getattr(outcome.uploaded, name) for name in names}


def events_of(run_id: str, count: int) -> list[Any]:
    """The run's reviews as the server has them, oldest first."""
    wanted = EventFilter(event=EventNameFilter(prefix=["n1n.review."]))
    for _ in range(PATIENCE_SECONDS * 5):
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")}).json()
        mine = [event for event in found["events"] if run_id in event["resource"]["prefect.resource.id"]]
        if len(mine) == count:
            from prefect.events import Event

            return [Event.model_validate(event) for event in reversed(mine)]
        time.sleep(0.2)
    raise AssertionError(found)


# ── killed while it waits ────────────────────────────────────────────────────


class TestKilled:
    def test_goes_on_where_it_was_and_pays_for_nothing_again(self, shop, capsys):
        save(shop)
        api = Api(PREFECT_API_URL.value())
        with in_a_process(shop.name):
            api.asked(shop.name).says(regenerate=["image 2"], note="at night", approve=["image 1"])
            second = api.asked(shop.name)
        paid = shop.paid
        assert len(paid) == 4

        assert command(["resume", second.run["id"], "--entrypoint", ENTRYPOINT]) == 1
        assert "It waits for a person" in capsys.readouterr().err

        # The first round's answer is kept; only the second question is asked again.
        person = Person(shop.name, (says(approve=["image 4"], reviewer="Ann"),))
        waiting = second.run["state"]["id"]
        with later(person, api, waiting).watching():
            assert command(["resume", second.run["id"], "--entrypoint", ENTRYPOINT, "--force"]) == 0
        assert shop.paid == paid
        assert shop.count() == (0, 2)
        told = [event.payload["wait"] for event in events_of(second.run["id"], 5) if "requested" in event.event]
        assert told == ["pause"] * 3

    def test_after_an_answer_that_nobody_was_there_to_hear(self, shop, capsys):
        save(shop)
        api = Api(PREFECT_API_URL.value())
        with in_a_process(shop.name):
            asked = api.asked(shop.name)
        asked.says(approve=["image 3"])
        assert api.run(shop.name)["state"]["type"] == "RUNNING"
        assert command(["resume", asked.run["id"], "--entrypoint", ENTRYPOINT, "--force"]) == 0
        assert shop.count() == (0, 1)
        assert shop.paid == ["a red fox"] * 3


@contextmanager
def in_a_process(name: str) -> Iterator[None]:
    """The example flow in a process group of its own, which is killed at the end."""
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    arguments = [sys.executable, "-m", "tests.publishing", "run", name]
    process = subprocess.Popen(arguments, env=environment, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def later(person: Person, api: Api, than: str) -> Person:
    """The person, who is not asked before the run has left a state."""
    first, *others = person.answers

    def wait_and_answer(_: Asked) -> Any:
        for _ in range(PATIENCE_SECONDS * 10):
            asked = api.asked(person.name)
            if asked.run["state"]["id"] != than:
                return first(asked)
            time.sleep(0.1)
        raise AssertionError("not asked again")

    return Person(person.name, (wait_and_answer, *others))


# ── discarding ───────────────────────────────────────────────────────────────


class TestDiscard:
    def test_removes_the_image_once(self, shop, own_storage):
        uploaded = n1n.upload_image.fn(staged(), destination=shop.pending)
        assert n1n.discard_image.fn(uploaded, location=shop.pending)
        assert not n1n.discard_image.fn(uploaded, location=shop.pending)
        assert asyncio.run(n1n.adiscard_image.fn(uploaded, location=shop.pending)) is False

    def test_leaves_what_another_put_there(self, shop, own_storage):
        uploaded = n1n.upload_image.fn(staged(), destination=shop.pending, key="one.png")
        n1n.upload_image.fn(staged(png(9, 9)), destination=shop.pending, key="one.png", if_exists="replace")
        with pytest.raises(n1n.UploadError, match="holds something else by now"):
            n1n.discard_image.fn(uploaded, location=shop.pending)
        kept = n1n.upload_image.fn(staged(), destination=shop.pending, key="one.png", if_exists="keep")
        with pytest.raises(InvalidRequestError, match="it is not ours to delete"):
            n1n.discard_image.fn(kept, location=shop.pending)

    def test_leaves_what_was_published_in_place(self, shop, own_storage):
        uploaded = n1n.upload_image.fn(staged(), destination=shop.pending)
        again = n1n.upload_image.fn(uploaded, destination=shop.pending)
        with pytest.raises(InvalidRequestError, match="is where the image was published to"):
            n1n.discard_image.fn(uploaded, location=shop.pending, published=again)

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [({"image": "s3://a/b"}, "image must be a UploadedImage"), ({"location": "here"}, "location")],
    )
    def test_wrong_arguments_are_refused(self, shop, own_storage, arguments, why):
        given = {"image": n1n.upload_image.fn(staged(), destination=shop.pending), "location": shop.pending}
        with pytest.raises(InvalidRequestError, match=why):
            n1n.discard_image.fn(**(given | arguments))
