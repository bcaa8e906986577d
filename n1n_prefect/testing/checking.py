"""Whether a request is one that the model takes: judged from the bytes, as strictly as the real service.

Nothing here is shared with the package's own client, so that the two can disagree.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import orjson

from n1n_prefect import catalog
from n1n_prefect.testing import schema
from n1n_prefect.testing.envelopes import Json, RejectedError, detail, invalid, own

_DATA_KEYS = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
)  # fmt: skip
_DOCUMENT_TYPES = ("application/pdf", "text/plain")
_SAMPLING = ("temperature", "topP", "topK", "seed", "logprobs", "responseLogprobs")
_MODALITIES = ("TEXT", "IMAGE", "AUDIO", "VIDEO")
_RANGES = {
    "temperature": (0, 2), "topP": (0, 1), "topK": (1, 1000), "maxOutputTokens": (1, 65536), "candidateCount": (1, 8),
}  # fmt: skip
_HARMS = (
    "HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY", "JAILBREAK",
    "IMAGE_HARASSMENT", "IMAGE_HATE", "IMAGE_SEXUALLY_EXPLICIT", "IMAGE_DANGEROUS_CONTENT",
)  # fmt: skip
_THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
_FOREIGN_SIGNATURES = ("context_engineering_is_the_way_to_go", "skip_thought_signature_validator")
_MOST_PIXELS = 89_000_000  # of an input: decoded, that is 270 MB
SIGNATURE_START = "bG9jYWwg"  # every signature that the local gateway gives begins so


@dataclass(frozen=True)
class InputImage:
    """An input image as it came: its bytes and its pixels (0 by 0 for HEIC, which is not opened)."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Asked:
    """What a valid request asks for."""

    model: str
    entry: catalog.Model
    prompt: str
    inputs: tuple[InputImage, ...]
    aspect_ratio: str | None
    image_size: str | None
    wants_text: bool
    include_thoughts: bool
    google_search: bool
    request_sha256: str
    dropped: tuple[str, ...]

    @property
    def thinks(self) -> bool:
        """Whether the model thinks first: all but the first generation do."""
        return bool(self.entry.image_sizes)


def check(model: str, raw: bytes, models: Collection[str]) -> Asked:
    """What is asked of the model, once every rule is met.

    Raises:
        RejectedError: A rule is broken; it holds the answer.
    """
    if model not in models:
        said = f"No available channel for model {model} under group default (distributor)"
        raise RejectedError(503, own(said, "model_not_found"))
    body, dropped = schema.read(_parsed(raw))
    entry = catalog.find(model) or catalog.Model(model, model, catalog.ALL_RATIOS, catalog.SIZES)
    config: Json = body.get("generationConfig", {})
    contents = _checked_contents(body, entry)
    image = _checked_image_config(config.get("imageConfig", {}), entry)
    thinking = _checked_thinking(config.get("thinkingConfig", {}), entry)
    modalities = _checked_modalities(config.get("responseModalities"))
    _check_sampling(config, entry)
    _check_safety(body.get("safetySettings", []))
    search = _checked_tools(body, entry)
    return Asked(
        model=model,
        entry=entry,
        prompt="\n".join(part["text"] for part in contents[-1]["parts"] if part.get("text")),
        inputs=tuple(_inputs(contents)),
        aspect_ratio=image.get("aspectRatio"),
        image_size=image.get("imageSize"),
        wants_text="TEXT" in modalities,
        include_thoughts=bool(thinking.get("includeThoughts")),
        google_search=search,
        request_sha256=_fingerprint(model, body),
        dropped=dropped,
    )


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise RejectedError(400, own(f"the body is not JSON: {exc}", "invalid_request")) from None


