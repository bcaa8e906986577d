"""The answers of a healthy gateway: pictures, words, thoughts and usage in Gemini's shape."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from n1n_prefect import catalog
from n1n_prefect.testing.checking import SIGNATURE_START, Asked
from n1n_prefect.testing.drawing import Picture
from n1n_prefect.testing.envelopes import Json

_FIRST_GENERATION_SHAPE = (1024, 1024)
_USUAL_SHAPE = (1408, 768)  # what newer models drew when no ratio was asked for
_TIER = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
_INPUT_TOKENS = {"gemini-2.5-flash-image": 258, "gemini-3-pro-image": 560}
_USUAL_INPUT_TOKENS = 1120


def picture_for(asked: Asked, number: int | None) -> Picture:
    """The picture that answers a request: its pixels, type, and what is written on it."""
    width, height = _shape(asked)
    ratio = asked.aspect_ratio or "no ratio asked"
    size = f" {asked.image_size}" if asked.image_size else ""
    return Picture(
        width,
        height,
        asked.entry.usual_media_type,
        prompt=asked.prompt,
        caption=f"{ratio}{size} · {width}x{height} · {asked.model}",
        inputs=tuple(image.data for image in asked.inputs),
        number=number,
    )


def _shape(asked: Asked) -> tuple[int, int]:
    ratio = asked.aspect_ratio
    last = asked.inputs[-1] if asked.inputs else None
    if ratio is None and last is not None and last.height:
        ratio = nearest_ratio(last.width / last.height, asked.entry)
    if ratio is not None:
        return asked.entry.pixels(ratio, asked.image_size) or _FIRST_GENERATION_SHAPE
    if not asked.entry.image_sizes:
        return _FIRST_GENERATION_SHAPE
    factor = _TIER[asked.image_size or "1K"]
    return int(_USUAL_SHAPE[0] * factor), int(_USUAL_SHAPE[1] * factor)


def nearest_ratio(shape: float, entry: catalog.Model) -> str:
    """The model's ratio that is nearest to a width divided by a height."""

    def distance(ratio: str) -> float:
        width, height = ratio.split(":")
        return abs(math.log(int(width) / int(height) / shape))

    return min(entry.aspect_ratios, key=distance)


def reply_for(asked: Asked, picture: Picture, draw: Callable[[Picture], str], signature_chars: int) -> Json:
    """The JSON body of a good answer.

    Args:
        asked: The request.
        picture: What to draw.
        draw: Gives the base64 of a picture's file.
        signature_chars: Length of each thought signature; the first generation has none.
    """
    signature = _signature(signature_chars) if asked.thinks else ""
    parts: list[Json] = []
    if asked.thinks and asked.include_thoughts:
        parts += _thoughts(asked, picture, draw)
    if asked.wants_text:
        parts.append(_signed({"text": f"Here is your picture: {asked.prompt[:120]}"}, signature))
    parts.append(_signed(image_part(picture, draw), signature))
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
    if asked.google_search:
        candidate["groundingMetadata"] = {
            "webSearchQueries": [asked.prompt[:60]],
            "searchEntryPoint": {"renderedContent": "<div>local search</div>"},
        }
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(asked),
        "modelVersion": asked.entry.id,
        "responseId": f"{asked.request_sha256[:16]}-{picture.number or 0:06d}",
    }


def image_part(picture: Picture, draw: Callable[[Picture], str]) -> Json:
    """One part that holds a picture."""
    return {"inlineData": {"mimeType": picture.media_type, "data": draw(picture)}}


def draft_of(picture: Picture) -> Picture:
    """A picture as the model sketches it first."""
    return Picture(
        picture.width, picture.height, picture.media_type, f"Draft of: {picture.prompt}", number=picture.number
    )


def _thoughts(asked: Asked, picture: Picture, draw: Callable[[Picture], str]) -> list[Json]:
    words = f"**Considering the picture**\n\nI am thinking about {asked.prompt[:80]!r}.\n"
    return [{"text": words, "thought": True}, {**image_part(draft_of(picture), draw), "thought": True}]


def _signed(part: Json, signature: str) -> Json:
    return {**part, "thoughtSignature": signature} if signature else part


@cache
def _signature(length: int) -> str:
    return (SIGNATURE_START + "dGhvdWdodHMg" * (length // 12 + 1))[: length // 4 * 4]


def _usage(asked: Asked) -> Json:
    words = max(1, len(asked.prompt) // 4)
    images = len(asked.inputs) * _INPUT_TOKENS.get(asked.entry.id, _USUAL_INPUT_TOKENS)
    drawn = _image_tokens(asked)
    overhead = 14 + int(asked.request_sha256[:2], 16) // 2  # words and wrapping, which no detail explains
    thoughts = 174 if asked.thinks else 0
    details = [{"modality": "TEXT", "tokenCount": words}]
    if images:
        details.append({"modality": "IMAGE", "tokenCount": images})
    usage: Json = {
        "promptTokenCount": words + images,
        "candidatesTokenCount": drawn + overhead,
        "totalTokenCount": words + images + drawn + overhead + thoughts,
        "promptTokensDetails": details,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": drawn}],
        "serviceTier": "standard",
    }
    return {**usage, "thoughtsTokenCount": thoughts} if thoughts else usage


def _image_tokens(asked: Asked) -> int:
    sizes, tokens = asked.entry.image_sizes, asked.entry.image_tokens
    if not tokens:
        return 1120
    size = asked.image_size or "1K"
    return tokens[sizes.index(size)] if size in sizes else tokens[0]


def streamed(reply: Json) -> list[Json]:
    """The chunks in which the same answer is streamed: words first, the image whole and last with the usage."""
    candidates: Any = reply.get("candidates")
    parts: Any = candidates and candidates[0].get("content", {}).get("parts")
    if not parts:
        return [reply]
    usage: Any = reply.get("usageMetadata")
    early: Json = {key: value for key, value in reply.items() if key != "candidates"}
    if usage:
        early["usageMetadata"] = {
            key: usage[key] for key in ("promptTokenCount", "promptTokensDetails") if key in usage
        }
        early["usageMetadata"]["totalTokenCount"] = usage.get("promptTokenCount", 0)
    chunks = [_chunk(early, {"role": "model", "parts": [part]}) for part in parts[:-1]]
    chunks.append(_chunk(early, {"role": "model"}))
    last = {**candidates[0], "content": {"role": "model", "parts": parts[-1:]}}
    return [*chunks, {**reply, "candidates": [last]}]


def _chunk(early: Json, content: Json) -> Json:
    return {"candidates": [{"content": content, "index": 0}], **early}
