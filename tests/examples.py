"""Values that tests start from; every field can be given."""

import hashlib
import io
from typing import Any

from n1n_prefect.images import GeneratedImage, UploadedImage

SHA256 = "ab" * 32
KEY = "cd" * 32


def png(width: int = 2, height: int = 2, colour: str = "teal") -> bytes:
    """A whole PNG of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def generated(data: bytes = b"", **fields: Any) -> GeneratedImage:
    """A reference to an image, to these bytes if they are given."""
    sha256 = hashlib.sha256(data).hexdigest() if data else SHA256
    values: dict[str, Any] = {
        "uri": f"file:///storage/n1n/originals/{sha256}.png",
        "sha256": sha256,
        "media_type": "image/png",
        "width": 1024,
        "height": 1024,
        "size_bytes": len(data) or 2_400_000,
        "model": "gemini-2.5-flash-image",
        "request_key": KEY,
        "storage_key": f"n1n/originals/{sha256}.png",
        "estimated_cost_usd": 0.039,
    }
    return GeneratedImage(**(values | fields))


def uploaded(**fields: Any) -> UploadedImage:
    """A reference to an object in S3."""
    values: dict[str, Any] = {
        "bucket": "shop",
        "key": "products/fox.png",
        "sha256": SHA256,
        "media_type": "image/png",
        "width": 1024,
        "height": 1024,
        "size_bytes": 2_400_000,
        "request_key": KEY,
        "estimated_cost_usd": 0.039,
    }
    return UploadedImage(**(values | fields))
