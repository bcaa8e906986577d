import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from n1n_prefect import N1nCredentials
from n1n_prefect.errors import N1nError
from n1n_prefect.testing import FAULTS, FaultMatrix, FaultRow, LocalGateway, run_fault_matrix
from tests.testing.asking import Ask, asking, body, parts_of

PATH = "/v1beta/models/gemini-2.5-flash-image:generateContent"
ROW = FaultRow("internal", True, 2, 1, 1, 0, 0, 0, 0.1, 0, "1 uploaded")


def draw(credentials: N1nCredentials, prompt: str = "a fox", **options: Any) -> bytes:
    """One paid call with nothing around it."""
    with credentials.get_client() as client:
        return client.generate(prompt, **options).data


def stubborn(credentials: N1nCredentials, most: int = 3) -> bytes | None:
    """Calls again whatever went wrong, and at once."""
    for _ in range(most):
        try:
            return draw(credentials)
        except N1nError:  # noqa: PERF203 - each is a paid call
            continue
    return None


def insistent(credentials: N1nCredentials) -> bytes:
    """Calls twice, whatever came of the first call."""
    with suppress(N1nError):
        draw(credentials)
    return draw(credentials)


def post(credentials: N1nCredentials, **options: Any) -> httpx.Response:
    """The same from a client of one's own, which knows nothing of ours."""
    headers = {"Authorization": f"Bearer {credentials.api_key.get_secret_value()}"}
    with httpx.Client(base_url=credentials.base_url, headers=headers, timeout=30, verify=False) as client:
        return client.post(PATH, json=body(), **options)


def image_in(response: httpx.Response) -> bytes:
    return base64.b64decode(parts_of(response)[-1]["inlineData"]["data"])


def only(flow_call: Callable[[N1nCredentials], object], fault: str = "ok", **options: Any) -> FaultRow:
    (row,) = run_fault_matrix(flow_call, faults=[fault], **options).rows
    return row


def figures(row: FaultRow) -> tuple[int, int, int, int, int]:
    return row.calls, row.billed, row.duplicates, row.maybe_twice, row.lost


@pytest.fixture
def hashing(gateway: LocalGateway) -> Iterator[LocalGateway]:
    """The gateway, with the images' SHA-256 in its ledger."""
    gateway.hash_images = True
    yield gateway
    gateway.hash_images = False


class TestFaultsSayWhatTheirCallerKnows:
    """The matrix rests on three facts that stand at each fault."""

    @pytest.mark.parametrize("name", FAULTS)
    def test_a_charge_without_an_image_or_a_word_is_a_doubt(self, hashing: LocalGateway, name: str) -> None:
        fault, gateway = FAULTS[name], hashing
        gateway.faults.add(name, **({"seconds": 0} if "seconds" in fault.details else {}))
        with asking(gateway) as client:
            try:
                text = client.post(PATH, json=body()).text
            except httpx.TransportError:
                text = None
        (call,) = gateway.ledger.calls
        if text is None or (call.billed and not call.image_sha256):
            assert fault.in_doubt
        if not call.billed and text is not None:
            assert not fault.in_doubt or fault.name == "deadline_exceeded"  # it is Google's, who may have gone on
        assert fault.by_address == bool(text and f"{gateway.base_url}/images/{call.image_sha256}" in text)

    def test_only_errors_ask_to_wait(self) -> None:
        asking_to_wait = [name for name, fault in FAULTS.items() if fault.asks_to_wait]
        assert asking_to_wait == [
            "rate_limited", "rate_limited_date", "rate_limited_retry_info", "rate_limited_text",
        ]  # fmt: skip


