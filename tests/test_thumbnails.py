import base64
import random
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from n1n_prefect.thumbnails import MAX_BYTES, data_uri, thumbnail

FORMATS = ["PNG", "JPEG", "WEBP"]


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def opened(webp: bytes | None) -> Image.Image:
    assert webp is not None
    image = Image.open(BytesIO(webp))
    assert image.format == "WEBP"
    return image


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.frombytes(mode, (width, height), random.Random(1).randbytes(width * height * len(mode)))


def half_red(width: int = 300, height: int = 200) -> Image.Image:
    """Red on the left, black on the right."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image


def is_red(colour: tuple[int, ...]) -> bool:
    return colour[0] > 200 and colour[1] < 60 and colour[2] < 60


class TestSize:
    @pytest.mark.parametrize("file_format", FORMATS)
    def test_longer_side_is_the_edge_and_the_shape_stays(self, file_format):
        assert opened(thumbnail(encoded(Image.new("RGB", (1376, 768)), file_format))).size == (320, 179)

    def test_portrait(self):
        assert opened(thumbnail(encoded(Image.new("RGB", (768, 1376))), edge=240)).size == (134, 240)

    @pytest.mark.parametrize("size", [(1, 1), (40, 30), (320, 200)])
    def test_small_images_are_not_enlarged(self, size):
        assert opened(thumbnail(encoded(Image.new("RGB", size)))).size == size

    @pytest.mark.parametrize(("size", "small"), [((5000, 1), (320, 1)), ((352, 2928), (38, 320))])
    def test_banners_keep_at_least_a_pixel(self, size, small):
        assert opened(thumbnail(encoded(Image.new("RGB", size)))).size == small


class TestLength:
    @pytest.mark.parametrize("max_bytes", [MAX_BYTES, 12_000, 2_000])
    def test_the_worst_image_stays_within(self, max_bytes):
        webp = thumbnail(encoded(noise(400, 400, "RGBA"), compress_level=1), max_bytes=max_bytes)
        assert opened(webp).width >= 32
        assert len(webp) <= max_bytes

    def test_quality_gives_way_before_size(self):
        data = encoded(noise(400, 400), compress_level=1)
        good = thumbnail(data)
        poor = thumbnail(data, max_bytes=len(good) - 1)
        assert len(poor) < len(good)
        assert opened(poor).size == opened(good).size

    @pytest.mark.parametrize("max_bytes", [20, 0, -1])
    def test_none_where_nothing_fits(self, max_bytes):
        assert thumbnail(encoded(noise(64, 64)), max_bytes=max_bytes) is None


class TestColour:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
    def test_colours_survive_every_mode(self, mode):
        image = Image.new("RGB", (400, 400), (255, 0, 0)).convert(mode)
        webp = thumbnail(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
        assert is_red(opened(webp).convert("RGB").getpixel((100, 100)))

    @pytest.mark.parametrize(("mode", "value"), [("1", 1), ("L", 255), ("LA", (255, 255)), ("I;16", 65535)])
    def test_greys_survive_every_mode(self, mode, value):
        webp = thumbnail(encoded(Image.new(mode, (400, 400), value)))
        assert min(opened(webp).convert("RGB").getpixel((100, 100))) > 250

    def test_grey_of_16_bits_is_scaled_not_clipped(self):
        webp = thumbnail(encoded(Image.new("I;16", (40, 40), 32768)))
        assert 120 < opened(webp).convert("RGB").getpixel((20, 20))[0] < 136

    @pytest.mark.parametrize("mode", ["RGBA", "P"])
    def test_transparency_is_kept(self, mode):
        image = Image.new("RGBA", (400, 400), (255, 0, 0, 255))
        image.paste((0, 255, 0, 0), (0, 0, 200, 400))
        seen = opened(thumbnail(encoded(image.convert(mode))))
        assert seen.mode == "RGBA"
        assert seen.getpixel((50, 160))[3] == 0
        assert seen.getpixel((270, 160))[3] == 255
        assert is_red(seen.getpixel((270, 160)))

    def test_opaque_images_get_no_alpha(self):
        assert opened(thumbnail(encoded(half_red()))).mode == "RGB"

    def test_the_first_picture_of_an_animation(self):
        data = encoded(half_red(), "WEBP", save_all=True, append_images=[Image.new("RGB", (300, 200), (0, 0, 255))])
        seen = opened(thumbnail(data))
        assert not getattr(seen, "is_animated", False)
        assert is_red(seen.convert("RGB").getpixel((20, 100)))


class TestExif:
    @pytest.fixture
    def exif(self) -> Image.Exif:
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn clockwise makes it upright
        exif[0x010E] = "secret description"
        return exif

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_orientation_is_applied(self, exif, file_format):
        seen = opened(thumbnail(encoded(half_red(), file_format, exif=exif)))
        assert seen.size == (200, 300)
        assert is_red(seen.convert("RGB").getpixel((100, 20)))
        assert not is_red(seen.convert("RGB").getpixel((100, 280)))

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_metadata_stays_behind(self, exif, file_format):
        webp = thumbnail(encoded(half_red(), file_format, exif=exif, icc_profile=b"p" * 3000))
        assert b"secret" not in webp
        assert len(webp) < 2000

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_damaged_exif_hides_no_picture(self, file_format):
        data = encoded(half_red(), file_format, exif=b"Exif\0\0 not a TIFF file at all")
        assert opened(thumbnail(data)).size == (300, 200)


class TestRefusal:
    @pytest.mark.parametrize(
        "data", [b"", b"<html>busy</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"\0" * 999]
    )
    def test_no_image_no_thumbnail(self, data):
        assert thumbnail(data) is None

    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
    def test_truncated(self, file_format, part):
        data = encoded(noise(300, 300), file_format)
        assert thumbnail(data[: int(len(data) * part)]) is None

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_scrambled_bytes_never_raise(self, file_format):
        whole = encoded(noise(64, 64), file_format)
        chance = random.Random(2)
        for at in range(0, len(whole), len(whole) // 60):
            scrambled = bytearray(whole)
            scrambled[at : at + 8] = chance.randbytes(8)
            webp = thumbnail(bytes(scrambled))
            assert webp is None or len(webp) <= MAX_BYTES

    def test_a_pixel_bomb_is_not_decoded(self):
        assert thumbnail(png_of_zeros(30_000, 30_000)) is None

    def test_a_file_of_as_many_zeros_that_is_no_bomb_is_decoded(self):
        assert opened(thumbnail(png_of_zeros(300, 300))).size == (300, 300)

    def test_svg_is_no_picture_of_pixels(self):
        assert thumbnail(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>") is None


def png_of_zeros(width: int, height: int) -> bytes:
    """A valid grey PNG of a few kilobytes, of which only the first 300 rows are there."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(width + 1) * min(height, 300))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class TestDataUri:
    def test_gives_the_file_back(self):
        webp = thumbnail(encoded(half_red()))
        head, _, body = data_uri(webp).partition(",")
        assert head == "data:image/webp;base64"
        assert base64.b64decode(body, validate=True) == webp
