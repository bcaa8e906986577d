"""Which fields a `generateContent` body may have, of which type, and in which spelling.

The gateway reads the body into typed values before it passes it on: some snake_case
spellings are understood there, some are silently dropped, and what it keeps raw is read
by Google, which refuses fields that it does not know.
"""

import re
from typing import Any, Union

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from n1n_prefect.testing.envelopes import Json, RejectedError, detail, invalid

Kind = Union[str, "Message", "Repeated"]


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Message:
    """A JSON object with known fields."""

    fields: dict[str, Any]
    """Kind of each field by its camelCase name."""

    snake: tuple[str, ...] | None = ()
    """Which fields are understood in snake_case too; None for all. The others are dropped in that spelling."""

    dropped: tuple[str, ...] = ()
    """Fields of Google's that the gateway does not know and drops."""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Repeated:
    """A JSON array of one kind."""

    kind: Any
    """Kind of each element."""


_EMPTY = Message({}, None)
_BLOB = Message({"mimeType": "STRING", "data": "STRING"}, ("mimeType",))
_PART = Message(
    {
        "text": "STRING", "inlineData": _BLOB, "fileData": Message({"mimeType": "STRING", "fileUri": "STRING"}),
        "thought": "BOOL", "thoughtSignature": "STRING", "functionCall": "ANY", "functionResponse": "ANY",
        "executableCode": "ANY", "codeExecutionResult": "ANY", "mediaResolution": "ANY", "videoMetadata": "ANY",
        "toolCall": "ANY", "toolResponse": "ANY", "partMetadata": "ANY",
    },
    ("inlineData",),
)  # fmt: skip
_CONTENT = Message({"role": "STRING", "parts": Repeated(_PART)})
_IMAGE_CONFIG = Message({"aspectRatio": "STRING", "imageSize": "STRING"}, None)
_THINKING = Message({"thinkingLevel": "STRING", "includeThoughts": "BOOL", "thinkingBudget": "INT32"}, None)
_GENERATION_CONFIG = Message(
    {
        "responseModalities": Repeated("STRING"), "imageConfig": _IMAGE_CONFIG, "thinkingConfig": _THINKING,
        "temperature": "FLOAT", "topP": "FLOAT", "topK": "INT32", "seed": "INT32", "candidateCount": "INT32",
        "maxOutputTokens": "INT32", "stopSequences": Repeated("STRING"), "presencePenalty": "FLOAT",
        "frequencyPenalty": "FLOAT", "responseLogprobs": "BOOL", "logprobs": "INT32", "responseMimeType": "STRING",
        "responseSchema": "ANY", "responseJsonSchema": "ANY", "mediaResolution": "STRING", "speechConfig": "ANY",
    },
    None,
    ("responseFormat",),
)  # fmt: skip
_SEARCH = Message({"searchTypes": Message({"webSearch": _EMPTY, "imageSearch": _EMPTY}, None),
                   "timeRangeFilter": "ANY"}, None)  # fmt: skip
_TOOL = Message(
    {"googleSearch": _SEARCH, "functionDeclarations": "ANY", "codeExecution": "ANY", "urlContext": "ANY"}, None
)
BODY = Message(
    {
        "contents": Repeated(_CONTENT), "systemInstruction": _CONTENT, "generationConfig": _GENERATION_CONFIG,
        "safetySettings": Repeated(Message({"category": "STRING", "threshold": "STRING"})), "tools": Repeated(_TOOL),
        "toolConfig": "ANY", "cachedContent": "STRING",
    },
    ("systemInstruction",),
)  # fmt: skip


def read(body: Any) -> tuple[Json, tuple[str, ...]]:
    """The body with camelCase names alone and no nulls, and the paths of the fields that were dropped.

    Raises:
        RejectedError: A field is unknown or of another type; the message names its path.
    """
    dropped: list[str] = []
    return _read(body, BODY, "", dropped), tuple(dropped)


def _read(value: Any, kind: Kind, path: str, dropped: list[str]) -> Any:
    if isinstance(kind, Repeated):
        if not isinstance(value, list):
            raise _wrong_type(path, "LIST", value)
        return [_read(item, kind.kind, f"{path}[{index}]", dropped) for index, item in enumerate(value)]
    if isinstance(kind, Message):
        if not isinstance(value, dict):
            raise _wrong_type(path, "MESSAGE", value)
        return _read_message(value, kind, path, dropped)
    if not _is(value, kind):
        raise _wrong_type(path, kind, value)
    return value


def _read_message(value: Json, message: Message, path: str, dropped: list[str]) -> Json:
    known: Json = {}
    for name, inner in value.items():
        where = f"{path}.{snake_case(name)}" if path else snake_case(name)
        camel = _camel(name)
        if name in message.dropped or camel in message.dropped:
            dropped.append(f"{path}.{name}" if path else name)
        elif camel not in message.fields:
            raise _unknown(name, path)
        elif name != camel and message.snake is not None and camel not in message.snake:
            dropped.append(f"{path}.{name}" if path else name)
        elif inner is not None:
            known[camel] = _read(inner, message.fields[camel], where, dropped)
    return known


def _is(value: Any, kind: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match kind:
        case "STRING":
            return isinstance(value, str)
        case "BOOL":
            return isinstance(value, bool)
        case "FLOAT":
            return number
        case "INT32":
            return number and value == int(value) and -(2**31) <= value < 2**31
        case _:
            return True


def _unknown(name: str, path: str) -> RejectedError:
    place = f" at '{path}'" if path else ""
    said = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    return invalid(said, detail("BadRequest", fieldViolations=[{"field": path, "description": said}]))


def _wrong_type(path: str, kind: str, value: Any) -> RejectedError:
    said = f"Invalid value at '{path}' (TYPE_{kind}), {value!r:.80}"
    return invalid(said, detail("BadRequest", fieldViolations=[{"field": path, "description": said}]))


def snake_case(name: str) -> str:
    """The name as Google's messages spell it: `aspectRatio` becomes `aspect_ratio`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