class TestTheLedgerKnowsTheImage:
    def test_by_the_bytes_that_left(self, ask: Ask, hashing: LocalGateway) -> None:
        hashing.faults.plan(["ok", "truncated_image", "draft_parts", "mislabelled+truncated_image"])
        for call in range(4):
            parts = ask().json()["candidates"][0]["content"]["parts"]
            sent = [part["inlineData"]["data"] for part in parts if "inlineData" in part][-1]
            assert hashing.ledger.calls[call].image_sha256 == hashlib.sha256(base64.b64decode(sent)).hexdigest()

    @pytest.mark.parametrize("fault", ["internal", "safety", "text_only", "bad_base64", "empty_data", "html_in_200"])
    def test_and_knows_where_there_is_none(self, ask: Ask, hashing: LocalGateway, fault: str) -> None:
        hashing.faults.add(fault)
        ask()
        assert hashing.ledger.calls[0].image_sha256 == ""

    def test_if_it_is_asked_to(self, ask: Ask, gateway: LocalGateway) -> None:
        ask()
        assert gateway.ledger.calls[0].image_sha256 == ""

    def test_what_waits_to_be_sent_when_the_gateway_closes_was_not_delivered(self) -> None:
        with LocalGateway(canned=True, grain=False) as gateway, ThreadPoolExecutor(1) as thread:
            gateway.faults.add("slow", seconds=300)
            with asking(gateway) as client:
                answer = thread.submit(client.post, PATH, json=body())
                while not gateway.ledger.calls:
                    time.sleep(0.01)
                gateway.close()
                assert isinstance(answer.exception(), httpx.TransportError)
        (call,) = gateway.ledger.calls
        assert (call.billed, call.delivered) == (True, False)


@pytest.fixture(scope="module")
def matrix() -> FaultMatrix:
    """All faults, and nothing around the call."""
    return run_fault_matrix(draw, seconds=0)


@pytest.mark.slow
class TestAFlowThatPaysOnce:
    def test_passes_under_every_fault(self, matrix: FaultMatrix) -> None:
        assert [row.fault for row in matrix.rows] == list(FAULTS)
        matrix.assert_paid_once()

    def test_has_the_figures_of_the_ledger(self, matrix: FaultMatrix) -> None:
        for row in matrix.rows:
            fault = FAULTS[row.fault]
            assert figures(row) == (1, fault.billed, 0, 0, 0)
            assert (row.struck, row.outcome_is_known) == (1, not fault.in_doubt)

    def test_says_how_it_ended(self, matrix: FaultMatrix) -> None:
        rows = {row.fault: row for row in matrix.rows}
        assert (rows["ok"].ended, rows["ok"].words, rows["ok"].note) == ("returned bytes", "", "")
        assert rows["internal"].ended == "raised GatewayError"
        assert rows["internal"].words.startswith("The gateway or its upstream failed")
        assert rows["key_echoed"].words.count("***") == 1
        assert "which was not fetched" in rows["image_url"].note


class TestDuplicates:
    def test_are_what_was_paid_although_the_image_was_there(self) -> None:
        row = only(lambda credentials: [draw(credentials), draw(credentials)])
        assert figures(row) == (2, 2, 1, 0, 0)
        assert row.problems == ("paid 1 image too many though it had the image: 2 calls, 2 billed",)

    def test_even_when_both_were_under_way_at_once(self) -> None:
        with ThreadPoolExecutor(2) as threads:
            row = only(lambda credentials: list(threads.map(draw, [credentials] * 2)), "slow", seconds=0.2)
        assert row.duplicates == 1

    @pytest.mark.parametrize("fault", ["wrong_size", "mislabelled", "snake_case_reply", "parts_url"])
    def test_come_of_asking_again_for_an_image_that_was_not_liked(self, fault: str) -> None:
        assert only(insistent, fault).duplicates == 1

    @pytest.mark.parametrize("fault", ["internal", "rate_limited", "safety", "no_image"])
    def test_do_not_come_of_asking_again_after_nothing(self, fault: str) -> None:
        assert figures(only(stubborn, fault, seconds=0)) == (2, 1, 0, 0, 0)

    def test_are_no_different_requests(self) -> None:
        row = only(lambda credentials: [draw(credentials, prompt) for prompt in ("a fox", "an owl")], "wrong_size")
        assert figures(row) == (2, 2, 0, 0, 0)

    def test_are_no_samples_that_were_meant(self) -> None:
        def twice(credentials: N1nCredentials) -> object:
            return [draw(credentials), draw(credentials)]

        assert only(twice, images=2).problems == ()
        assert only(lambda credentials: [*twice(credentials), draw(credentials)], images=2).duplicates == 1

    def test_hide_behind_a_changed_request_unless_the_number_of_images_is_said(self) -> None:
        def changing(credentials: N1nCredentials) -> object:
            return [draw(credentials, seed=1), draw(credentials, seed=2)]

        assert only(changing).duplicates == 0
        assert only(changing, images=1).duplicates == 1


