"""One paid call, from its request to the answer and its line in the ledger."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import orjson

from n1n_prefect.images import excerpt
from n1n_prefect.testing.access import authorise
from n1n_prefect.testing.checking import Asked, check, unreadable
from n1n_prefect.testing.drawing import Picture, UnreadableInputError
from n1n_prefect.testing.envelopes import Json, RejectedError, own, with_request_id
from n1n_prefect.testing.ledger import Call, CallOutcome, price_usd
from n1n_prefect.testing.replies import picture_for, reply_for, streamed

if TYPE_CHECKING:
    from n1n_prefect.testing.faults import Injected
    from n1n_prefect.testing.gateway import LocalGateway

Stream = Literal["", "sse", "array"]


@dataclass
class Heard:
    """A request as it was read from the connection."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    request_id: str
    body: bytes = b""
    too_large: bool = False


@dataclass
class Answer:
    """What goes back over the connection, and how it goes."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: list[bytes] = field(default_factory=list[bytes])
    chunked: bool = False
    wait_seconds: float = 0.0
    drip_seconds: float = 0.0
    silent: bool = False
    sent_share: float = 1.0
    ending: Literal["keep", "close", "reset"] = "keep"
    whole: bool = True
    call: Call | None = None

    def serialise(self, request_id: str, stream: Stream = "") -> None:
        """Makes the pieces of the body from the content: a page from text, else JSON."""
        if isinstance(self.content, str):
            self.headers.setdefault("Content-Type", "text/html")
            self.pieces = [self.content.encode()]
        elif stream and self.status == 200:
            self._serialise_stream(stream)
        else:
            self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
            self.pieces = [orjson.dumps(with_request_id(self.content, request_id))]

    def _serialise_stream(self, stream: Stream) -> None:
        chunks = [orjson.dumps(chunk) for chunk in streamed(self.content)]
        self.chunked = True
        if stream == "sse":
            self.headers.setdefault("Content-Type", "text/event-stream")
            self.pieces = [b"data: " + chunk + b"\r\n\r\n" for chunk in chunks]
        else:
            self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
            self.pieces = [(b",\r\n" if index else b"[") + chunk for index, chunk in enumerate(chunks)]
            self.pieces.append(b"]")


@dataclass
class Exchange:
    """A valid call while it is being answered; scripted faults change it on its way."""

    gateway: "LocalGateway"
    heard: Heard
    asked: Asked
    stream: Stream
    picture: Picture
    faults: Sequence["Injected"] = ()
    reply: Json = field(default_factory=dict[str, Any])
    image_base64: str = ""
    answer: Answer = field(default_factory=Answer)

    @property
    def billed(self) -> bool:
        """Whether the call is charged: it is, unless one of its faults says no."""
        return all(fault.billed for fault in self.faults)

    @property
    def outcome(self) -> CallOutcome:
        """What the gateway makes of the call."""
        outcomes: list[CallOutcome] = [fault.kind.outcome for fault in self.faults if fault.kind.outcome != "image"]
        return outcomes[0] if outcomes else "image"

    @property
    def _has_hash(self) -> bool:
        return self.gateway.hash_images and self.outcome == "image"

    def draw(self, picture: Picture) -> str:
        """The base64 of a picture's file."""
        return self.gateway.drawing.draw_base64(picture)

    def image_parts(self) -> list[Json]:
        """The reply's parts that hold a picture, drafts included."""
        parts: list[Json] = self.reply["candidates"][0]["content"]["parts"]
        return [part for part in parts if "inlineData" in part]

    def run(self) -> Answer:
        """The answer, with whatever the faults make of it.

        Raises:
            RejectedError: An input image cannot be decoded.
        """
        if self._apply("instead"):
            self.gateway.work(self.billed)
            self.answer.serialise(self.heard.request_id)
        else:
            self.gateway.work()
            self._reply()
            self.answer.content = self.reply
            self.answer.serialise(self.heard.request_id, self.stream)
        self._apply("sending")
        return self.answer

    def _reply(self) -> None:
        self._apply("picture")
        try:
            self.reply = reply_for(self.asked, self.picture, self.draw, self.gateway.signature_chars)
        except UnreadableInputError as exc:
            raise unreadable(exc.index) from None
        self.image_base64 = self.image_parts()[-1]["inlineData"]["data"]
        self._apply("reply")

    def _apply(self, stage: str) -> bool:
        due = [fault for fault in self.faults if fault.kind.stage == stage]
        for fault in due:
            fault.kind.effect(self, fault.details)
        return bool(due)

    def facts(self) -> dict[str, Any]:
        """The ledger's view of the call."""
        asked, answer = self.asked, self.answer
        return {
            "outcome": self.outcome,
            "billed": self.billed,
            "usd": price_usd(asked.model, asked.image_size) if self.billed else 0.0,
            "delivered": answer.whole,
            "fault": "+".join(fault.kind.name for fault in self.faults),
            "prompt_excerpt": excerpt(asked.prompt, 80),
            "prompt_sha256": hashlib.sha256(asked.prompt.encode(errors="replace")).hexdigest(),
            "request_sha256": asked.request_sha256,
            "image_sha256": _sha256_of(self.image_base64) if self._has_hash else "",
            "dropped": asked.dropped,
        }


def _sha256_of(image_base64: str) -> str:
    """SHA-256 of what the base64 stands for, or nothing where it stands for nothing."""
    try:
        data = base64.b64decode(image_base64, validate=True)
    except ValueError:
        return ""
    return hashlib.sha256(data).hexdigest() if data else ""


def converse(gateway: "LocalGateway", heard: Heard, model: str, stream: Stream) -> Answer:
    """The answer to one paid call; the call is in the ledger before the answer is sent."""
    ledger, script = gateway.ledger, gateway.faults  # a reset in between starts new ones
    began, at = monotonic(), datetime.now(timezone.utc)
    with ledger.arrival() as number:
        try:
            asked = _checked(gateway, heard, model)
            picture = picture_for(asked, number if gateway.vary else None)
            exchange = Exchange(gateway, heard, asked, stream, picture, script.take(asked.prompt))
            answer, facts = exchange.run(), exchange.facts()
        except RejectedError as rejected:
            answer = Answer(rejected.content, rejected.status, rejected.headers)
            answer.serialise(heard.request_id)
            facts: dict[str, Any] = {"outcome": "error"}
        status = 0 if answer.silent else answer.status
        answer.call = Call(number, at, model, heard.request_id, status, seconds=round(monotonic() - began, 6), **facts)
        ledger.write(answer.call)
    return answer


def _checked(gateway: "LocalGateway", heard: Heard, model: str) -> Asked:
    authorise(heard.headers, heard.query, gateway.api_keys)
    if heard.too_large:
        raise RejectedError(413, own("request body too large", "read_request_body_failed"))
    return check(model, heard.body, gateway.models)
