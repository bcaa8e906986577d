"""Which error a failed reply is: (status, headers, body) in four envelopes to one class of the tree.

The envelopes are OpenAI's and the gateway's own (`error.message/type/code`), Google's
(`error.status/details`), the flat one of its Midjourney routes (`description/type/code`),
and HTML or nothing from a proxy in front.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from n1n_prefect import errors
from n1n_prefect.images import excerpt
from n1n_prefect.masking import without_secrets
from n1n_prefect.wire.exchange import request_id_of

_GOOGLE_STATUS = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PAYMENT_REQUIRED": 402, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
_QUOTA_CODES = {"insufficient_user_quota", "pre_consume_token_quota_failed", "insufficient_quota", "quota_exceeded"}
_REFUSAL_CODES = {"sensitive_words_detected", "prompt_blocked", "moderation_blocked", "content_policy_violation"}
_NO_CHANNEL = re.compile(r"no available channel|无可用渠道|可用渠道不存在|no channel", re.IGNORECASE)
_NO_BALANCE = re.compile(
    r"额度不足|额度失败|额度已用尽|余额不足|insufficient (balance|quota|credit|funds)|balance is (negative|too low)",
    re.IGNORECASE,
)
_PER_DAY = re.compile(r"per[ _]?day|daily (?:quota|limit)\b(?! ?s?\W*page)|limit: 0\b", re.IGNORECASE)
_WAIT = re.compile(
    r"(?:retry|try again)\s+(?:in|after)\s+(\d+(?:\.\d+)?)(?![\d.]*\d)"
    r"\s*(ms|milliseconds?|m\b|min\w*|s\b|sec\w*)?",
    re.IGNORECASE,
)
_REQUEST_ID = re.compile(r"\s*\(request id: ([^)]*)\)", re.IGNORECASE)
_KEY_WORDS = re.compile(r"api[ _]key not valid|api_key_invalid|invalid api key|无效的令牌", re.IGNORECASE)
# Gateways and proxies that stopped waiting while the upstream may have gone on; 520 is Cloudflare's
# "the origin said something I do not understand".
_NOBODY_KNOWS = {499, 504, 520, 524}


@dataclass(frozen=True)
class _Said:
    """What the envelope says, whichever it is."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str = ""
    google_status: str = ""
    details: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    request_id: str = ""


def error_from(status: int, headers: Mapping[str, str], body: bytes | memoryview) -> errors.N1nError:
    """The error that a reply outside 2xx is, with the gateway's words, code and request id.

    Args:
        status: HTTP status.
        headers: Names in lower case.
        body: JSON in any of the known envelopes, HTML, or empty.
    """
    return _classify(status, headers, _read(bytes(body)))


def error_within(status: int, headers: Mapping[str, str], document: dict[str, Any]) -> errors.N1nError:
    """The error that a 2xx reply with an `error` object in it is."""
    return _classify(status, headers, _said(document))


def _read(body: bytes) -> _Said:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _Said(message=_words_of_page(body))
    if isinstance(document, list) and document:
        document = document[0]
    return _said(document) if isinstance(document, dict) else _Said(message=excerpt(str(document or ""), 300))


def _said(document: dict[str, Any]) -> _Said:
    error = document.get("error", document)
    if not isinstance(error, dict):
        error = {"message": str(error or ""), "code": document.get("code"), "type": document.get("type")}
    message = error.get("message") or error.get("description") or error.get("detail") or ""
    message = message if isinstance(message, str) else orjson.dumps(message).decode()
    found = _REQUEST_ID.search(message)
    return _Said(
        message=excerpt(without_secrets(_REQUEST_ID.sub("", message)), 500),
        code=_text(error.get("code")),
        type=_text(error.get("type")),
        param=_text(error.get("param")),
        google_status=_text(error.get("status")),
        details=_objects(error.get("details")),
        request_id=found[1] if found else "",
    )


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _words_of_page(body: bytes) -> str:
    """The title of an HTML page, else the start of whatever came."""
    page = body[:20_000].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    words = title[1] if title else re.sub(r"<[^>]+>", " ", page)
    return excerpt(without_secrets(words), 200)


def _effective_status(status: int, said: _Said) -> int:
    """The status that counts: gateways remap theirs, and put the upstream's into the body."""
    if said.code == "bad_response_status_code" and said.param.isdigit():
        return int(said.param)
    if status in (200, 500):
        inner = int(said.code) if said.code.isdigit() else _GOOGLE_STATUS.get(said.google_status, 0)
        return inner if 400 <= inner < 600 else max(status, 500)
    return status


def _classify(status: int, headers: Mapping[str, str], said: _Said) -> errors.N1nError:
    effective = _effective_status(status, said)
    kind, what, remedy = _kind(effective, said)
    quoted = f": {said.message}" if said.message else ""
    message = f"{what} (HTTP {status}{f', {said.code}' if said.code not in ('', str(status)) else ''}){quoted}"
    return kind(
        f"{message if message.endswith(('.', '。', '!', '?')) else message + '.'} {remedy}",
        said.request_id or request_id_of(headers),
        status_code=status,
        code=said.code or said.google_status,
        retry_after_seconds=_retry_after(headers, said),
    )


