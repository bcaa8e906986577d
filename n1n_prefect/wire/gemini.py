"""Gemini's native image calls: `generateContent` and its SSE form.

`check` finds what cannot work before anything is spent, `build` makes the request, and
`read_reply` makes an image or the right error out of whatever a gateway answers. All are
pure. Thought signatures, a million characters each, end here.
"""

import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson
import pybase64

from n1n_prefect import catalog, errors
from n1n_prefect.images import ImageRequest, Usage, excerpt
from n1n_prefect.masking import without_secrets
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.wire import failure
from n1n_prefect.wire.exchange import HttpRequest, Reply, request_id_of
from n1n_prefect.wire.long_values import parse

Headers = Mapping[str, str]
Json = dict[str, Any]
LongValues = dict[str, memoryview]

_MODEL = re.compile(r"[A-Za-z0-9](?:[\w.:@-]|/(?!\.))*", re.ASCII)

# ── before spending ──────────────────────────────────────────────────────────


def check(loaded: LoadedRequest) -> None:
    """Refuses what the catalogue says cannot work; an unknown model passes with what it was given.

    Raises:
        InvalidRequestError: Names the value, and what the model accepts instead.
    """
    request = loaded.request
    if not _MODEL.fullmatch(request.model):
        raise errors.InvalidRequestError(
            f"model={request.model!r:.80} is no model's id; they have letters, digits and . _ : @ / -"
        )
    if not request.prompt.strip():
        raise errors.InvalidRequestError(f"prompt={request.prompt!r} is empty; say what to draw.")
    for image in loaded.images:
        if len(image.data) > catalog.MAX_INPUT_BYTES:
            raise errors.InvalidRequestError(
                f"Input image {image.label!r} has {len(image.data)} bytes; the models take at most "
                f"{catalog.MAX_INPUT_BYTES} each. Scale it down: sides above 3072 pixels are scaled down anyway."
            )
    model = catalog.find(request.model)
    if model is not None:
        _check_against(model, request, len(loaded.images))


def _check_against(model: catalog.Model, request: ImageRequest, images: int) -> None:
    if images > catalog.MAX_INPUT_IMAGES:
        raise errors.InvalidRequestError(
            f"{images} input images; {request.model!r} takes at most {catalog.MAX_INPUT_IMAGES}."
        )
    _check_one_of("aspect_ratio", request.aspect_ratio, model.aspect_ratios, request.model)
    _check_one_of("image_size", request.image_size, model.image_sizes, request.model)
    _check_one_of("thinking_level", request.thinking_level, model.thinking_levels, request.model)
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise errors.InvalidRequestError(f"temperature={request.temperature!r} is not between 0 and 2.")
    for name in ("temperature", "seed"):
        if not model.takes_sampling and getattr(request, name) is not None:
            raise errors.InvalidRequestError(f"{request.model!r} takes no {name}; leave it out.")
    if request.google_search and not model.takes_google_search:
        raise errors.InvalidRequestError(f"{request.model!r} cannot search; leave google_search out.")


def _check_one_of(name: str, value: str | None, accepted: Sequence[str], model: str) -> None:
    if value is None or value in accepted:
        return
    remedy = f"it has {', '.join(accepted)}" if accepted else f"leave {name} out, the model has none to choose"
    raise errors.InvalidRequestError(f"{name}={value!r} is not something {model!r} has; {remedy}.")


def build(loaded: LoadedRequest) -> HttpRequest:
    """The HTTP request for a checked request.

    Raises:
        InvalidRequestError: The body would pass the gateway's 32 MB.
    """
    request = loaded.request
    verb = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
    model = quote(request.model.removeprefix("models/"), safe="@.-_")
    try:
        body = orjson.dumps(_merged(_body(loaded), request.extra_body or {}))
    except TypeError as exc:
        raise errors.InvalidRequestError(
            f"The request cannot be written as JSON ({exc}). Look for broken characters in prompt and "
            "system_instruction, and for values in extra_body that are no JSON."
        ) from None
    if len(body) > catalog.MAX_BODY_BYTES:
        raise errors.InvalidRequestError(
            f"The request is {len(body)} bytes with its {len(loaded.images)} input images; gateways take at most "
            f"{catalog.MAX_BODY_BYTES}. Send fewer or smaller images."
        )
    accept = "text/event-stream" if request.stream else "application/json"
    return HttpRequest(
        "POST", f"/v1beta/models/{model}:{verb}", {"content-type": "application/json", "accept": accept}, body
    )