def _fingerprint(model: str, body: Json) -> str:
    try:
        canonical = orjson.dumps({"model": model, "body": body}, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise invalid("Request is nested too deeply.") from None
    return hashlib.sha256(canonical).hexdigest()


def _checked_contents(body: Json, entry: catalog.Model) -> list[Json]:
    contents: list[Json] = body.get("contents", [])
    if not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified")
    for index, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model"):
            raise invalid("Please use a valid role: user, model.")
        _check_parts(content.get("parts", []), f"contents[{index}]")
        if content.get("role") == "model" and entry.image_sizes:
            _check_signatures(content["parts"], index)
    if "systemInstruction" in body:
        _check_parts(body["systemInstruction"].get("parts", []), "system_instruction")
    return contents


def _check_parts(parts: list[Json], path: str) -> None:
    if not parts:
        raise invalid(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.")
    for index, part in enumerate(parts):
        given = [key for key in _DATA_KEYS if key in part and (part[key] != "" or "thoughtSignature" in part)]
        where = f"{path}.parts[{index}]"
        if not given:
            raise invalid(
                f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one initialized field"
            )
        if len(given) > 1:
            raise invalid(f"Invalid value at '{where}' (oneof), oneof field 'data' is already set: {', '.join(given)}")


def _check_signatures(parts: list[Json], content: int) -> None:
    """Newer models want their own signature back, on the first spoken part and on every later image."""
    spoken = [(index, part) for index, part in enumerate(parts) if not part.get("thought")]
    for order, (index, part) in enumerate(spoken):
        if order and "inlineData" not in part:
            continue
        signature = part.get("thoughtSignature", "")
        if not signature:
            kind = "Image" if "inlineData" in part else "Text"
            raise invalid(
                f"{kind} part is missing a thought_signature in content position {content + 1}, "
                f"part position {index + 1}."
            )
        if signature not in _FOREIGN_SIGNATURES and not signature.startswith(SIGNATURE_START):
            raise invalid(f"Invalid thought signature for content at index {content}.")


def _inputs(contents: list[Json]) -> Iterator[InputImage]:
    count = 0
    for index, content in enumerate(contents):
        for number, part in enumerate(content["parts"]):
            if "inlineData" in part and not part.get("thought"):
                image = _input(part["inlineData"], f"contents[{index}].parts[{number}].inline_data", count)
                if image is not None:
                    count += 1
                    yield image
                if count > catalog.MAX_INPUT_IMAGES:
                    raise invalid(f"The request has more than {catalog.MAX_INPUT_IMAGES} input images at 'contents'.")


def _input(blob: Json, path: str, count: int) -> InputImage | None:
    media_type = blob.get("mimeType", "")
    if media_type not in (*catalog.INPUT_MEDIA_TYPES, *_DOCUMENT_TYPES):
        raise invalid(f"Unsupported MIME type at '{path}.mime_type': {media_type}")
    data = _decoded(blob.get("data", ""), f"{path}.data")
    if len(data) > catalog.MAX_INPUT_BYTES:
        raise invalid(f"The file at '{path}' has {len(data)} bytes; the limit is {catalog.MAX_INPUT_BYTES} (7 MB).")
    if media_type in _DOCUMENT_TYPES:
        return None
    return InputImage(data, *_pixels(data, count))


def _decoded(text: str, path: str) -> bytes:
    """Standard or URL-safe base64, with or without its padding, as protobuf's JSON takes it."""
    standard = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"Invalid value at '{path}' (TYPE_BYTES), Base64 decoding failed for {text[:40]!r}") from None


def _pixels(data: bytes, index: int) -> tuple[int, int]:
    from PIL import Image

    if data[4:8] == b"ftyp":
        return 0, 0
    try:
        with Image.open(BytesIO(data)) as opened:
            size = opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise unreadable(index) from None
    if min(size) < 2 or size[0] * size[1] > _MOST_PIXELS:
        raise unreadable(index)
    return size


def unreadable(index: int) -> RejectedError:
    """The 400 for an input that is not an image, is too small, or cannot be decoded."""
    debug = detail("DebugInfo", detail=f"[ORIGINAL ERROR] thumbnailer: Source image {index} too short")
    return invalid(f"Unable to process input image {index}: Source image {index} too short", debug)


def _checked_image_config(config: Json, entry: catalog.Model) -> Json:
    ratio, size = config.get("aspectRatio"), config.get("imageSize")
    if ratio is not None and ratio not in entry.aspect_ratios:
        raise invalid(
            f"Invalid value at 'generation_config.image_config.aspect_ratio': {ratio!r} is not supported by "
            f"{entry.id}. Supported values: {', '.join(entry.aspect_ratios)}."
        )
    if size is not None and size not in entry.image_sizes:
        allowed = f"Supported values: {', '.join(entry.image_sizes)}." if entry.image_sizes else "Leave it out."
        raise invalid(
            f"Invalid value at 'generation_config.image_config.image_size': {size!r} is not supported by "
            f"{entry.id}. {allowed}"
        )
    return config


def _checked_thinking(config: Json, entry: catalog.Model) -> Json:
    if not config:
        return config
    path = "generation_config.thinking_config"
    level = config.get("thinkingLevel", "").lower()
    if not entry.image_sizes:
        raise invalid(f"Invalid value at '{path}': thinking is not supported by {entry.id}.")
    if "thinkingLevel" in config and level not in (entry.thinking_levels or ("minimal", "low", "medium", "high")):
        levels = ", ".join(entry.thinking_levels)
        raise invalid(
            f"Invalid value at '{path}.thinking_level': {config['thinkingLevel']!r} is not supported by {entry.id}. "
            f"Supported values: {levels or 'minimal, low, medium, high'}."
        )
    if "thinkingBudget" in config and not entry.takes_sampling:
        raise invalid(f"Invalid value at '{path}.thinking_budget': not supported by {entry.id}.")
    if "thinkingBudget" in config and level:
        raise invalid(f"Invalid value at '{path}': only one of thinking_budget and thinking_level may be set.")
    return config


def _checked_modalities(asked: list[str] | None) -> list[str]:
    modalities = [modality.upper() for modality in asked or ("TEXT", "IMAGE")]
    for index, modality in enumerate(modalities):
        if modality not in _MODALITIES:
            raise invalid(f"Invalid value at 'generation_config.response_modalities[{index}]' (TYPE_ENUM), {modality}")
    if "IMAGE" not in modalities or not {"TEXT", "IMAGE"}.issuperset(modalities):
        wanted = ",".join(modalities).lower()
        raise invalid(f"Model does not support the requested response modalities: {wanted}")
    return modalities


def _check_sampling(config: Json, entry: catalog.Model) -> None:
    for name, (least, most) in _RANGES.items():
        if name in config and not least <= config[name] <= most:
            raise invalid(
                f"* GenerateContentRequest.generation_config.{schema.snake_case(name)}: "
                f"must be in the range [{least}, {most}], got {config[name]}."
            )
    if config.get("candidateCount", 1) != 1:
        raise invalid("Invalid value at 'generation_config.candidate_count': multiple candidates are not supported.")
    if len(config.get("stopSequences", [])) > 5:
        raise invalid("Invalid value at 'generation_config.stop_sequences': at most 5 are allowed.")
    if config.get("responseMimeType", "text/plain") != "text/plain" or "responseSchema" in config:
        raise invalid(f"Invalid value at 'generation_config.response_mime_type': {entry.id} has no JSON mode.")
    if not entry.takes_sampling:
        given = [schema.snake_case(name) for name in _SAMPLING if name in config]
        if given:
            raise invalid(f"Invalid value at 'generation_config.{given[0]}': not supported by {entry.id}.")


def _check_safety(settings: list[Json]) -> None:
    for index, setting in enumerate(settings):
        category, threshold = setting.get("category", ""), setting.get("threshold", "")
        if category.removeprefix("HARM_CATEGORY_") not in _HARMS or not category.startswith("HARM_CATEGORY_"):
            raise invalid(f"Invalid value at 'safety_settings[{index}].category' (HarmCategory), \"{category}\"")
        if threshold not in _THRESHOLDS:
            raise invalid(
                f"Invalid value at 'safety_settings[{index}].threshold' (HarmBlockThreshold), \"{threshold}\""
            )


def _checked_tools(body: Json, entry: catalog.Model) -> bool:
    """Whether a web search is asked for."""
    if "cachedContent" in body:
        raise invalid(f"Invalid value at 'cached_content': caching is not supported by {entry.id}.")
    tools: list[Json] = body.get("tools", [])
    for index, tool in enumerate(tools):
        for name in tool:
            if name != "googleSearch" or not entry.takes_google_search:
                path = f"tools[{index}].{schema.snake_case(name)}"
                raise invalid(f"Invalid value at '{path}': not supported by {entry.id}.")
        if "imageSearch" in tool.get("googleSearch", {}).get("searchTypes", {}) and not entry.thinking_levels:
            raise invalid(
                f"Invalid value at 'tools[{index}].google_search.search_types': web search alone is supported."
            )
    return any("googleSearch" in tool for tool in tools)