_Verdict = tuple[type[errors.N1nError], str, str]


def _kind(status: int, said: _Said) -> _Verdict:
    """The class, what happened, and what to do; what the body says goes before the status."""
    return _by_words(status, said) or _by_status(status, said)


def _by_words(status: int, said: _Said) -> _Verdict | None:
    if status == 402 or said.code in _QUOTA_CODES or _NO_BALANCE.search(said.message):
        return errors.QuotaError, "The balance or quota is used up", "Top up the account or raise the key's quota."
    if status == 429 and _is_hard_quota(said):
        return (
            errors.QuotaError,
            "A daily or zero quota is exhausted",
            "Wait for the next day, or ask for a higher quota; a retry now cannot succeed.",
        )
    if said.code in _REFUSAL_CODES:
        return errors.RefusedError, "The prompt was refused", "Change the prompt."
    if said.code == "model_not_found" or _NO_CHANNEL.search(said.message):
        return (
            errors.ModelNotAvailableError,
            "This key's group has no such model",
            "Choose a model that the key serves (`n1n-prefect models` lists them), or a key of another group.",
        )
    if _KEY_WORDS.search(said.message) or any(d.get("reason") == "API_KEY_INVALID" for d in said.details):
        return errors.AuthenticationError, "The API key was not accepted", _CHECK_KEY
    return None


_CHECK_KEY = "Check `api_key` in the n1n Credentials block, and that `base_url` is the gateway that issued it."
_BAD_CALL = (errors.InvalidRequestError, "The gateway did not accept the request", "Change the request.")
_PASSES = "It usually passes with time; nothing was charged."
_BY_STATUS: dict[int, _Verdict] = {
    401: (errors.AuthenticationError, "The API key was not accepted", _CHECK_KEY),
    403: (
        errors.PermissionDeniedError,
        "The key may not do this",
        "Check the key's group, its allowed models and addresses, and that the account is active.",
    ),
    404: (
        errors.ModelNotAvailableError,
        "The gateway does not know this model",
        "Choose a model that the key serves; `n1n-prefect models` lists them.",
    ),
    408: (errors.GatewayError, "The gateway gave up waiting for the request", _PASSES),
    413: (
        errors.InvalidRequestError,
        "The request is too large for the gateway",
        "Send fewer or smaller input images.",
    ),
    429: (errors.RateLimitError, "Too many calls", "Waiting as long as the server says, then trying again."),
}


def _by_status(status: int, said: _Said) -> _Verdict:
    if status == 404 and said.message.startswith("Invalid URL"):
        return (
            errors.InvalidRequestError,
            "The gateway has no such route",
            "Check `base_url`: it ends before `/v1beta`.",
        )
    if said.google_status == "FAILED_PRECONDITION":
        return errors.PermissionDeniedError, "The account or its location may not do this", "Check billing and region."
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return errors.InvalidRequestError, "The gateway's address redirects elsewhere", "Check `base_url`."
    if status in _NOBODY_KNOWS or said.code == "channel:response_time_exceeded":
        return (
            errors.OutcomeUnknownError,
            "A proxy stopped waiting; the image may have been made and billed",
            "Spending.on_unknown_outcome decides whether the call is made again.",
        )
    if 400 <= status < 500:
        return _BAD_CALL
    return errors.GatewayError, "The gateway or its upstream failed", _PASSES


def _is_hard_quota(said: _Said) -> bool:
    return bool(_PER_DAY.search(said.message)) or any(
        _PER_DAY.search(_text(violation.get("quotaId"))) or _text(violation.get("quotaValue")) == "0"
        for violation in _violations(said)
    )


def _violations(said: _Said) -> Iterator[dict[str, Any]]:
    for detail in said.details:
        yield from _objects(detail.get("violations"))


def _retry_after(headers: Mapping[str, str], said: _Said) -> float | None:
    """Seconds to wait, from the header, Google's RetryInfo, or the words."""
    for wait in (_header_wait(headers.get("retry-after", "")), _info_wait(said), _worded_wait(said.message)):
        if wait is not None:
            return max(wait, 0.0)
    return None


def _header_wait(value: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, TypeError):
        return None


def _info_wait(said: _Said) -> float | None:
    for detail in said.details:
        delay = _text(detail.get("retryDelay"))
        if re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _worded_wait(message: str) -> float | None:
    found = _WAIT.search(message)
    if not found:
        return None
    unit = (found[2] or "s").lower()
    seconds = float(found[1])
    return seconds / 1000 if unit.startswith(("ms", "milli")) else seconds * 60 if unit.startswith("m") else seconds
