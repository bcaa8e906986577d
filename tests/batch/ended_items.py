"""Items of a batch and how they ended."""

from datetime import datetime, timezone
from typing import Any

from n1n_prefect.batch.items import Item
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.deriving import DerivedImage
from n1n_prefect.images import GeneratedImage, ImageOutcome, ImageRequest, UploadedImage, Usage

AT = datetime(2026, 11, 25, 7, 10, 0, 123_456, tzinfo=timezone.utc)
PROMPT = "A red fox in the snow"
THUMB = DerivedImage("thumb", "shop", "week/a-thumb.webp", "c" * 64, "image/webp", 96, 64, 900)


def item(name: str = "fox", line: int = 2, **changes: Any) -> Item:
    request: dict[str, Any] = {"prompt": PROMPT, "model": "gemini-3-pro-image", "aspect_ratio": "3:2"}
    fields = {name: changes.pop(name) for name in [*changes] if name in ImageRequest.__dataclass_fields__}
    return Item(name, line, ImageRequest(**(request | fields)), **changes)


def image(**changes: Any) -> GeneratedImage:
    fields: dict[str, Any] = {
        "uri": "s3://staging/n1n/originals/a.png",
        "sha256": "a" * 64,
        "media_type": "image/png",
        "width": 1264,
        "height": 848,
        "size_bytes": 1_500_000,
        "model": "gemini-3-pro-image",
        "request_key": "b" * 64,
        "aspect_ratio": "3:2",
        "model_version": "gemini-3-pro-image-0925",
        "response_id": "resp-1",
        "request_id": "req-1",
        "finish_reason": "STOP",
        "prompt_excerpt": PROMPT,
        "text": "Here it is.",
        "usage": Usage(12, 0, 3, 1120, 200, 1335),
        "estimated_cost_usd": 0.134,
        "storage_block_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "storage_key": "n1n/originals/a.png",
    }
    return GeneratedImage(**(fields | changes))


def upload(of: GeneratedImage, **changes: Any) -> UploadedImage:
    fields: dict[str, Any] = {
        "bucket": "shop",
        "key": "week/fox.png",
        "etag": "e1",
        "version_id": "v1",
        "model": of.model,
        "request_key": of.request_key,
        "estimated_cost_usd": of.estimated_cost_usd,
        "original": of,
    }
    same = {name: getattr(of, name) for name in ("sha256", "media_type", "width", "height", "size_bytes")}
    return UploadedImage(**(fields | same | changes))


def uploaded(name: str = "fox", of: GeneratedImage | None = None, **changes: Any) -> ImageOutcome:
    of = of or image()
    fields: dict[str, Any] = {"charged": "yes", "estimated_cost_usd": of.estimated_cost_usd, "model": of.model}
    return ImageOutcome(name, "uploaded", image=of, uploaded=upload(of), **(fields | changes))


def failed(name: str = "fox", reason: str = "It broke.", status: Any = "failed", **changes: Any) -> ImageOutcome:
    return ImageOutcome(name, status, reason, **changes)


def ended(outcome: ImageOutcome | None = None, of: Item | None = None, **changes: Any) -> ItemResult:
    outcome = outcome or uploaded()
    options: dict[str, Any] = {"seconds": 4.25, "waited_seconds": 0.5, "finished_at": AT}
    return ItemResult.of(of or item(outcome.id), outcome, **(options | changes))
