"""Image files made for the tests, whole ones of every kind and such as no encoder writes."""

import struct
import zlib
from io import BytesIO
from random import Random

import pytest
from PIL import Image


def encoded(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width=48, height=40, mode="RGB"):
    """Noise: the picture with the most bytes a pixel."""
    return Image.frombytes(mode, (width, height), Random(1).randbytes(width * height * len(mode)))


def chunk(name, payload):
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png_with(*chunks, data=None):
    data = data or encoded(photo(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def png_of(width, height, *, pixels=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def segment(marker, payload):
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_with(*segments, data=None):
    data = data or encoded(photo(), "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def box(name, payload):
    return struct.pack(">I4s", len(payload) + 8, name) + payload


def extent(width, height):
    return box(b"ispe", struct.pack(">III", 0, width, height))


def heic(*extents, brand=b"heic", compatible=(b"mif1",), picture=b"\x5a" * 900, after=b""):
    properties = box(b"iprp", box(b"ipco", box(b"hvcC", b"\x01" * 20) + b"".join(extents)))
    meta = box(b"meta", bytes(4) + box(b"pitm", bytes(6)) + properties)
    return box(b"ftyp", brand + bytes(4) + b"".join(compatible)) + meta + box(b"mdat", picture) + after


SAMPLES = {
    "PNG": encoded(photo(), "PNG"),
    "PNG, interlaced palette": encoded(photo().quantize(), "PNG"),
    "APNG": encoded(photo(), "PNG", save_all=True, append_images=[photo().rotate(90)]),
    "JPEG": encoded(photo(), "JPEG"),
    "JPEG, progressive": encoded(photo(), "JPEG", progressive=True),
    "WebP": encoded(photo(), "WEBP"),
    "WebP, lossless": encoded(photo(), "WEBP", lossless=True),
    "WebP, with alpha": encoded(photo(mode="RGBA"), "WEBP"),
    "WebP, animated": encoded(photo(), "WEBP", save_all=True, append_images=[photo().rotate(90)]),
    "GIF": encoded(photo(), "GIF"),
    "GIF, animated": encoded(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
    "HEIC": heic(extent(48, 40)),
}
PLAIN = {"BMP": encoded(photo(), "BMP"), "TIFF": encoded(photo(), "TIFF")}
every_sample = pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES.keys())
