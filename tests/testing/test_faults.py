import base64
import gzip
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from io import BytesIO

import httpx
import pytest
from PIL import Image

from n1n_prefect.testing import FAULTS, Faults, LocalGateway
from tests.testing.asking import Ask, asking, body, image_of, parts_of

FLASH = "gemini-3.1-flash-image"
PATH = "/v1beta/models/gemini-2.5-flash-image:generateContent"


@contextmanager
def answer_of(gateway: LocalGateway) -> Iterator[http.client.HTTPResponse]:
    """The head of an answer, with its body still to be read."""
    address = "127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1])
    with closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        connection.request("POST", PATH, json.dumps(body()), {"Authorization": f"Bearer {gateway.api_key}"})
        with connection.getresponse() as response:
            yield response


class TestTable:
    def test_every_name_in_it_is_its_own_key_and_can_be_typed(self) -> None:
        assert all(name == fault.name and name == name.lower() and ":" not in name for name, fault in FAULTS.items())
        assert all(fault.description for fault in FAULTS.values())

    @pytest.mark.parametrize("name", FAULTS)
    def test_each_is_entered_and_billed_as_it_says(self, gateway: LocalGateway, name: str) -> None:
        fault = FAULTS[name]
        quick = {"seconds": 0} if "seconds" in fault.details else {}
        gateway.faults.add(name, **quick)
        with asking(gateway) as client:
            try:
                answer = client.post(PATH, json=body()).status_code
            except httpx.TransportError:
                answer = 0
        (call,) = gateway.ledger.calls
        assert (call.fault, call.billed, call.outcome) == (name, fault.billed, fault.outcome)
        assert call.usd == (0.039 if fault.billed else 0)
        assert call.status == answer or (answer == 0 and not call.delivered)
        assert gateway.faults.pending == []

    @pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.stage != "unread"])
    def test_each_strikes_a_stream_too(self, gateway: LocalGateway, name: str) -> None:
        quick = {"seconds": 0} if "seconds" in FAULTS[name].details else {}
        gateway.faults.add(name, **quick)
        with asking(gateway) as client:
            address = PATH.replace("generate", "streamGenerate") + "?alt=sse"
            try:
                answer = client.post(address, json=body())
            except httpx.TransportError:
                assert not gateway.ledger.calls[0].delivered
            else:
                assert answer.status_code == gateway.ledger.calls[0].status
        assert gateway.ledger.calls[0].fault == name

    def test_the_answer_after_a_fault_is_a_good_one(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["reset_mid_body", "truncated_body", "close_idle"])
        for _ in range(3):
            with pytest.raises(httpx.TransportError):
                ask()
        assert image_of(ask()).size == (1024, 1024)


