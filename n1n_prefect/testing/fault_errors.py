# ruff: noqa: RUF001  # the gateway says these things in Chinese, with its punctuation
"""Faults that answer with an error, or with something that is no answer, instead of an image."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from n1n_prefect.testing.envelopes import Json, detail, google, own, page, relayed
from n1n_prefect.testing.fault_kind import Fault

if TYPE_CHECKING:
    from n1n_prefect.testing.exchange import Exchange


def _error(
    name: str,
    description: str,
    status: int,
    content: Json | str,
    *,
    headers: dict[str, str] | None = None,
    billed: bool = False,
    in_doubt: bool = False,
    **details: Any,
) -> Fault:
    def effect(exchange: "Exchange", given: dict[str, Any]) -> None:
        values = {
            "model": exchange.asked.model,
            "authorization": exchange.heard.headers.get("authorization", ""),
            "date": _http_date(given.get("seconds", 0)),
            **given,
        }
        exchange.answer.status = given["status"]
        exchange.answer.content = _filled(content, values)
        exchange.answer.headers = _filled(headers or {}, values)

    return Fault(name, description, billed, "error", "instead", effect, {"status": status, **details}, in_doubt)


def _filled(content: Any, values: dict[str, Any]) -> Any:
    """The content with every `{name}` in its texts replaced."""
    if isinstance(content, str):
        return content.format_map(values)
    if isinstance(content, dict):
        return {key: _filled(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(value, values) for value in content]
    return content


def _http_date(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


def _quota(metric: str, quota_id: str, value: str) -> Json:
    violation = {
        "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": "{model}"},
        "quotaValue": value,
    }
    return detail("QuotaFailure", violations=[violation])


_EXCEEDED = "You exceeded your current quota, please check your plan and billing details."
_INVALID_KEY = detail(
    "ErrorInfo",
    reason="API_KEY_INVALID",
    domain="googleapis.com",
    metadata={"service": "generativelanguage.googleapis.com"},
)
_PER_DAY = _quota("generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel", "250")
_ZERO = _quota("generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0")
_TOO_LARGE = page("413 Request Entity Too Large")

KINDS = (
    _error("bad_request", "400 INVALID_ARGUMENT without a reason", 400,
           google(400, "Request contains an invalid argument.")),
    _error("failed_precondition", "400 FAILED_PRECONDITION: the location is not served", 400,
           google(400, "User location is not supported for the API use.", status="FAILED_PRECONDITION")),
    _error("invalid_key_google", "400 API_KEY_INVALID, as Google itself says it", 400,
           google(400, "API key not valid. Please pass a valid API key.", _INVALID_KEY)),
    _error("unauthorized", "401: the gateway does not know the key", 401, own("无效的令牌")),
    _error("token_exhausted", "401: the key's own quota is used up", 401,
           own("该令牌额度已用尽 TokenStatusExhausted[sk-loc***way]")),
    _error("key_echoed", "401 whose message repeats the Authorization header", 401,
           own("Incorrect API key provided: {authorization}. You can find your key in the console.")),
    _error("payment_required", "402: the prepaid credit is used up", 402,
           relayed("Your prepaid credit is used up.", "insufficient_quota", "insufficient_quota")),
    _error("forbidden", "403: the address may not use this key", 403,
           own("Your IP address is not in the list of addresses allowed for this token", "access_denied")),
    _error("permission_denied", "403 PERMISSION_DENIED, as Google itself says it", 403,
           google(403, "Your project has been denied access. Please contact support.")),
    _error("quota_exhausted", "403 insufficient_user_quota: the balance is used up", 403,
           own("用户额度不足, 剩余额度: ＄0.012000", "insufficient_user_quota")),
    _error("token_quota_exhausted", "403 pre_consume_token_quota_failed: the key's quota is too small", 403,
           own("预扣费额度失败, 用户剩余额度: ＄0.012000, 需要预扣费额度: ＄0.039000",
               "pre_consume_token_quota_failed")),
    _error("not_found", "404 NOT_FOUND: the model was withdrawn upstream", 404,
           google(404, "models/{model} is not found for API version v1beta, or is not supported for generateContent.")),
    _error("too_large", "413 as a proxy's HTML page", 413, _TOO_LARGE),
    _error("unprocessable", "422 in the gateway's envelope", 422,
           relayed("The request could not be processed.", "invalid_value", "invalid_request_error")),
    _error("rate_limited", "429 with Retry-After in `seconds`", 429,
           own("您已达到请求数限制：1分钟内最多请求60次"), headers={"Retry-After": "{seconds}"}, seconds=1),
    _error("rate_limited_date", "429 with Retry-After as an HTTP date, `seconds` from now", 429,
           own("您已达到请求数限制：1分钟内最多请求60次"), headers={"Retry-After": "{date}"}, seconds=2),
    _error("rate_limited_retry_info", "429 with Google's RetryInfo of `seconds` and no header", 429,
           google(429, "Resource has been exhausted (e.g. check quota).",
                  detail("RetryInfo", retryDelay="{seconds}s")), seconds=1.5),
    _error("rate_limited_text", "429 that says how long to wait in words alone", 429,
           relayed(_EXCEEDED + " Please retry in {seconds}s.", 429), seconds=12.3),
    _error("rate_limited_silent", "429 that does not say how long to wait", 429,
           own("您已达到总请求数限制：1分钟内最多请求60次，包括失败次数")),
    _error("daily_quota", "429 for a quota per day", 429, google(429, _EXCEEDED, _PER_DAY)),
    _error("zero_quota", "429 for a quota of zero: the model is not in the plan", 429,
           google(429, _EXCEEDED + "\n* Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, "
                  "model: {model}", _ZERO)),
    _error("internal", "500 INTERNAL, as Google itself says it", 500,
           google(500, "An internal error has occurred. Please retry.")),
    _error("request_failed", "500 do_request_failed: the gateway did not reach its upstream", 500,
           own("upstream error: do request failed", "do_request_failed")),
    _error("empty_response", "500 empty_response: no candidates from upstream", 500,
           relayed("empty response from Gemini API", "empty_response", "new_api_error")),
    _error("empty_error", "500 with an empty body", 500, ""),
    _error("bad_gateway", "502 as a proxy's HTML page", 502, page("502 Bad Gateway")),
    _error("no_channel", "503 model_not_found: no channel for the model in the key's group", 503,
           own("分组 default 下模型 {model} 无可用渠道（distributor）", "model_not_found")),
    _error("overloaded", "503 UNAVAILABLE: the model is overloaded", 503,
           google(503, "The model is overloaded. Please try again later.")),
    _error("gateway_timeout", "504 as a proxy's HTML page; the image was made", 504,
           page("504 Gateway Time-out"), billed=True, in_doubt=True),
    _error("deadline_exceeded", "504 DEADLINE_EXCEEDED, as Google itself says it", 504,
           google(504, "The request timed out. Please try again."), in_doubt=True),
    _error("cloudflare_timeout", "524 as Cloudflare's HTML page; the image was made", 524,
           page("524: A timeout occurred", "cloudflare"), headers={"CF-RAY": "8f0c2d5e4b7a1c3d-FRA"}, billed=True,
           in_doubt=True),
    _error("upstream_envelope", "an upstream 400 through the relay: numeric code, empty type", 400,
           relayed("Model does not support the requested response modalities: text,image", 400)),
    _error("upstream_envelope_html", "524 in the relay's envelope, with an empty message; the image was made", 524,
           relayed("", "bad_response_status_code", "upstream_error", "524"), billed=True, in_doubt=True),
    _error("upstream_envelope_null", "an upstream 500 through the relay, with a null code", 500,
           relayed("upstream error", None, "upstream_error")),
    _error("upstream_envelope_remapped", "an upstream 403 that a channel's status mapping made a 500", 500,
           relayed("The caller does not have permission", 403, "upstream_error")),
    _error("mj_envelope", "400 in the flat envelope of the Midjourney routes", 400,
           {"description": "parameter error", "type": "upstream_error", "code": 4}),
    _error("error_in_200", "200 with an error inside", 200,
           relayed("upstream load is saturated", 503, "upstream_error")),
    _error("html_in_200", "200 with an HTML page; the image was made", 200, page("Just a moment..."), billed=True,
           in_doubt=True),
    _error("empty_body_200", "200 with an empty body; the image was made", 200, "", billed=True, in_doubt=True),
)  # fmt: skip
