"""Does an image keep the rules that were set for it?"""

from collections.abc import Iterator
from operator import gt, lt, ne

from n1n_prefect.errors import ImageValidationError, Violation
from n1n_prefect.images import ImageSpec, ratio_of
from n1n_prefect.inspection import MAX_PIXELS, Inspection, NotAnImageError, TooManyPixelsError, inspect

_ROUNDING = 1e-9  # 105x100 is 5 % off 1:1, and a hair more in binary


def check(data: bytes, spec: ImageSpec, *, what: str = "the image", request_id: str = "") -> Inspection:
    """What the bytes are, when they keep every rule of the spec.

    Args:
        data: The whole file.
        spec: The rules. A `max_pixels` above `inspection.MAX_PIXELS` raises that limit too.
        what: Names the image in an error, such as `the image for 'sku-17'`.
        request_id: The gateway's id for the call that made it, for the error.

    Raises:
        ImageValidationError: A rule is broken, or the bytes are no image; `violations` holds every
            broken rule. Rules are named by the spec's fields, and `whole` for a damaged file,
            `image` for what is none.
    """
    limit = max(MAX_PIXELS, spec.max_pixels or 0)
    try:
        seen = inspect(data, decode=spec.decode, blank=spec.reject_blank, max_pixels=limit)
    except TooManyPixelsError as exc:
        raise _error(what, request_id, [Violation("max_pixels", f"at most {limit} pixels", str(exc))]) from None
    except NotAnImageError as exc:
        raise _error(what, request_id, [Violation("image", "the bytes of an image", str(exc))]) from None
    if broken := violations(seen, spec):
        facts = f"{what} ({seen.media_type}, {seen.width}x{seen.height} pixels, {seen.size_bytes} bytes)"
        raise _error(facts, request_id, broken)
    return seen


def violations(seen: Inspection, spec: ImageSpec) -> list[Violation]:
    """Every rule of the spec that the inspected image breaks; empty for a good image.

    Rules about pixels are left out for a damaged file whose header does not tell them.
    """
    return [*_of_file(seen, spec), *(_of_pixels(seen, spec) if seen.width and seen.height else ())]


def _error(what: str, request_id: str, broken: list[Violation]) -> ImageValidationError:
    rules = "; ".join(str(violation) for violation in broken)
    message = f"Broken rules in {what}: {rules}. Draw another with `sample=`, or change the ImageSpec."
    return ImageValidationError(message, request_id, violations=broken)


def _of_file(seen: Inspection, spec: ImageSpec) -> Iterator[Violation]:
    if seen.damage:
        yield Violation("whole", "a whole file", seen.damage)
    elif spec.decode and not seen.decoded:
        yield Violation("decode", "every pixel decoded", f"pixels of {seen.media_type} that were not decoded")
    if spec.media_types and seen.media_type not in spec.media_types:
        yield Violation("media_types", " or ".join(spec.media_types), seen.media_type)
    if spec.max_bytes is not None and seen.size_bytes > spec.max_bytes:
        yield Violation("max_bytes", f"at most {spec.max_bytes} bytes", f"{seen.size_bytes} bytes")
    if spec.reject_blank and seen.blank:
        yield Violation("reject_blank", "a picture", "a single colour")


def _of_pixels(seen: Inspection, spec: ImageSpec) -> Iterator[Violation]:
    width, height = seen.width, seen.height
    for rule, is_broken, measured, limit_is in (
        ("width", ne, width, ""),
        ("height", ne, height, ""),
        ("min_edge", lt, min(width, height), "at least "),
        ("max_edge", gt, max(width, height), "at most "),
        ("min_pixels", lt, width * height, "at least "),
        ("max_pixels", gt, width * height, "at most "),
    ):
        limit = getattr(spec, rule)
        if limit is not None and is_broken(measured, limit):
            yield Violation(rule, f"{limit_is}{limit} pixels", f"{measured} pixels")
    if spec.aspect_ratio:
        yield from _of_ratio(width, height, spec.aspect_ratio, spec.tolerance)


def _of_ratio(width: int, height: int, aspect_ratio: str, tolerance: float) -> Iterator[Violation]:
    asked = ratio_of(aspect_ratio)
    off = width / height / asked - 1
    if abs(off) > tolerance + _ROUNDING:
        expected = f"{aspect_ratio} ({asked:.3f}) within {tolerance * 100:g} %"
        yield Violation("aspect_ratio", expected, f"{width}x{height} pixels ({width / height:.3f})")
