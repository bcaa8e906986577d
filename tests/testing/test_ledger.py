import http.client
import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from n1n_prefect import catalog
from n1n_prefect.testing import Call, Ledger, LocalGateway
from n1n_prefect.testing.ledger import PRICES, price_usd
from tests.testing.asking import Ask, body

CALL = Call(1, datetime(2026, 11, 1, tzinfo=timezone.utc), "gemini-2.5-flash-image", "id", 200, "image", True, 0.039)


class TestPrice:
    def test_every_model_has_one_for_each_of_its_sizes(self) -> None:
        for model in catalog.MODELS:
            assert set(PRICES[model.id]) == set(model.image_sizes or ("1K",))

    @pytest.mark.parametrize(
        ("model", "size", "usd"),
        [
            ("gemini-2.5-flash-image", None, 0.039),
            ("gemini-3-pro-image-preview", "4K", 0.24),
            ("gemini-3.1-flash-image", None, 0.067),
            ("gemini-nano-banana-2.1", "2K", 0.0504),
            ("my-own", "4K", 0.04),
        ],
    )
    def test_depends_on_model_and_size(self, model: str, size: str | None, usd: float) -> None:
        assert price_usd(model, size) == usd


class TestLedger:
    def test_the_bill_is_what_was_billed(self) -> None:
        ledger = Ledger()
        for call in (CALL, replace(CALL, billed=False, usd=0.0, outcome="refused"), replace(CALL, number=3, usd=0.24)):
            ledger.write(call)
        assert ledger.usd == 0.279
        assert [call.number for call in ledger.billed] == [1, 3]
        assert len(ledger.calls) == 3

    def test_what_it_gives_out_is_a_copy(self) -> None:
        ledger = Ledger()
        ledger.calls.append(CALL)
        assert ledger.calls == []

    def test_duplicates_are_equal_requests_that_were_each_billed(self) -> None:
        ledger = Ledger()
        one, two = replace(CALL, request_sha256="one"), replace(CALL, number=2, request_sha256="two")
        again, free = replace(one, number=3), replace(two, number=4, billed=False)
        for call in (one, two, again, free):
            ledger.write(call)
        assert ledger.duplicates() == [[one, again]]
        assert "the same request billed more than once: 1 request, 1 call too many, $0.0390" in ledger.summary()

    def test_cutting_off_keeps_the_bill(self) -> None:
        ledger = Ledger()
        ledger.write(CALL)
        cut = ledger.cut_off(CALL)
        assert ledger.calls == [cut] == [replace(CALL, delivered=False)]
        assert ledger.usd == 0.039
        assert "billed and not delivered: 1" in ledger.summary()

    def test_cutting_off_a_forgotten_call_changes_nothing(self) -> None:
        ledger = Ledger()
        ledger.write(CALL)
        ledger.reset()
        ledger.cut_off(CALL)
        assert (ledger.calls, ledger.usd) == ([], 0)

    def test_reset_counts_from_one_again(self) -> None:
        ledger = Ledger()
        numbers = []
        for _ in range(2):
            with ledger.arrival() as number:
                numbers.append(number)
            ledger.reset()
        assert (numbers, ledger.most_in_flight) == ([1, 1], 0)

    def test_most_in_flight_falls_never(self) -> None:
        ledger = Ledger()
        with ledger.arrival(), ledger.arrival():
            pass
        with ledger.arrival():
            pass
        assert ledger.most_in_flight == 2

    def test_summary_of_nothing(self) -> None:
        assert Ledger().summary().startswith("0 calls, 0 billed: $0.0000")


class TestCalls:
    """What the gateway enters."""

    def test_the_same_request_in_other_words_has_the_same_hash(self, ask: Ask, gateway: LocalGateway) -> None:
        ask(body("a cat", imageConfig={"aspectRatio": "1:1"}))
        ask({"generationConfig": {"image_config": {"aspect_ratio": "1:1"}}, "contents": body("a cat")["contents"]})
        ask(body("a cat"))
        first, second, third = gateway.ledger.calls
        assert first.request_sha256 == second.request_sha256 != third.request_sha256
        assert first.prompt_sha256 == third.prompt_sha256
        assert gateway.ledger.duplicates() == [[first, second]]

    def test_another_model_or_input_is_another_request(self, ask: Ask, gateway: LocalGateway) -> None:
        ask(body("a cat"))
        ask(body("a cat"), "gemini-3.1-flash-image")
        assert gateway.ledger.duplicates() == []

    def test_a_streamed_call_asks_the_same(self, ask: Ask, gateway: LocalGateway) -> None:
        ask(body("a cat"))
        ask(body("a cat"), action="streamGenerateContent?alt=sse")
        assert len(gateway.ledger.duplicates()) == 1

    def test_a_line_says_who_what_and_when(self, ask: Ask, gateway: LocalGateway) -> None:
        response = ask(body("a  cat\n" + "x" * 200, imageConfig={"imageSize": "2K"}), "gemini-3.1-flash-image")
        (call,) = gateway.ledger.calls
        assert (call.number, call.model, call.usd) == (1, "gemini-3.1-flash-image", 0.101)
        assert call.request_id == response.headers["x-oneapi-request-id"]
        assert call.prompt_excerpt.startswith("a cat xxx")
        assert len(call.prompt_excerpt) == 80
        assert call.at.tzinfo is timezone.utc

    def test_an_image_whose_way_was_cut_is_billed(self, gateway: LocalGateway) -> None:
        gateway.faults.add("truncated_body")
        connection = http.client.HTTPConnection("127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1]))
        path = "/v1beta/models/gemini-2.5-flash-image:generateContent"
        connection.request("POST", path, json.dumps(body()), {"x-goog-api-key": gateway.api_key})
        with connection.getresponse() as response, pytest.raises(http.client.IncompleteRead):
            response.read()
        connection.close()
        (call,) = gateway.ledger.calls
        assert (call.billed, call.delivered, call.outcome, call.usd) == (True, False, "image", 0.039)

    def test_lists_and_pages_are_no_calls(self, gateway: LocalGateway) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1]))
        for path in ("/", "/ledger", "/v1/models"):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.close()
        assert gateway.ledger.calls == []
