"""How these tests ask the local gateway: over plain HTTP, with bodies written by hand."""

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
from PIL import Image

from n1n_prefect.testing import LocalGateway

Ask = Callable[..., httpx.Response]


def png(width: int = 64, height: int = 64, colour: str = "magenta") -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def image_part(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(data).decode()}}


def body(prompt: str = "a lighthouse", *images: bytes, **generation_config: Any) -> dict[str, Any]:
    parts = [{"text": prompt}, *(image_part(data) for data in images)]
    asked: dict[str, Any] = {"contents": [{"role": "user", "parts": parts}]}
    return {**asked, "generationConfig": generation_config} if generation_config else asked


def parts_of(response: httpx.Response) -> list[dict[str, Any]]:
    return response.json()["candidates"][0]["content"]["parts"]


def image_of(response: httpx.Response) -> Image.Image:
    """The reply's last image, decoded."""
    blob = [part for part in parts_of(response) if "inlineData" in part][-1]["inlineData"]
    image = Image.open(io.BytesIO(base64.b64decode(blob["data"], validate=True)))
    image.load()
    return image


def asking(gateway: LocalGateway) -> httpx.Client:
    """A client with the gateway's key; without `verify` it need not load certificates that nothing here uses."""
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    return httpx.Client(base_url=gateway.base_url, headers=headers, timeout=30, verify=False)