class TestErrors:
    """What each error looks like on the wire."""

    @pytest.mark.parametrize(
        ("name", "status", "google_status"),
        [
            ("bad_request", 400, "INVALID_ARGUMENT"),
            ("failed_precondition", 400, "FAILED_PRECONDITION"),
            ("invalid_key_google", 400, "INVALID_ARGUMENT"),
            ("permission_denied", 403, "PERMISSION_DENIED"),
            ("not_found", 404, "NOT_FOUND"),
            ("rate_limited_retry_info", 429, "RESOURCE_EXHAUSTED"),
            ("daily_quota", 429, "RESOURCE_EXHAUSTED"),
            ("zero_quota", 429, "RESOURCE_EXHAUSTED"),
            ("internal", 500, "INTERNAL"),
            ("overloaded", 503, "UNAVAILABLE"),
            ("deadline_exceeded", 504, "DEADLINE_EXCEEDED"),
        ],
    )
    def test_in_googles_envelope(
        self, ask: Ask, gateway: LocalGateway, name: str, status: int, google_status: str
    ) -> None:
        gateway.faults.add(name)
        response = ask()
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["status"]) == (status, status, google_status)
        assert error["message"].endswith(f" (request id: {response.headers['x-oneapi-request-id']})")

    @pytest.mark.parametrize(
        ("name", "status", "kind", "code"),
        [
            ("unauthorized", 401, "new_api_error", ""),
            ("token_exhausted", 401, "new_api_error", ""),
            ("payment_required", 402, "insufficient_quota", "insufficient_quota"),
            ("forbidden", 403, "new_api_error", "access_denied"),
            ("quota_exhausted", 403, "new_api_error", "insufficient_user_quota"),
            ("token_quota_exhausted", 403, "new_api_error", "pre_consume_token_quota_failed"),
            ("unprocessable", 422, "invalid_request_error", "invalid_value"),
            ("rate_limited_silent", 429, "new_api_error", ""),
            ("request_failed", 500, "new_api_error", "do_request_failed"),
            ("empty_response", 500, "new_api_error", "empty_response"),
            ("no_channel", 503, "new_api_error", "model_not_found"),
            ("upstream_envelope", 400, "", 400),
            ("upstream_envelope_html", 524, "upstream_error", "bad_response_status_code"),
            ("upstream_envelope_null", 500, "upstream_error", None),
            ("upstream_envelope_remapped", 500, "upstream_error", 403),
            ("error_in_200", 200, "upstream_error", 503),
        ],
    )
    def test_in_the_gateways_envelope(
        self, ask: Ask, gateway: LocalGateway, name: str, status: int, kind: str, code: str | int | None
    ) -> None:
        gateway.faults.add(name)
        response = ask()
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (status, kind, code)
        assert "status" not in error

    @pytest.mark.parametrize(
        ("name", "status", "said"),
        [
            ("too_large", 413, "413 Request Entity Too Large"),
            ("bad_gateway", 502, "502 Bad Gateway"),
            ("gateway_timeout", 504, "504 Gateway Time-out"),
            ("cloudflare_timeout", 524, "524: A timeout occurred"),
            ("html_in_200", 200, "Just a moment..."),
            ("empty_error", 500, ""),
            ("empty_body_200", 200, ""),
        ],
    )
    def test_as_a_page(self, ask: Ask, gateway: LocalGateway, name: str, status: int, said: str) -> None:
        gateway.faults.add(name)
        response = ask()
        assert (response.status_code, response.headers["content-type"]) == (status, "text/html")
        assert (said in response.text) if said else response.content == b""

    def test_the_midjourney_one_is_flat(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("mj_envelope")
        error = ask().json()
        assert (error["type"], error["code"]) == ("upstream_error", 4)
        assert error["description"].startswith("parameter error (request id: ")

    def test_the_key_comes_back_when_it_is_echoed(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("key_echoed")
        assert f"Bearer {gateway.api_key}" in ask().json()["error"]["message"]

    def test_how_long_to_wait_is_said_in_four_ways(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("rate_limited", seconds=7)
        assert ask().headers["retry-after"] == "7"
        gateway.faults.add("rate_limited_date", seconds=3600)
        date = parsedate_to_datetime(ask().headers["retry-after"])
        assert timedelta(minutes=59) < date - datetime.now(timezone.utc) <= timedelta(hours=1)
        gateway.faults.add("rate_limited_retry_info", seconds=34.4)
        response = ask()
        assert response.json()["error"]["details"][0]["retryDelay"] == "34.4s"
        assert "retry-after" not in response.headers
        gateway.faults.add("rate_limited_text", seconds=12.3)
        assert "Please retry in 12.3s." in ask().json()["error"]["message"]

    def test_quotas_say_which(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["daily_quota", "zero_quota"])
        (violation,) = ask(model=FLASH).json()["error"]["details"][0]["violations"]
        assert "PerDay" in violation["quotaId"]
        assert violation["quotaDimensions"]["model"] == FLASH
        assert "limit: 0, model: " in ask().json()["error"]["message"]

    def test_the_model_of_the_call_is_named(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["no_channel", "not_found"])
        assert FLASH in ask(model=FLASH).json()["error"]["message"]
        assert FLASH in ask(model=FLASH).json()["error"]["message"]

    def test_the_status_can_be_another(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("internal", status=529)
        assert ask().status_code == 529


class TestRefusals:
    @pytest.mark.parametrize(
        "name",
        [
            "safety", "prohibited_content", "blocklist", "spii", "recitation", "image_safety",
            "image_prohibited_content", "image_recitation", "image_other", "no_image", "other",
            "malformed_function_call", "unexpected_tool_call", "too_many_tool_calls", "max_tokens", "language",
        ],
    )  # fmt: skip
    def test_a_finish_reason_without_an_image(self, ask: Ask, gateway: LocalGateway, name: str) -> None:
        gateway.faults.add(name.upper(), message="Try something else.")
        reply = ask(model=FLASH).json()
        (candidate,) = reply["candidates"]
        assert (candidate["finishReason"], candidate["finishMessage"]) == (name.upper(), "Try something else.")
        assert "inlineData" not in json.dumps(reply)
        usage = reply["usageMetadata"]
        assert "candidatesTokenCount" not in usage
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["thoughtsTokenCount"]

    def test_one_that_nobody_knows(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["unknown_finish_reason", "unknown_finish_with_image"])
        without, with_image = ask(), ask()
        assert without.json()["candidates"][0]["finishReason"] == "IMAGE_TOO_BEAUTIFUL"
        assert with_image.json()["candidates"][0]["finishReason"] == "IMAGE_TOO_BEAUTIFUL"
        assert "inlineData" not in without.text
        assert image_of(with_image)

    def test_stop_without_an_image(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("text_only", text="No.")
        gateway.faults.add("null_parts")
        assert parts_of(ask()) == [{"text": "No."}]
        assert parts_of(ask()) is None

    def test_no_candidates_and_no_reason(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["empty_candidates", "null_candidates"])
        replies = [ask().json() for _ in range(2)]
        assert [reply["candidates"] for reply in replies] == [[], None]
        assert all("promptFeedback" not in reply for reply in replies)
        assert all(reply["usageMetadata"]["candidatesTokenCount"] == 0 for reply in replies)

    @pytest.mark.parametrize(
        "reason",
        ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK"],
    )
    def test_a_blocked_prompt(self, ask: Ask, gateway: LocalGateway, reason: str) -> None:
        gateway.faults.add(f"prompt_blocked_{reason}")
        reply = ask().json()
        assert reply["promptFeedback"] == {"blockReason": reason}
        assert "candidates" not in reply

    def test_a_blocked_prompt_in_other_shapes(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(
            ["prompt_blocked_no_reason", "prompt_blocked_null_candidates", "prompt_blocked_empty_candidates"]
        )
        first, second, third = (ask().json() for _ in range(3))
        assert list(first["promptFeedback"]) == ["blockReasonMessage"]
        assert (second["candidates"], third["candidates"]) == (None, [])


class TestReplies:
    def test_other_pixels_of_the_same_shape(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("wrong_size", factor=0.25)
        gateway.faults.add("wrong_size", factor=0.001)
        assert image_of(ask()).size == (256, 256)
        assert image_of(ask()).size == (1, 1)

    def test_another_shape(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("wrong_ratio", 2)
        assert image_of(ask(body(imageConfig={"aspectRatio": "16:9"}))).size == (768, 1344)
        assert image_of(ask()).size == (1024, 576)

    def test_one_colour(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("blank_image")
        assert image_of(ask()).getcolors() == [(1024 * 1024, (128, 128, 128))]

    def test_a_type_that_is_not_the_files(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("mislabelled", 2)
        for model, declared, real in (("gemini-2.5-flash-image", "jpeg", "PNG"), (FLASH, "png", "JPEG")):
            response = ask(model=model)
            assert parts_of(response)[-1]["inlineData"]["mimeType"] == f"image/{declared}"
            assert image_of(response).format == real

    def test_a_file_that_ends_early(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("truncated_image")
        with pytest.raises(OSError, match="truncated"):
            image_of(ask())

    def test_no_image_in_the_base64(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["not_an_image", "empty_data"])
        assert base64.b64decode(parts_of(ask())[-1]["inlineData"]["data"]).startswith(b"<html>")
        assert parts_of(ask())[-1]["inlineData"]["data"] == ""

    def test_no_base64(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("bad_base64")
        with pytest.raises(ValueError, match="base64"):
            image_of(ask())

    def test_drafts_before_the_picture(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("draft_parts", drafts=9)
        parts = [part for part in parts_of(ask(model=FLASH)) if "inlineData" in part]
        assert len(parts) == 10
        assert not any("thought" in part for part in parts)

    def test_names_in_snake_case(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("snake_case_reply")
        reply = ask(model=FLASH).json()
        part = reply["candidates"][0]["content"]["parts"][-1]
        assert part["inline_data"]["mime_type"] == "image/jpeg"
        assert reply["usage_metadata"]["candidates_token_count"]
        assert reply["candidates"][0]["finish_reason"] == "STOP"
        assert {"model_version", "response_id"} <= set(reply)

    def test_nulls_and_leanness(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.plan(["nulls_everywhere", "bare_reply", "missing_usage"])
        nulls, bare, unmetered = ask(model=FLASH), ask(model=FLASH), ask(model=FLASH)
        assert parts_of(nulls)[-1]["text"] is None
        assert nulls.json()["usageMetadata"] is None
        assert nulls.json()["error"] is None
        assert "thoughtSignature" not in bare.text
        assert "modelVersion" not in bare.json()
        assert "usageMetadata" not in unmetered.json()

    def test_another_model_and_a_huge_signature(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("substituted_model", model="something-cheaper")
        gateway.faults.add("huge_signature")
        assert ask().json()["modelVersion"] == "something-cheaper"
        assert len(parts_of(ask())[-1]["thoughtSignature"]) == 2_900_000

    def test_the_image_inside_the_words(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("markdown_image")
        text = parts_of(ask())[-1]["text"]
        assert text.startswith("![image](data:image/png;base64,")
        data = base64.b64decode(text.removesuffix(")").partition("base64,")[2], validate=True)
        assert Image.open(BytesIO(data)).size == (1024, 1024)

    @pytest.mark.parametrize("name", ["markdown_url", "image_url", "parts_url", "openai_data_url"])
    def test_an_address_that_serves_the_image(self, ask: Ask, gateway: LocalGateway, name: str) -> None:
        gateway.faults.add(name)
        reply = ask(model=FLASH)
        start = reply.text.index("http://")
        address = reply.text[start : reply.text.index(".jpg", start) + 4]
        image = httpx.get(address)
        assert image.headers["content-type"] == "image/jpeg"
        assert Image.open(BytesIO(image.content)).size == (1408, 768)
        assert "inlineData" not in reply.text

    def test_openais_shape(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("openai_data")
        (item,) = ask().json()["data"]
        assert Image.open(BytesIO(base64.b64decode(item["b64_json"]))).size == (1024, 1024)
        assert item["url"] == ""


class TestSending:
    def test_the_body_ends_before_its_length(self, gateway: LocalGateway) -> None:
        gateway.faults.add("truncated_body", share=0.25)
        with answer_of(gateway) as response, pytest.raises(http.client.IncompleteRead) as cut:
            response.read()
        whole = int(response.headers["Content-Length"])
        assert len(cut.value.partial) == whole // 4

    def test_the_connection_is_reset_in_the_body(self, gateway: LocalGateway) -> None:
        gateway.faults.add("reset_mid_body")
        broken = pytest.raises((ConnectionResetError, http.client.IncompleteRead))
        with answer_of(gateway) as response, broken:
            response.read()

    def test_the_connection_is_reset_before_an_answer(self, gateway: LocalGateway) -> None:
        gateway.faults.add("reset_before_reply")
        with pytest.raises(ConnectionResetError), answer_of(gateway):
            pass
        (call,) = gateway.ledger.calls
        assert (call.billed, call.delivered, call.status) == (True, False, 0)

    def test_the_connection_is_closed_before_an_answer(self, gateway: LocalGateway) -> None:
        gateway.faults.add("close_before_reply")
        with pytest.raises(http.client.RemoteDisconnected), answer_of(gateway):
            pass
        assert gateway.ledger.usd == 0.039

    def test_the_connection_is_closed_unread(self, gateway: LocalGateway) -> None:
        gateway.faults.add("close_idle")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)), answer_of(gateway):
            pass
        (call,) = gateway.ledger.calls
        assert (call.billed, call.prompt_excerpt, call.fault) == (False, "", "close_idle")

    def test_json_ends_early_under_a_length_that_is_right(self, gateway: LocalGateway) -> None:
        gateway.faults.add("truncated_json")
        with answer_of(gateway) as response:
            text = response.read()
        assert len(text) == int(response.headers["Content-Length"])
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        assert not gateway.ledger.calls[0].delivered

    def test_without_a_length(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("chunked")
        response = ask()
        assert "content-length" not in response.headers
        assert image_of(response)

    def test_in_gzip(self, gateway: LocalGateway) -> None:
        gateway.faults.add("gzip")
        with answer_of(gateway) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert "candidates" in json.loads(gzip.decompress(response.read()))

    def test_late_or_in_drips_the_answer_is_the_same(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("slow", seconds=0.01)
        gateway.faults.add("drip", seconds=0.1)
        assert image_of(ask()).size == image_of(ask()).size == (1024, 1024)

    def test_a_slow_answer_is_too_late_for_the_impatient(self, gateway: LocalGateway) -> None:
        gateway.faults.add("slow", seconds=30)
        with asking(gateway) as client, pytest.raises(httpx.ReadTimeout):
            client.post(PATH, json=body(), timeout=httpx.Timeout(30, read=0.2))
        assert gateway.ledger.billed

    def test_an_error_in_the_middle_of_a_stream(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("sse_error_mid_stream", 2)
        first, error = ask(action="streamGenerateContent?alt=sse").text.split("\r\n\r\n")
        assert first.startswith("data: ")
        assert json.loads(error)["error"]["status"] == "INTERNAL"
        assert ask().json()["error"]["code"] == 500


class TestScript:
    @staticmethod
    def names(faults: Faults, *prompts: str) -> list[str]:
        return ["+".join(fault.kind.name for fault in faults.take(prompt)) for prompt in prompts]

    def test_rules_strike_in_order_as_often_as_they_say(self) -> None:
        faults = Faults()
        faults.add("internal", 2)
        faults.add("slow")
        assert faults.pending == ["internal", "slow"]
        assert self.names(faults, "a", "b", "c", "d") == ["internal", "internal", "slow", ""]
        assert faults.pending == []

    def test_a_rule_without_an_end(self) -> None:
        faults = Faults()
        faults.add("slow", None)
        assert self.names(faults, *"abc") == ["slow"] * 3
        assert faults.pending == []

    def test_a_prompt_can_be_picked_out(self) -> None:
        faults = Faults()
        faults.add("image_safety", match="SKU 17")
        assert self.names(faults, "SKU 16", "draw SKU 17", "SKU 17") == ["", "image_safety", ""]

    def test_the_first_calls_can_be_let_through(self) -> None:
        faults = Faults()
        faults.add("internal", after=2, match="cat")
        faults.add("slow")
        assert self.names(faults, "cat", "dog", "cat", "cat") == ["slow", "", "", "internal"]

    def test_a_plan_says_what_each_call_gets(self) -> None:
        faults = Faults()
        faults.plan(["ok", "rate_limited:2", "ok", "slow+gzip", "internal:*"])
        assert self.names(faults, *"abcdefg") == [
            "ok", "rate_limited", "rate_limited", "ok", "slow+gzip", "internal", "internal",
        ]  # fmt: skip

    def test_clearing(self) -> None:
        faults = Faults()
        faults.add("internal")
        faults.clear()
        assert self.names(faults, "a") == [""]

    def test_a_misspelt_name_is_refused_with_what_is_near(self) -> None:
        with pytest.raises(ValueError, match=r"no fault 'rate_limit'\. Did you mean rate_limited"):
            Faults().add("rate_limit")
        with pytest.raises(ValueError, match="no fault 'nonsense'"):
            Faults().plan(["ok", "slow+nonsense"])

    def test_a_detail_that_a_fault_has_not_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'internal' has no seconds; it takes billed, status"):
            Faults().add("internal", seconds=3)

    @pytest.mark.parametrize("step", ["slow:0", "slow:-1", "slow:many", "slow:", ""])
    def test_a_step_that_makes_no_sense_is_refused(self, step: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            Faults().plan([step])

    def test_times_below_one_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Faults().add("slow", 0)

    def test_a_connection_closed_unread_cannot_know_the_prompt(self) -> None:
        with pytest.raises(ValueError, match="unread"):
            Faults().add("close_idle", match="cat")
        with pytest.raises(ValueError, match="unread"):
            Faults().add("close_idle+slow")

    def test_one_closed_unread_waits_for_its_turn(self) -> None:
        faults = Faults()
        faults.plan(["internal", "close_idle"])
        assert faults.take_unread() == ()
        assert self.names(faults, "a") == ["internal"]
        assert [fault.kind.name for fault in faults.take_unread()] == ["close_idle"]

    def test_who_pays_can_be_said(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("image_safety", billed=True)
        gateway.faults.add("gateway_timeout", billed=False)
        ask()
        ask()
        assert [call.billed for call in gateway.ledger.calls] == [True, False]

    def test_several_strike_together(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("snake_case_reply+gzip+chunked")
        gateway.faults.add("drip+gateway_timeout+rate_limited", seconds=0)
        shaped, late = ask(), ask()
        assert (shaped.headers["content-encoding"], shaped.headers["transfer-encoding"]) == ("gzip", "chunked")
        assert "model_version" in shaped.json()
        assert late.status_code == 429
        assert [call.billed for call in gateway.ledger.calls] == [True, False]

    def test_a_call_that_is_refused_anyway_uses_up_nothing(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("internal")
        assert ask({"contents": []}).status_code == 400
        assert ask(model="nothing").status_code == 503
        assert ask(headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert gateway.faults.pending == ["internal"]
        assert ask().status_code == 500

    def test_callers_at_once_share_the_script(self, gateway: LocalGateway) -> None:
        gateway.faults.add("internal", 7)
        with ThreadPoolExecutor(8) as pool, asking(gateway) as client:
            sent = [pool.submit(client.post, PATH, json=body(f"cat {number}")) for number in range(20)]
            statuses = [call.result().status_code for call in sent]
        assert statuses.count(500) == 7
        assert statuses.count(200) == 13
