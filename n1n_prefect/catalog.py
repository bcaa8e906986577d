"""What each model takes and gives, as data with its source and date.

A model that is not listed here is let through with whatever the user gave: new ones
appear monthly, and a gateway is the better judge of its own. Sources: Google's image
generation guide and the Vertex model cards (read 2026-02 to 2026-11), and sizes
measured on live replies where those disagree with the guide. How long a call takes was
seen on live replies of the gateway family (2026-02 to 2026-11).
"""

from functools import cache
from typing import Literal

from pydantic.dataclasses import dataclass

AspectRatio = Literal[
    "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9", "1:4", "4:1", "1:8", "8:1"
]  # fmt: skip
ImageModel = Literal[
    "gemini-2.5-flash-image", "gemini-3-pro-image", "gemini-3.1-flash-image", "gemini-3.1-flash-lite-image",
    "gemini-nano-banana-2.1",
]  # fmt: skip
ImageSize = Literal["512", "1K", "2K", "4K"]
Pixels = tuple[int, int]

CORE_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
ALL_RATIOS = (*CORE_RATIOS, "1:4", "4:1", "1:8", "8:1")
SIZES = ("512", "1K", "2K", "4K")

INPUT_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
MAX_INPUT_IMAGES = 14
MAX_INPUT_BYTES = 7 * 1024**2  # an inline file, Vertex model cards
MAX_BODY_BYTES = 32 * 1024**2  # the gateway family's default cap on a request body

# Google's table for 3.1-flash at 1K; the other tiers are exact multiples but for the banners
# and 21:9 at 512, where live replies gave other pixels than the guide prints.
_AT_1K: dict[str, Pixels] = {
    "1:1": (1024, 1024), "2:3": (848, 1264), "3:2": (1264, 848), "3:4": (896, 1200), "4:3": (1200, 896),
    "4:5": (928, 1152), "5:4": (1152, 928), "9:16": (768, 1376), "16:9": (1376, 768), "21:9": (1584, 672),
}  # fmt: skip
_ODD: dict[tuple[str, str], Pixels] = {
    ("21:9", "512"): (784, 336),
    ("1:4", "512"): (256, 1024), ("4:1", "512"): (1024, 256),
    ("1:4", "1K"): (512, 2064), ("4:1", "1K"): (2064, 512),
    ("1:4", "2K"): (1024, 4128), ("4:1", "2K"): (4128, 1024),
    ("1:4", "4K"): (2048, 8256), ("4:1", "4K"): (8256, 2048),
    ("1:8", "512"): (176, 1456), ("8:1", "512"): (1456, 176),
    ("1:8", "1K"): (352, 2928), ("8:1", "1K"): (2928, 352),
    ("1:8", "2K"): (704, 5856), ("8:1", "2K"): (5856, 704),
    ("1:8", "4K"): (1408, 11712), ("8:1", "4K"): (11712, 1408),
}  # fmt: skip
_NANO_BANANA: dict[str, Pixels] = {
    "1:1": (1024, 1024), "2:3": (832, 1248), "3:2": (1248, 832), "3:4": (864, 1184), "4:3": (1184, 864),
    "4:5": (896, 1152), "5:4": (1152, 896), "9:16": (768, 1344), "16:9": (1344, 768), "21:9": (1536, 672),
}  # fmt: skip
USUAL_SECONDS = 20.0
"""How long a call takes with a model of which nobody has said so."""

_FACTOR = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}


@dataclass(frozen=True)
class Model:
    """What one image model takes and gives."""

    id: str
    """The id on the wire."""

    nick: str
    """The name people use for it."""

    aspect_ratios: tuple[str, ...] = CORE_RATIOS
    """Values of `aspect_ratio` that the model accepts."""

    image_sizes: tuple[str, ...] = ()
    """Values of `image_size` that the model accepts; empty where the field itself makes the call fail."""

    thinking_levels: tuple[str, ...] = ()
    """Values of `thinking_level`; empty where the model does not think or ignores the level."""

    takes_sampling: bool = True
    """Whether `temperature` and `seed` are accepted."""

    takes_google_search: bool = False
    """Whether the model can ground its drawing in a web search."""

    recommended_input_images: int = MAX_INPUT_IMAGES
    """Up to how many input images the model's maker promises good results."""

    image_tokens: tuple[int, ...] = ()
    """Output tokens of one image, in the order of `image_sizes` (one value where there are none)."""

    usual_media_type: str = "image/jpeg"
    """What the model's replies have been seen to hold; decide by the bytes, not by this."""

    usual_seconds: float = USUAL_SECONDS
    """How long a call takes, in seconds; the middle of what was seen, and longer at 4K."""

    def pixels(self, aspect_ratio: str, image_size: str | None = None) -> Pixels | None:
        """The width and height the model's table promises, in pixels, or None where there is no table."""
        if not self.image_sizes:
            return _NANO_BANANA.get(aspect_ratio)
        size = image_size or "1K"
        if aspect_ratio not in self.aspect_ratios or size not in _FACTOR:
            return None
        if (aspect_ratio, size) in _ODD:
            return _ODD[aspect_ratio, size]
        width, height = _AT_1K[aspect_ratio]
        return int(width * _FACTOR[size]), int(height * _FACTOR[size])


MODELS = (
    Model("gemini-2.5-flash-image", "Nano Banana", recommended_input_images=3, image_tokens=(1290,),
          usual_media_type="image/png", usual_seconds=6),
    Model("gemini-3-pro-image", "Nano Banana Pro", image_sizes=("1K", "2K", "4K"),
          image_tokens=(1120, 1120, 2000), takes_google_search=True, usual_seconds=23),
    Model("gemini-3.1-flash-image", "Nano Banana 2", ALL_RATIOS, SIZES, ("minimal", "high"),
          image_tokens=(747, 1120, 1680, 2520), takes_google_search=True),
    Model("gemini-3.1-flash-lite-image", "Nano Banana 2 Lite", ALL_RATIOS, ("1K",), ("minimal", "high"),
          image_tokens=(1120,), takes_google_search=True, usual_seconds=2.7),
    Model("gemini-nano-banana-2.1", "Nano Banana 2.1", ALL_RATIOS, ("1K", "2K", "4K"),
          ("minimal", "medium", "high"), takes_sampling=False, image_tokens=(1120, 1680, 3780),
          takes_google_search=True, usual_seconds=27),
)  # fmt: skip

# Ids that gateways keep as aliases after Google retired them.
ALIASES = {
    "gemini-2.5-flash-image-preview": "gemini-2.5-flash-image",
    "gemini-3-pro-image-preview": "gemini-3-pro-image",
    "gemini-3.1-flash-image-preview": "gemini-3.1-flash-image",
}


@cache
def find(model: str) -> Model | None:
    """The catalogue's entry for a model id or one of its aliases, or None for an unknown model."""
    name = model.removeprefix("models/")
    name = ALIASES.get(name, name)
    return next((entry for entry in MODELS if entry.id == name), None)
