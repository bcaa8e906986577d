"""Images whose originals lie in a storage of the test's own, before and after their upload."""

import hashlib
import random
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from n1n_prefect import staging
from n1n_prefect.images import GeneratedImage, ImageOutcome, UploadedImage

PICTURE = re.compile(r"!\[\]\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)")


@pytest.fixture
def own_storage(tmp_path: Path) -> Iterator[None]:
    """Originals are staged in a folder of the test's own."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        yield


def png(width: int = 64, height: int = 48, colour: str = "red") -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, edge: int = 300) -> bytes:
    file = BytesIO()
    pixels = random.Random(seed).randbytes(edge * edge * 3)
    Image.frombytes("RGB", (edge, edge), pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def staged(data: bytes = b"", **changes: Any) -> GeneratedImage:
    """An image whose bytes lie in the local result storage."""
    data = data or png()
    sha256 = hashlib.sha256(data).hexdigest()
    storage = staging.local_storage()
    key = f"n1n/test/{sha256}"
    storage.write(key, data)
    fields: dict[str, Any] = {
        **storage.describe(key),
        "sha256": sha256,
        "media_type": "image/png",
        "width": 64,
        "height": 48,
        "size_bytes": len(data),
        "model": "gemini-2.5-flash-image",
        "request_key": sha256[::-1],
        "aspect_ratio": "4:3",
        "prompt_excerpt": "A red mug on a table",
        "estimated_cost_usd": 0.039,
    }
    return GeneratedImage(**(fields | changes))


def object_of(image: GeneratedImage, **changes: Any) -> UploadedImage:
    fields: dict[str, Any] = {
        "bucket": "shop",
        "key": f"week-46/{image.sha256}.png",
        "sha256": image.sha256,
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
        "size_bytes": image.size_bytes,
        "model": image.model,
        "request_key": image.request_key,
        "estimated_cost_usd": image.estimated_cost_usd,
        "original": image,
    }
    return UploadedImage(**(fields | changes))


def good(name: str = "SKU-1", image: GeneratedImage | None = None, **changes: Any) -> ImageOutcome:
    image = image or staged()
    fields: dict[str, Any] = {
        "id": name,
        "status": "uploaded",
        "image": image,
        "uploaded": object_of(image),
        "charged": "yes",
        "estimated_cost_usd": image.estimated_cost_usd,
    }
    return ImageOutcome(**(fields | changes))


def refused(name: str = "SKU-2", reason: str = "The prompt was refused (SAFETY).", **changes: Any) -> ImageOutcome:
    return ImageOutcome(name, "refused", reason, charged="unknown", **changes)