class TestMaybeTwice:
    @pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.in_doubt])
    def test_is_what_repeats_an_unknown_outcome(self, fault: str) -> None:
        matrix = run_fault_matrix(insistent, faults=[fault])
        assert figures(matrix.rows[0]) == (2, 1 + FAULTS[fault].billed, 0, 1, 0)
        matrix.assert_paid_once()

    def test_is_no_licence_to_pay_on(self) -> None:
        row = only(lambda credentials: [stubborn(credentials), draw(credentials)], "gateway_timeout")
        assert figures(row) == (3, 3, 1, 1, 0)

    def test_so_is_what_repeats_a_call_that_the_flow_hung_up_on(self) -> None:
        def impatient(credentials: N1nCredentials) -> object:
            with pytest.raises(httpx.ReadTimeout):
                post(credentials, timeout=httpx.Timeout(30, read=0.05))
            return image_in(post(credentials))

        row = only(impatient, "slow", seconds=300)
        assert row.outcome_is_known
        assert figures(row) == (2, 2, 0, 1, 0)

    def test_counts_among_the_images_that_were_meant(self) -> None:
        def two(credentials: N1nCredentials) -> object:
            return [stubborn(credentials), draw(credentials, "an owl")]

        assert figures(only(two, "reset_mid_body", images=2)) == (3, 3, 0, 1, 0)


class TestLost:
    @pytest.mark.parametrize("value", [None, [], "done", {"status": "ok"}], ids=repr)
    def test_is_an_image_that_the_flow_does_not_give_back(self, value: object) -> None:
        def forgetful(credentials: N1nCredentials) -> object:
            draw(credentials)
            return value

        row = only(forgetful)
        assert figures(row) == (1, 1, 0, 0, 1)
        assert row.problems[0].startswith("lost 1 of 1 paid image, delivered whole; it returned ")

    def test_is_one_that_went_down_with_another(self) -> None:
        def all_or_nothing(credentials: N1nCredentials) -> object:
            return [draw(credentials, prompt) for prompt in ("a fox", "an owl")]

        assert figures(only(all_or_nothing)) == (2, 2, 0, 0, 0)
        assert only(all_or_nothing, "internal").lost == 0
        row = only(lambda credentials: [draw(credentials, "an owl"), 1 / 0])
        assert (figures(row), row.ended, row.words) == ((1, 1, 0, 0, 1), "raised ZeroDivisionError", "division by zero")

    def test_is_one_that_a_swallowed_error_threw_away(self) -> None:
        def swallowing(credentials: N1nCredentials) -> object:
            try:
                return post(credentials).json()["candidates"][0]["content"]["parts"][0]["inlineData"]["data"][:5]
            except Exception:
                return None

        assert figures(only(swallowing, "wrong_size")) == (1, 1, 0, 0, 1)
        assert figures(only(swallowing, "internal")) == (1, 0, 0, 0, 0)
        assert figures(only(swallowing, "reset_mid_body")) == (1, 1, 0, 0, 0)

    def test_is_none_that_the_flow_put_elsewhere(self, tmp_path: Path) -> None:
        def saving(credentials: N1nCredentials) -> None:
            (tmp_path / "fox.png").write_bytes(draw(credentials))
            raise RuntimeError("and then the disk was full")

        async def files() -> list[Path]:
            return [tmp_path / "fox.png"]

        assert only(saving).lost == 1
        assert only(saving, kept=lambda: tmp_path.glob("*.png")).lost == 0
        assert only(saving, kept=files).lost == 0

    def test_is_never_mistaken_for_an_image_of_an_earlier_run(self, tmp_path: Path) -> None:
        def saving_once(credentials: N1nCredentials) -> None:
            data = draw(credentials)
            if not list(tmp_path.iterdir()):
                (tmp_path / "fox.png").write_bytes(data)

        rows = run_fault_matrix(saving_once, faults=["ok"] * 2, kept=lambda: tmp_path.glob("*")).rows
        assert [row.lost for row in rows] == [0, 1]

    def test_an_address_is_not_lost_and_may_be_fetched(self) -> None:
        def fetching(credentials: N1nCredentials) -> object:
            return httpx.get(post(credentials).json()["candidates"][0]["content"]["parts"][-1]["url"]).content

        row = only(fetching, "parts_url")
        assert (figures(row), row.note) == ((1, 1, 0, 0, 0), "")


