"""Replies as large as real ones, and the plain code that they are compared with."""

import base64
import hashlib
import json
import os
import struct
import zlib
from typing import Any

JPEG_AND_SIGNATURE = "JPEG 0.93 MB and a signature of 2.9 MB"
PNG = "PNG 1.94 MB"


def bodies(share: float = 1.0) -> dict[str, dict[str, Any]]:
    """The two kinds of replies by name; `share` makes them smaller."""
    return {
        JPEG_AND_SIGNATURE: reply(jpeg(int(930_000 * share)), "image/jpeg", int(2_900_000 * share)),
        PNG: reply(png(int(1_940_000 * share)), "image/png", 0),
    }


def reply(image: bytes, media_type: str, signature_chars: int) -> dict[str, Any]:
    """What a model answers: a sentence, an image, and after thinking a signature."""
    words: dict[str, Any] = {"text": "Here is your picture."}
    if signature_chars:
        words["thoughtSignature"] = base64.b64encode(os.urandom(signature_chars // 4 * 3)).decode()
    drawn = {"inlineData": {"mimeType": media_type, "data": base64.b64encode(image).decode()}}
    return {
        "candidates": [{"content": {"parts": [words, drawn], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 9,
            "candidatesTokenCount": 1290,
            "totalTokenCount": 1299,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        },
        "modelVersion": "gemini-2.5-flash-image",
        "responseId": "benchmark",
    }


def as_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def as_sse(document: dict[str, Any]) -> bytes:
    """The same reply as a stream that brings a part a line."""
    parts = document["candidates"][0]["content"]["parts"]
    chunks = ({**document, "candidates": [{"content": {"parts": [part], "role": "model"}}]} for part in parts)
    return b"".join(b"data: %s\r\n\r\n" % as_json(chunk) for chunk in chunks)


def png(size: int, width: int = 1024, height: int = 1024) -> bytes:
    """A PNG's structure around noise, of about so many bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", os.urandom(size)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    name, data = chunk
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg(size: int) -> bytes:
    """A JPEG's structure around noise, of about so many bytes."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 1024, 1024, 3) + b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    scan = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    return b"\xff\xd8" + frame + scan + os.urandom(size).replace(b"\xff", b"\xfe") + b"\xff\xd9"


def sha256_by_json(body: bytes) -> str:
    """The image's SHA-256, as the standard library's obvious code finds it."""
    parts = json.loads(body)["candidates"][0]["content"]["parts"]
    data = next(part["inlineData"]["data"] for part in parts if "inlineData" in part)
    return hashlib.sha256(base64.b64decode(data)).hexdigest()


def sha256_by_lines(body: bytes) -> str:
    """The same for a stream."""
    lines = (line for line in body.split(b"\r\n") if line.startswith(b"data: "))
    parts = [json.loads(line[6:])["candidates"][0]["content"]["parts"][0] for line in lines]
    data = next(part["inlineData"]["data"] for part in parts if "inlineData" in part)
    return hashlib.sha256(base64.b64decode(data)).hexdigest()
