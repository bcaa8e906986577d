"""Faults of the connection: slow, in pieces, cut, or gone. The image was made and billed."""

import gzip
from typing import TYPE_CHECKING, Any

import orjson

from n1n_prefect.testing.envelopes import google
from n1n_prefect.testing.fault_kind import Effect, Fault

if TYPE_CHECKING:
    from n1n_prefect.testing.exchange import Exchange

Details = dict[str, Any]


def _nothing(exchange: "Exchange", given: Details) -> None:
    """Leaves the answer as it is."""


def _slow(exchange: "Exchange", given: Details) -> None:
    exchange.answer.wait_seconds = given["seconds"]


def _drip(exchange: "Exchange", given: Details) -> None:
    exchange.answer.drip_seconds = given["seconds"]


def _chunked(exchange: "Exchange", given: Details) -> None:
    del given
    body = b"".join(exchange.answer.pieces)
    exchange.answer.chunked = True
    exchange.answer.pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]


def _gzip(exchange: "Exchange", given: Details) -> None:
    del given
    exchange.answer.pieces = [gzip.compress(b"".join(exchange.answer.pieces), compresslevel=1)]
    exchange.answer.headers["Content-Encoding"] = "gzip"


def _truncated_json(exchange: "Exchange", given: Details) -> None:
    body = b"".join(exchange.answer.pieces)
    exchange.answer.pieces = [body[: int(len(body) * given["share"])]]
    exchange.answer.whole = False


def _cut(ending: Any) -> Effect:
    """The effect that ends the connection after a share of the body."""

    def effect(exchange: "Exchange", given: Details) -> None:
        answer = exchange.answer
        answer.sent_share, answer.ending, answer.whole = given["share"], ending, False

    return effect


def _silence(ending: Any) -> Effect:
    """The effect that ends the connection where the answer should begin."""

    def effect(exchange: "Exchange", given: Details) -> None:
        del given
        answer = exchange.answer
        answer.silent, answer.ending, answer.whole = True, ending, False

    return effect


def _sse_error_mid_stream(exchange: "Exchange", given: Details) -> None:
    del given
    error = orjson.dumps(google(500, "An internal error has occurred. Please retry."))
    exchange.answer.pieces = [*exchange.answer.pieces[:-1][:1], error]


def _sent(name: str, description: str, effect: Effect, *, in_doubt: bool = False, **details: Any) -> Fault:
    return Fault(name, description, True, "image", "sending", effect, details, in_doubt)


KINDS = (
    _sent("ok", "no fault: a place in a plan for a call that goes well", _nothing),
    _sent("slow", "the answer begins after `seconds`", _slow, seconds=2.0),
    _sent("drip", "the body comes in pieces over `seconds`", _drip, seconds=2.0),
    _sent("chunked", "a body without Content-Length", _chunked),
    _sent("gzip", "a body in gzip, asked for or not", _gzip),
    _sent("truncated_json", "JSON that ends after `share` of its length, under a Content-Length that is right",
          _truncated_json, in_doubt=True, share=0.6),
    _sent("truncated_body", "the connection is closed after `share` of the body", _cut("close"), in_doubt=True,
          share=0.5),
    _sent("reset_mid_body", "the connection is reset after `share` of the body", _cut("reset"), in_doubt=True,
          share=0.5),
    _sent("close_before_reply", "the request is read and the connection closed without an answer", _silence("close"),
          in_doubt=True),
    _sent("reset_before_reply", "the request is read and the connection reset without an answer", _silence("reset"),
          in_doubt=True),
    Fault("sse_error_mid_stream", "a bare JSON error after the first event of a stream; alone in an answer at once",
          False, "error", "sending", _sse_error_mid_stream),
    Fault("close_idle", "the connection is closed before the body is read; nothing happened", False, "error", "unread",
          _nothing, in_doubt=True),
)  # fmt: skip
