"""Which address gives what: the paid calls, and the lists and balances around them."""

import html
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from n1n_prefect import catalog
from n1n_prefect.testing.access import authorise
from n1n_prefect.testing.envelopes import Json, RejectedError, invalid
from n1n_prefect.testing.exchange import Answer, Heard, Stream, converse

if TYPE_CHECKING:
    from n1n_prefect.testing.gateway import LocalGateway

_PAID = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)")
_IMAGE = re.compile(r"/images/([0-9a-f]{64})\.(?:png|jpg)")
_QUOTA_UNITS = 500_000  # a dollar in the family's own unit
_UNLIMITED_USD = 100_000_000


def paid_model(heard: Heard) -> str | None:
    """The model of a paid call, or None for another request."""
    fits = _PAID.fullmatch(unquote(heard.path))
    return fits[1] if fits and heard.method == "POST" else None


def answer(gateway: "LocalGateway", heard: Heard) -> Answer:
    """The answer to any request, serialised."""
    path = unquote(heard.path)
    paid = _PAID.fullmatch(path)
    if paid and heard.method == "POST":
        return converse(gateway, heard, paid[1], _stream(paid[2], heard))
    try:
        given = _free(gateway, heard, path, bool(paid))
    except RejectedError as rejected:
        given = Answer(rejected.content, rejected.status, rejected.headers)
    if not given.pieces:
        given.serialise(heard.request_id)
    return given


def _stream(action: str, heard: Heard) -> Stream:
    if heard.query.get("alt") == "sse":
        return "sse"
    return "array" if action == "streamGenerateContent" else ""


def _free(gateway: "LocalGateway", heard: Heard, path: str, is_paid: bool) -> Answer:
    """The answer to a request that costs nothing."""
    if image := _IMAGE.fullmatch(path):
        return _hosted(gateway, heard, image[1])
    route = _ROUTES.get(path)
    if route is None and not is_paid:
        raise _wrong_address(404, heard)
    if route is None or heard.method not in ("GET", "HEAD"):
        raise _wrong_address(405, heard, "POST" if route is None else "GET")
    write, needs_key = route
    if needs_key:
        authorise(heard.headers, heard.query, gateway.api_keys)
    return Answer(write(gateway, heard))


def _wrong_address(status: int, heard: Heard, allowed: str = "") -> RejectedError:
    what = "Invalid URL" if status == 404 else "Method not allowed"
    said = f"{what} ({heard.method} {heard.path})"
    content = {"error": {"message": said, "type": "invalid_request_error", "param": "", "code": ""}}
    return RejectedError(status, content, {"Allow": allowed} if allowed else None)


def _gemini_models(gateway: "LocalGateway", heard: Heard) -> Json:
    size, token = heard.query.get("pageSize", "50"), heard.query.get("pageToken", "0")
    if not (size.isdecimal() and token.isdecimal()):
        raise invalid(f"Invalid value at 'page_token' or 'page_size': {token!r}, {size!r}")
    start, end = int(token), int(token) + min(int(size) or 50, 1000)
    listed: Json = {"models": [_gemini_model(model) for model in gateway.models[start:end]]}
    return {**listed, "nextPageToken": str(end)} if end < len(gateway.models) else listed


def _gemini_model(name: str) -> Json:
    known = catalog.find(name)
    return {
        "name": f"models/{name}",
        "version": "local",
        "displayName": known.nick if known else name,
        "description": "Drawn by a local gateway",
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
    }


def _openai_models(gateway: "LocalGateway", heard: Heard) -> Json:
    del heard
    items = [
        {"id": name, "object": "model", "created": 1_626_777_600, "owned_by": "custom",
         "supported_endpoint_types": ["gemini", "openai"]}
        for name in gateway.models
    ]  # fmt: skip
    return {"object": "list", "data": items}


def _token_usage(gateway: "LocalGateway", heard: Heard) -> Json:
    del heard
    used, granted = round(gateway.ledger.usd * _QUOTA_UNITS), round((gateway.granted_usd or 0) * _QUOTA_UNITS)
    token = {
        "object": "token_usage", "name": "local", "total_granted": granted, "total_used": used,
        "total_available": granted - used, "unlimited_quota": gateway.granted_usd is None, "model_limits": {},
        "model_limits_enabled": False, "expires_at": 0,
    }  # fmt: skip
    return {"code": True, "message": "ok", "data": token}


def _subscription(gateway: "LocalGateway", heard: Heard) -> Json:
    del heard
    usd = _UNLIMITED_USD if gateway.granted_usd is None else gateway.granted_usd
    return {
        "object": "billing_subscription", "has_payment_method": True, "soft_limit_usd": usd, "hard_limit_usd": usd,
        "system_hard_limit_usd": usd, "access_until": 0,
    }  # fmt: skip


def _billing_usage(gateway: "LocalGateway", heard: Heard) -> Json:
    del heard
    return {"object": "list", "total_usage": round(gateway.ledger.usd * 100, 4)}


def _ledger(gateway: "LocalGateway", heard: Heard) -> Json:
    del heard
    ledger = gateway.ledger
    return {
        "usd": ledger.usd,
        "billed": len(ledger.billed),
        "most_in_flight": ledger.most_in_flight,
        "duplicates": [[call.number for call in group] for group in ledger.duplicates()],
        "pending_faults": gateway.faults.pending,
        "calls": [asdict(call) for call in ledger.calls],
    }


def _front_page(gateway: "LocalGateway", heard: Heard) -> str:
    del heard
    summary = html.escape(gateway.ledger.summary())
    return (
        "<!doctype html><meta charset='utf-8'><meta http-equiv='refresh' content='2'>"
        "<title>Local n1n gateway</title><style>body{font:16px/1.5 sans-serif;max-width:46em;margin:3em auto}</style>"
        f"<h1>Local n1n gateway</h1><p>Base URL <code>{gateway.base_url}</code>, key <code>{gateway.api_key}</code>. "
        "Nothing here costs money; the bill shows what it would have been.</p>"
        f"<pre>{summary}</pre><p><a href='/ledger'>Every call as JSON</a></p>"
    )


def _hosted(gateway: "LocalGateway", heard: Heard, name: str) -> Answer:
    found = gateway.hosted(name)
    if found is None:
        raise _wrong_address(404, heard)
    data, media_type = found
    return Answer(headers={"Content-Type": media_type}, pieces=[data])


_Write = Callable[["LocalGateway", Heard], Any]
_ROUTES: dict[str, tuple[_Write, bool]] = {
    "/": (_front_page, False),
    "/ledger": (_ledger, False),
    "/v1beta/models": (_gemini_models, True),
    "/v1/models": (_openai_models, True),
    "/api/usage/token": (_token_usage, True),
    "/v1/dashboard/billing/subscription": (_subscription, True),
    "/v1/dashboard/billing/usage": (_billing_usage, True),
}
