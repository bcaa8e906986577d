"""What a key may still spend, as gateways of this family tell it.

Read in the sources of new-api (controller/token.go, controller/billing.go) in November 2026;
n1n documents none of these pages, so that each may be absent.
"""

from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

PATHS = ("/api/usage/token", "/v1/dashboard/billing/subscription", "/v1/dashboard/billing/usage")
"""Where it is told: the first page whole, or the other two together."""

_UNITS_A_USD = 500_000
_UNLIMITED_USD = 100_000_000


@dataclass(frozen=True)
class Balance:
    """What a key has spent and may still spend."""

    used_usd: float
    """US dollars, as the gateway counts them."""

    available_usd: float | None
    """US dollars; None for a key without a limit of its own, which the account's balance bounds then."""


def found(usage: bytes, subscription: bytes, spent: bytes) -> Balance | None:
    """The balance in the answers to `PATHS`, each empty where there was none; None where they tell none."""
    return _of_token(_document(usage)) or _of_subscription(_document(subscription), _document(spent))


def _of_token(document: dict[str, Any]) -> Balance | None:
    data = document.get("data")
    token: dict[str, Any] = data if isinstance(data, dict) else {}
    used, available = token.get("total_used"), token.get("total_available")
    if not (_is_number(used) and _is_number(available)):
        return None
    return Balance(used / _UNITS_A_USD, None if token.get("unlimited_quota") else available / _UNITS_A_USD)


def _of_subscription(subscription: dict[str, Any], spent: dict[str, Any]) -> Balance | None:
    # Errors of these two come with HTTP 200 and have neither number.
    limit, cents = subscription.get("hard_limit_usd"), spent.get("total_usage")
    if not (_is_number(limit) and _is_number(cents)):
        return None
    used = cents / 100
    return Balance(used, None if limit >= _UNLIMITED_USD else limit - used)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