class TestAFlowThatShowsNothing:
    def test_because_it_never_calls(self) -> None:
        matrix = run_fault_matrix(lambda credentials: None, faults=["ok", "internal"])
        assert {row.note for row in matrix.rows} == {"the flow never called the gateway for an image"}
        with pytest.raises(AssertionError) as failed:
            matrix.assert_paid_once()
        assert str(failed.value) == (
            "The flow failed 2 of 2 faults.\n"
            "  ok, internal: the flow never called the gateway for an image, so this shows nothing; it returned None"
        )

    def test_because_it_cannot_be_called(self) -> None:
        row = only(lambda: None)  # pyright: ignore[reportArgumentType]
        assert row.ended == "raised TypeError"
        assert "takes 0 po" in row.problems[0]

    def test_because_it_is_turned_away(self) -> None:
        def stranger(credentials: N1nCredentials) -> int:
            return httpx.post(credentials.base_url + PATH, json=body(), headers={"x-goog-api-key": "sk-no"}).status_code

        row = only(stranger)
        assert (row.calls, row.note, row.ended) == (1, "the fault struck no call", "returned int")
        assert row.problems

    def test_because_it_only_asks_what_costs_nothing(self) -> None:
        def reader(credentials: N1nCredentials) -> object:
            with credentials.get_client() as client:
                return client.models()

        assert only(reader).calls == 0


class TestHowAFlowIsRun:
    async def test_from_within_a_loop_as_from_without(self) -> None:
        async def call(credentials: N1nCredentials) -> bytes:
            async with credentials.get_async_client() as client:
                return (await client.generate("a fox")).data

        assert figures(only(call)) == (1, 1, 0, 0, 0)
        assert figures(only(draw)) == (1, 1, 0, 0, 0)

    def test_asynchronously(self) -> None:
        async def call(credentials: N1nCredentials) -> list[bytes]:
            async with credentials.get_async_client() as client:
                replies = await asyncio.gather(*(client.generate(prompt) for prompt in ("a fox", "an owl")))
            return [reply.data for reply in replies]

        row = only(call)
        assert (figures(row), row.ended) == ((2, 2, 0, 0, 0), "returned 2 bytes")

    def test_to_the_end_of_a_generator(self) -> None:
        row = only(lambda credentials: (draw(credentials, prompt) for prompt in ("a fox", "an owl")))
        assert figures(row) == (2, 2, 0, 0, 0)

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), ValueError("no")], ids=repr)
    def test_whatever_comes_out_of_it_is_a_row(self, error: BaseException) -> None:
        def failing(credentials: N1nCredentials) -> None:
            raise error

        assert only(failing).ended == f"raised {type(error).__name__}"

    def test_an_error_without_words_is_one_too(self) -> None:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def failing(credentials: N1nCredentials) -> None:
            raise MuteError

        assert (only(failing).ended, only(failing).words) == ("raised MuteError", "")

    def test_an_interrupt_is_none(self) -> None:
        def interrupted(credentials: N1nCredentials) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            only(interrupted)

    def test_with_credentials_that_no_other_run_has(self) -> None:
        seen: list[N1nCredentials] = []
        run_fault_matrix(seen.append, faults=["ok"] * 3)
        assert len({given.api_key for given in seen}) == len({given.account for given in seen}) == 3

    def test_what_it_leaves_running_does_not_count(self) -> None:
        with ThreadPoolExecutor(1) as thread:
            left = []

            def leaving(credentials: N1nCredentials) -> None:
                left.append(thread.submit(post, credentials))
                while not left[0].running():
                    time.sleep(0.01)

            row = only(leaving, "slow", seconds=300)
            assert isinstance(left[0].exception(), httpx.TransportError)
        assert (row.lost, row.duplicates) == (0, 0)