def _body(loaded: LoadedRequest) -> Json:
    request = loaded.request
    parts: list[Json] = [{"text": request.prompt}]
    for image in loaded.images:
        data = binascii.b2a_base64(image.data, newline=False).decode("ascii")
        parts.append({"inlineData": {"mimeType": image.media_type, "data": data}})
    body: Json = {"contents": [{"role": "user", "parts": parts}], "generationConfig": _generation_config(request)}
    if request.system_instruction:
        body["systemInstruction"] = {"parts": [{"text": request.system_instruction}]}
    if request.safety_settings:
        settings = request.safety_settings.items()
        body["safetySettings"] = [{"category": category, "threshold": threshold} for category, threshold in settings]
    if request.google_search:
        body["tools"] = [{"googleSearch": {}}]
    return body


def _generation_config(request: ImageRequest) -> Json:
    # Both modalities, so that a refusal comes with the model's words.
    config: Json = {"responseModalities": ["TEXT", "IMAGE"]}
    image = {"aspectRatio": request.aspect_ratio, "imageSize": request.image_size}
    optional: Json = {
        "imageConfig": {name: value for name, value in image.items() if value is not None} or None,
        "thinkingConfig": {"thinkingLevel": request.thinking_level} if request.thinking_level else None,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    return config | {name: value for name, value in optional.items() if value is not None}


def _merged(base: Json, extra: Json) -> Json:
    merged = dict(base)
    for name, value in extra.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


# ── the answer ───────────────────────────────────────────────────────────────

_REFUSALS = {
    "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION", "MODEL_ARMOR", "JAILBREAK",
}  # fmt: skip
_FLAKY_REFUSALS = {"IMAGE_SAFETY"}
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,\s*([A-Za-z0-9+/=_-]+)")
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?(https?://[^)\s>]+)")
_MARKDOWN_REST = re.compile(r"!\[[^\]]*\](?:\(\s*\)?|\))?")
_IMAGE_ADDRESS = re.compile(r"https?://[^\s<>\"')]+\.(?:png|jpe?g|webp)(?:\?[^\s<>\"')]*)?", re.IGNORECASE)
_LONE_ADDRESS = re.compile(r"\s*(https?://\S+)\s*")


@dataclass
class _Answer:
    """Everything worth keeping from one document or from all chunks of a stream."""

    finals: list[str] = field(default_factory=list[str])
    """Base64 of images that are no thoughts, in order; an address starts with `http`."""

    drafts: list[str] = field(default_factory=list[str])
    """Base64 of images that are thoughts."""

    long_values: LongValues = field(default_factory=dict[str, memoryview])
    """Long base64 by the name that stands for it among the images."""

    texts: list[str] = field(default_factory=list[str])
    finish_reason: str = ""
    finish_message: str = ""
    block_reason: str | None = None
    block_message: str = ""
    candidates: int = 0
    usage: Json = field(default_factory=dict[str, Any])
    model_version: str = ""
    response_id: str = ""

    @property
    def text(self) -> str:
        return "".join(self.texts).strip()


def read_reply(status: int, headers: Headers, body: bytes | memoryview) -> Reply:
    """The image in an answer, or the error that says why there is none.

    HTTP 200 is not success: an image is looked for in every place that gateways put one,
    and the last that is no thought is taken.

    Args:
        status: HTTP status.
        headers: Names in lower case.
        body: The whole body: one JSON document, a JSON array, SSE lines, or anything else.

    Raises:
        N1nError: In its class; see the tree in `n1n_prefect.errors`.
    """
    if not 200 <= status < 300:
        raise failure.error_from(status, headers, body)
    whole = body if isinstance(body, bytes) else bytes(body)
    answer = _Answer()
    wrong: errors.N1nError | None = None
    try:
        for document in _documents(whole, answer.long_values, request_id_of(headers)):
            if document.get("error"):
                wrong = wrong or failure.error_within(status, headers, document)
            else:
                _gather(answer, document)
    except errors.MalformedReplyError as error:
        wrong = wrong or error
    # An error behind an image in the same stream does not undo the image, which is paid for.
    if wrong is not None and not answer.finals:
        raise wrong
    return _reply(answer, request_id_of(headers))


def _documents(body: bytes, long_values: LongValues, request_id: str) -> Iterator[Json]:
    if body[:64].lstrip().startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        yield from _sse_documents(body, long_values, request_id)
        return
    document = _json(body, 0, len(body), long_values, request_id)
    if isinstance(document, list):
        yield from (chunk for chunk in document if isinstance(chunk, dict))
    elif isinstance(document, dict):
        yield document
    else:
        raise _malformed(f"JSON that is no object ({type(document).__name__})", request_id)


def _sse_documents(body: bytes, long_values: LongValues, request_id: str) -> Iterator[Json]:
    """The JSON of each `data:` line; an error may stand between them without the prefix."""
    bare = bytearray()
    for start, end in _lines(body):
        if body.startswith(b"data:", start, end):
            if body[start + 5 : min(start + 16, end)].strip() not in (b"", b"[DONE]"):
                yield _json(body, start + 5, end, long_values, request_id)
        elif body[start : start + 1] in (b"{", b"}", b" ", b"\t", b'"'):
            bare += body[start:end]
    if bare.strip():
        yield _json(bytes(bare), 0, len(bare), long_values, request_id)


def _lines(body: bytes) -> Iterator[tuple[int, int]]:
    """Where each line begins and ends; lines of tens of megabytes are not copied to be split."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        yield start, end
        start = end + 1


def _json(body: bytes, start: int, end: int, long_values: LongValues, request_id: str) -> Any:
    try:
        return parse(body, start, end, long_values)
    except orjson.JSONDecodeError as exc:
        raise _malformed(_what_it_is(memoryview(body)[start:end], exc), request_id) from None


def _what_it_is(view: memoryview, exc: orjson.JSONDecodeError) -> str:
    start = bytes(view[:200]).strip()
    if not start:
        return "an empty body"
    if start.startswith(b"<"):
        return f"an HTML page ({excerpt(start.decode('utf-8', 'replace'), 80)!r})"
    if start.startswith((b"{", b"[")):
        return f"JSON that ends or breaks at character {exc.pos} of {len(view)} bytes"
    return f"no JSON ({excerpt(start.decode('utf-8', 'replace'), 80)!r})"


def _malformed(what: str, request_id: str) -> errors.MalformedReplyError:
    return errors.MalformedReplyError(
        f"The gateway said success and sent {what}. The call may have been charged; "
        "if it happens again, look at the proxy between here and the gateway.",
        request_id,
    )


def _field(document: Json, name: str) -> Any:
    """A field in Google's spelling or, as some gateways have it, in snake case."""
    if name in document:
        return document[name]
    return document.get(re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name))


def _text(document: Json, name: str) -> str:
    """A field that should be a text, as one; a number is shown, anything else is nothing."""
    value = _field(document, name)
    return str(value) if isinstance(value, (int, float)) else _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(document: Json, name: str) -> Json:
    """A field that should be an object, or an empty one."""
    value = _field(document, name)
    return value if isinstance(value, dict) else {}


def _gather(answer: _Answer, document: Json) -> None:
    answer.usage = _object(document, "usageMetadata") or answer.usage
    answer.model_version = _text(document, "modelVersion") or answer.model_version
    answer.response_id = _text(document, "responseId") or answer.response_id
    feedback = _object(document, "promptFeedback")
    if _text(feedback, "blockReason") or _text(feedback, "blockReasonMessage"):
        answer.block_reason = _text(feedback, "blockReason")
        answer.block_message = _text(feedback, "blockReasonMessage")
    for candidate in _objects(document.get("candidates")):
        answer.candidates += 1
        answer.finish_reason = _text(candidate, "finishReason") or answer.finish_reason
        answer.finish_message = _text(candidate, "finishMessage") or answer.finish_message
        for part in _objects(_object(candidate, "content").get("parts")):
            _gather_part(answer, part)
    for item in _objects(document.get("data")):
        image = _string(item.get("b64_json")) or _address(item.get("url"))
        if image:
            answer.finals.append(image)


def _objects(value: object) -> Iterator[Json]:
    """The objects of what should be a list, whatever it is."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _gather_part(answer: _Answer, part: Json) -> None:
    image = _string(_object(part, "inlineData").get("data"))
    image = image or _address(_field(_object(part, "fileData"), "fileUri")) or _address(part.get("url"))
    if image:
        (answer.drafts if part.get("thought") else answer.finals).append(image)
    text = part.get("text")
    if isinstance(text, str) and not part.get("thought"):
        answer.texts.append(text)


def _address(value: object) -> str:
    """An address that an image can be fetched from; `gs://` and names of files at the vendor are none."""
    return text if (text := _string(value)).startswith(("http://", "https://", "data:image/")) else ""


def _reply(answer: _Answer, request_id: str) -> Reply:
    image, text = _image_of(answer)
    if not image:
        raise _why_no_image(answer, request_id)
    is_address = image.startswith(("http://", "https://"))
    return Reply(
        data=b"" if is_address else _decoded(answer.long_values.get(image, image), request_id),
        url=image if is_address else "",
        text=text,
        finish_reason=answer.finish_reason,
        usage=_usage(answer.usage),
        model_version=answer.model_version,
        response_id=answer.response_id,
        request_id=request_id,
    )


def _image_of(answer: _Answer) -> tuple[str, str]:
    """The image to take, and the model's text without it."""
    if answer.finals:
        image = answer.finals[-1]
        return (image.partition("base64,")[2] if image.startswith("data:") else image), answer.text
    text = answer.text
    for pattern in (_DATA_URI, _MARKDOWN_IMAGE, _IMAGE_ADDRESS):
        found = list(pattern.finditer(text))
        if found:
            return found[-1][found[-1].lastindex or 0], _MARKDOWN_REST.sub("", pattern.sub("", text)).strip()
    if lone := _LONE_ADDRESS.fullmatch(text):
        return lone[1], ""
    return (answer.drafts[-1] if answer.drafts else ""), text


def _decoded(image: str | memoryview, request_id: str) -> bytes:
    """Base64 to bytes, also that of addresses, unpadded or with line breaks, and refusing anything else."""
    if len(image) % 4 == 0 and (data := _plain_base64(image)) and len(data) == _expected_length(image):
        return data
    text = image if isinstance(image, str) else _unescaped(image)
    tidy = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    tidy += "=" * (-len(tidy) % 4)
    data = _plain_base64(tidy)
    if not data or len(data) != _expected_length(tidy):
        raise _malformed(f"an image in bad base64 ({len(image)} characters)", request_id)
    return data


def _unescaped(value: memoryview) -> str:
    """The text of a JSON string that was not parsed with its document; empty if it is none."""
    try:
        return orjson.loads(b'"%b"' % value)
    except orjson.JSONDecodeError:
        return ""


def _plain_base64(image: str | memoryview) -> bytes:
    try:
        return pybase64.b64decode(image, validate=True)
    except ValueError:
        return b""


def _expected_length(image: str | memoryview) -> int:
    padding = sum(mark in ("=", ord("=")) for mark in image[-2:])
    return len(image) // 4 * 3 - padding


def _why_no_image(answer: _Answer, request_id: str) -> errors.N1nError:
    """The error for an answer without an image, in the order that gateways make sense in."""
    if not answer.candidates and answer.block_reason is not None:
        reason = answer.block_reason or "no reason given"
        blocked = _refusal(f"The prompt was blocked ({reason})", reason, answer.block_message, request_id)
        blocked.is_transient = False
        return blocked
    reason, words = answer.finish_reason, answer.finish_message or answer.text
    if reason in _REFUSALS:
        return _refusal(f"The model refused ({reason})", reason, words, request_id)
    usage = _usage(answer.usage)
    if not answer.candidates and usage.total_tokens and not usage.output_text_tokens and not usage.output_image_tokens:
        return _refusal("The prompt was rejected without a reason", "", "", request_id)
    drew_nothing = f" ({reason})" if reason else ""
    said = f"{_quoted(words)} " if words else "and said nothing. "
    return errors.NoImageError(
        f"The model answered without an image{drew_nothing} {said}One more try is reasonable; "
        "if it stays so, ask for a picture in the prompt's first words.",
        request_id,
        finish_reason=reason,
        model_text=words,
        charged="yes" if usage.output_text_tokens or usage.output_image_tokens else None,
    )


def _refusal(what: str, reason: str, words: str, request_id: str) -> errors.RefusedError:
    said = f" {_quoted(words)}" if words else ""
    return errors.RefusedError(
        f"{what}{said}. Change the prompt or the input images.".replace("..", "."),
        request_id,
        finish_reason=reason,
        model_text=words,
        is_transient=reason in _FLAKY_REFUSALS,
    )


def _quoted(words: str) -> str:
    return f"and said: {excerpt(without_secrets(words), 400)}"


def _usage(reported: Json) -> Usage:
    """Tokens by kind; output that no modality explains counts as text, as it is billed."""
    prompt = _count(reported, "promptTokenCount") + _count(reported, "toolUsePromptTokenCount")
    prompt_images = _modality(reported, "promptTokensDetails", "IMAGE")
    output = _count(reported, "candidatesTokenCount")
    has_details = bool(_field(reported, "candidatesTokensDetails"))
    output_images = _modality(reported, "candidatesTokensDetails", "IMAGE") if has_details else output
    return Usage(
        input_text_tokens=max(prompt - prompt_images, 0),
        input_image_tokens=prompt_images,
        output_text_tokens=max(output - output_images, 0),
        output_image_tokens=output_images,
        thinking_tokens=_count(reported, "thoughtsTokenCount"),
        total_tokens=_count(reported, "totalTokenCount"),
    )


def _count(reported: Json, name: str) -> int:
    value = _field(reported, name)
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**53 else 0


def _modality(reported: Json, name: str, modality: str) -> int:
    details = _objects(_field(reported, name))
    return sum(_count(detail, "tokenCount") for detail in details if detail.get("modality") == modality)
