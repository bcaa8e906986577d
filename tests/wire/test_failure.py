"""Which error each failed reply is, in every envelope."""

import json
import pickle
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from n1n_prefect import errors
from n1n_prefect.wire.failure import error_from

SAMPLES = Path(__file__).parents[1] / "samples" / "errors"


def error(status, body=b"", **headers):
    body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    return error_from(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def recorded(status, name):
    return error_from(status, {}, (SAMPLES / name).read_bytes())


class TestEnvelopes:
    @pytest.mark.parametrize(
        ("status", "name", "kind", "code", "words"),
        [
            (401, "gateway.json", errors.AuthenticationError, "", "无效的令牌"),
            (400, "relay.json", errors.InvalidRequestError, "400", "response modalities"),
            (400, "google-key.json", errors.AuthenticationError, "400", "API key not valid"),
            (429, "google-retry-info.json", errors.RateLimitError, "429", "Resource exhausted"),
            (429, "google-per-day.json", errors.QuotaError, "429", "current quota"),
            (429, "google-zero.json", errors.QuotaError, "429", "limit: 0"),
            (403, "quota.json", errors.QuotaError, "insufficient_user_quota", "剩余额度"),
            (503, "no-channel.json", errors.ModelNotAvailableError, "model_not_found", "无可用渠道"),
            (400, "midjourney.json", errors.InvalidRequestError, "4", "parameter error"),
            (500, "upstream-524.json", errors.OutcomeUnknownError, "bad_response_status_code", ""),
            (500, "inner-403.json", errors.PermissionDeniedError, "403", "not allowed"),
            (524, "cloudflare-524.html", errors.OutcomeUnknownError, "", "A timeout occurred"),
        ],
    )
    def test_each_form_gives_class_code_and_words(self, status, name, kind, code, words):
        found = recorded(status, name)
        assert type(found) is kind
        assert (found.code, found.status_code) == (code, status)
        assert words in str(found)

    def test_the_request_id_comes_from_the_header_or_the_words_and_stands_once(self):
        assert recorded(401, "gateway.json").request_id == "202511010203"
        assert str(recorded(401, "gateway.json")).count("202511010203") == 1
        assert error(500, b"", x_oneapi_request_id="h1").request_id == "h1"

    @pytest.mark.parametrize(
        "body",
        [b"", b"null", b'"text"', b"[]", b"[[1]]", {"error": None}, {"error": "plain"}, {"detail": [{"msg": "x"}]}],
    )
    def test_a_strange_body_is_still_an_error_of_its_status(self, body):
        assert type(error(502, body)) is errors.GatewayError

    def test_an_error_in_a_list_as_streams_have_it(self):
        assert type(error(403, [{"error": {"code": 403, "message": "no"}}])) is errors.PermissionDeniedError


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (302, errors.InvalidRequestError), (400, errors.InvalidRequestError), (401, errors.AuthenticationError),
            (402, errors.QuotaError), (403, errors.PermissionDeniedError), (404, errors.ModelNotAvailableError),
            (405, errors.InvalidRequestError), (408, errors.GatewayError), (413, errors.InvalidRequestError),
            (422, errors.InvalidRequestError), (429, errors.RateLimitError), (499, errors.OutcomeUnknownError),
            (500, errors.GatewayError), (501, errors.GatewayError), (502, errors.GatewayError),
            (503, errors.GatewayError), (504, errors.OutcomeUnknownError), (520, errors.OutcomeUnknownError),
            (521, errors.GatewayError), (524, errors.OutcomeUnknownError),
        ],
    )  # fmt: skip
    def test_each_without_a_body(self, status, kind):
        assert type(error(status)) is kind

    def test_a_wrong_route_is_not_a_missing_model(self):
        found = error(404, {"error": {"message": "Invalid URL (POST /v1/v1beta)", "type": "invalid_request_error"}})
        assert type(found) is errors.InvalidRequestError
        assert "base_url" in str(found)

    def test_what_cannot_succeed_is_not_transient(self):
        final = (401, 402, 403, 404, 413, 422)
        assert not any(error(status).is_transient for status in final)
        assert error(429).is_transient
        assert error(503).is_transient

    @pytest.mark.parametrize("code", ["sensitive_words_detected", "prompt_blocked"])
    def test_a_gateways_own_refusal(self, code):
        assert type(error(400, {"error": {"message": "no", "code": code}})) is errors.RefusedError

    @pytest.mark.parametrize("status", ["FAILED_PRECONDITION"])
    def test_a_location_that_may_not(self, status):
        found = error(400, {"error": {"code": 400, "message": "User location is not supported.", "status": status}})
        assert type(found) is errors.PermissionDeniedError


class TestRetryAfter:
    def test_seconds_in_the_header(self):
        assert error(429, retry_after="7").retry_after_seconds == 7

    def test_a_date_in_the_header(self):
        when = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
        assert 80 < error(429, retry_after=when).retry_after_seconds <= 90

    def test_a_date_that_has_passed_is_no_negative_wait(self):
        assert error(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT").retry_after_seconds == 0

    def test_googles_retry_info(self):
        assert recorded(429, "google-retry-info.json").retry_after_seconds == 34.4

    @pytest.mark.parametrize(
        ("words", "seconds"),
        [("Please retry in 12.3s.", 12.3), ("try again in 20 seconds", 20), ("Retry after 2 minutes", 120),
         ("retry in 350ms", 0.35), ("retry in 3.", 3)],
    )  # fmt: skip
    def test_words(self, words, seconds):
        assert error(429, {"error": {"message": words}}).retry_after_seconds == pytest.approx(seconds)

    @pytest.mark.parametrize("words", ["retry in 1.2.3.4", "try again after 2026.11.23"])
    def test_a_version_or_a_date_is_no_wait(self, words):
        assert error(429, {"error": {"message": words}}).retry_after_seconds is None

    @pytest.mark.parametrize("details", [5, "x", [{"retryDelay": "1.2.3s"}, {"violations": 5}]])
    def test_odd_details_are_no_wait(self, details):
        found = error(429, {"error": {"message": "busy", "details": details}})
        assert (type(found), found.retry_after_seconds) == (errors.RateLimitError, None)

    def test_a_page_about_daily_limits_is_no_daily_limit(self):
        found = error(429, {"error": {"message": "5 per minute. See our daily limits page."}})
        assert type(found) is errors.RateLimitError

    @pytest.mark.parametrize("header", ["soon", "", "12 apples", "nan", "inf", "-3"])
    def test_nonsense_is_no_hint(self, header):
        assert error(429, retry_after=header).retry_after_seconds is None


class TestSecrets:
    @pytest.mark.parametrize(
        "echo", ["Bearer sk-abcdef1234567890", "key sk-abcdef1234567890 is bad", "?key=AIzaSyA1234567890"]
    )
    def test_a_key_that_the_gateway_echoes_is_masked(self, echo):
        text = str(error(401, {"error": {"message": f"Refused: {echo}"}}))
        assert "1234567890" not in text
        assert "***" in text

    def test_an_error_survives_pickling_with_all_it_knows(self):
        found = recorded(429, "google-retry-info.json")
        again = pickle.loads(pickle.dumps(found))
        assert (type(again), str(again), again.__dict__) == (type(found), str(found), found.__dict__)