class TestWaiting:
    @pytest.mark.parametrize(("seconds", "said"), [(1, "1"), (2.0, "2"), (0, "0"), (0.25, "0.25")])
    def test_is_asked_for_as_long_as_the_caller_says(self, seconds: float, said: str) -> None:
        answers: list[str] = []
        row = only(lambda c: answers.append(post(c).headers["retry-after"]), "rate_limited", seconds=seconds)
        assert (answers, row.asked_seconds) == ([said], seconds)

    def test_is_measured_from_answer_to_call(self) -> None:
        def patient(credentials: N1nCredentials) -> object:
            post(credentials)
            time.sleep(0.1)
            return image_in(post(credentials))

        assert only(patient, "internal").waited_seconds > 0
        assert only(patient, "wrong_size").waited_seconds == 0, "it had the image and waited for nothing"
        assert only(draw, "internal").waited_seconds == 0

    def test_is_measured_between_calls_that_nobody_read(self) -> None:
        def persistent(credentials: N1nCredentials) -> None:
            for _ in range(2):
                with suppress(httpx.TransportError):
                    post(credentials)
                time.sleep(0.1)

        row = only(persistent, "close_idle:2")
        assert figures(row) == (2, 0, 0, 0, 0)
        assert row.waited_seconds > 0


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"faults": ["intrenal"]}, "Did you mean internal"),
            ({"faults": []}, "faults is empty"),
            ({"faults": ["internal:0"]}, "how many calls"),
            ({"faults": ["ok", "gzip+close_idle"]}, "closes the connection unread"),
            ({"images": 0}, "images=0 must be at least 1"),
            ({"seconds": -1}, "seconds=-1 must be 0 to 3600"),
            ({"seconds": float("nan")}, "seconds=nan must be 0 to 3600"),
        ],
    )
    def test_that_make_no_sense_are_refused_before_anything_runs(self, options: dict[str, Any], said: str) -> None:
        def never(credentials: N1nCredentials) -> None:
            raise KeyboardInterrupt

        with pytest.raises(ValueError, match=said):
            run_fault_matrix(never, **options)

    def test_that_cannot_be_called_are_refused(self) -> None:
        with pytest.raises(TypeError, match="flow_call must be a callable, not bytes; write a lambda"):
            run_fault_matrix(b"the flow's result")  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="kept must be a callable, not list"):
            run_fault_matrix(draw, kept=[])  # pyright: ignore[reportArgumentType]

    def test_faults_are_names_or_steps_in_any_case(self) -> None:
        rows = run_fault_matrix(stubborn, faults=["INTERNAL:2", "gzip+chunked", "internal:*"]).rows
        assert [(row.fault, row.calls, row.billed) for row in rows] == [
            ("INTERNAL:2", 3, 1),
            ("gzip+chunked", 1, 1),
            ("internal:*", 3, 0),
        ]
        assert only(draw, "ok").calls == len(run_fault_matrix(draw, faults="ok").rows) == 1

    def test_an_error_in_kept_is_the_callers_own(self) -> None:
        with pytest.raises(ZeroDivisionError):
            only(draw, kept=lambda: 1 / 0)


class TestTable:
    ROWS = (
        ROW,
        FaultRow("rate_limited", True, 2, 1, 1, 0, 0, 0, 1.04, 1, "1 uploaded"),
        FaultRow("bad_gateway", True, 2, 1, 1, 0, 0, 0, 0.2, 0, "1 uploaded"),
        FaultRow("html_in_200", False, 1, 1, 1, 0, 0, 0, 0, 0, "raised MalformedReplyError", "a | b", "and a note"),
    )

    def test_has_a_line_for_each_fault(self) -> None:
        assert str(FaultMatrix(self.ROWS)).splitlines() == [
            "| Fault | Its outcome | Calls | Billed | Duplicates | Maybe twice | Lost | Waited | The flow ended |",
            "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
            "| `internal` | known | 2 | 1 | 0 | 0 | 0 | 0.1 s | 1 uploaded |",
            "| `rate_limited` | known | 2 | 1 | 0 | 0 | 0 | 1.0 s of 1 s | 1 uploaded |",
            "| `bad_gateway` | known | 2 | 1 | 0 | 0 | 0 | 0.2 s | 1 uploaded |",
            r"| `html_in_200` | unknown | 1 | 1 | 0 | 0 | 0 |  | raised MalformedReplyError: a \| b; and a note |",
        ]

    def test_or_for_each_kind_of_ending(self) -> None:
        assert FaultMatrix(self.ROWS).to_markdown(grouped=True).splitlines()[2:] == [
            "| `internal`, `bad_gateway` | known | 2 | 1 | 0 | 0 | 0 | 0.2 s | 1 uploaded |",
            "| `rate_limited` | known | 2 | 1 | 0 | 0 | 0 | 1.0 s of 1 s | 1 uploaded |",
            "| `html_in_200` | unknown | 1 | 1 | 0 | 0 | 0 |  | raised MalformedReplyError; and a note |",
        ]

    def test_travels_as_json(self) -> None:
        from pydantic import TypeAdapter

        kind = TypeAdapter(FaultMatrix)
        assert kind.validate_python(json.loads(kind.dump_json(FaultMatrix(self.ROWS)))) == FaultMatrix(self.ROWS)
