"""What a key may still spend, in the answers that gateways of this family give."""

import json

import pytest

from n1n_prefect.wire.billing import Balance, found


def token(**fields):
    data = {"total_used": 500_000, "total_available": 2_000_000, "unlimited_quota": False, **fields}
    return json.dumps({"code": True, "message": "ok", "data": data}).encode()


SUBSCRIPTION = b'{"object": "billing_subscription", "hard_limit_usd": 10}'
SPENT = b'{"object": "list", "total_usage": 250}'
ERROR = b'{"error": {"message": "no", "type": "upstream_error"}}'


class TestFound:
    @pytest.mark.parametrize(
        ("answers", "balance"),
        [
            ((token(), b"", b""), Balance(1.0, 4.0)),
            ((token(unlimited_quota=True), b"", b""), Balance(1.0, None)),
            ((token(total_available=-100), SUBSCRIPTION, SPENT), Balance(1.0, -0.0002)),
            ((b"", SUBSCRIPTION, SPENT), Balance(2.5, 7.5)),
            ((token(total_used=None), SUBSCRIPTION, SPENT), Balance(2.5, 7.5)),
            ((b"", b'{"hard_limit_usd": 100000000}', SPENT), Balance(2.5, None)),
        ],
    )
    def test_in_either_form(self, answers, balance):
        assert found(*answers) == balance

    @pytest.mark.parametrize(
        "answers",
        [
            (b"", b"", b""),
            (ERROR, ERROR, ERROR),  # with HTTP 200
            (b"<html>", b"[]", b"null"),
            (b"", SUBSCRIPTION, ERROR),
            (token(total_used=True), b"", b""),
            (b'{"data": [1]}', b"", b""),
        ],
    )
    def test_where_none_is_told(self, answers):
        assert found(*answers) is None
