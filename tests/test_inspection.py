import pickle
import struct
from random import Random

import pytest
from PIL import Image, ImageDraw

from n1n_prefect.inspection import (
    MAX_PIXELS,
    Inspection,
    NotAnImageError,
    TooManyPixelsError,
    extension_of,
    inspect,
    media_type_of,
)
from tests.image_files import (
    PLAIN,
    SAMPLES,
    box,
    chunk,
    encoded,
    every_sample,
    extent,
    heic,
    jpeg_with,
    photo,
    png_of,
    png_with,
    segment,
)

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description Iptc4xmpExt:DigitalSourceType='
    b'"http://cv.iptc.org/newscodes/digitalsourcetype/%s" photoshop:Credit="Made with Google AI"/></x:xmpmeta>'
)
JUMBF = b"JP\x00\x01\x00\x00\x00\x01\x00\x00\x00\x40jumb\x00\x00\x00\x1ejumdc2pa\x00\x11\x00\x10\x80\x00c2pa\x00"


def webp_with(name, payload):
    body = encoded(photo(), "WEBP")[8:] + name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


class TestMediaTypeOf:
    @pytest.mark.parametrize(
        ("sample", "media_type"),
        [
            ("PNG", "image/png"),
            ("JPEG", "image/jpeg"),
            ("WebP", "image/webp"),
            ("GIF", "image/gif"),
            ("HEIC", "image/heic"),
            ("BMP", "image/bmp"),
            ("TIFF", "image/tiff"),
        ],
    )
    def test_by_the_first_bytes(self, sample, media_type):
        assert media_type_of((SAMPLES | PLAIN)[sample]) == media_type

    def test_tiff_of_either_byte_order(self):
        assert media_type_of(b"MM\0*\0\0\0\x08") == media_type_of(b"II*\0\x08\0\0\0") == "image/tiff"

    @pytest.mark.parametrize(
        ("brand", "compatible", "media_type"),
        [
            (b"heix", (b"mif1",), "image/heic"),
            (b"avif", (b"mif1", b"miaf"), "image/avif"),
            (b"avis", (b"msf1",), "image/avif"),
            (b"mif1", (b"miaf",), "image/heif"),
            (b"mif1", (b"miaf", b"avif"), "image/avif"),
            (b"mif1", (b"miaf", b"heic"), "image/heic"),
            (b"isom", (b"mp41", b"avc1"), None),
        ],
    )
    def test_iso_files_by_their_brands(self, brand, compatible, media_type):
        assert media_type_of(heic(extent(8, 8), brand=brand, compatible=compatible)) == media_type

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x89PNG",
            b"\xff\xd8",
            b"RIFF\x24\0\0\0WAVEfmt ",
            b"BMW is a maker of cars and motor cycles",
            b"GIF88a",
            b"%PDF-1.7",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ],
    )
    def test_none_for_what_is_no_image(self, data):
        assert media_type_of(data) is None


class TestExtensionOf:
    @pytest.mark.parametrize(
        ("media_type", "extension"),
        [
            ("image/png", "png"),
            ("image/jpeg", "jpg"),
            ("image/jpg", "jpg"),
            ("image/webp", "webp"),
            ("image/heic", "heic"),
            ("IMAGE/PNG", "png"),
            ("application/octet-stream", "bin"),
            ("image/../../etc/passwd", "bin"),
        ],
    )
    def test_without_a_dot(self, media_type, extension):
        assert extension_of(media_type) == extension


class TestNotAnImage:
    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "the file is empty"),
            (b"hello", "5 bytes that are no image and begin with b'hello'"),
            (b"\xef\xbb\xbf\r\n <!DOCTYPE html><html>502 Bad Gateway</html>", "HTML page"),
            (b'  {"error": {"code": 429}}', "JSON"),
            (b'<?xml version="1.0"?><svg/>', "SVG"),
            (b"iVBORw0KGgoAAAANSUhEUg", "base64 text: decode it first"),
            (b"data:image/png;base64,iVBORw0KGgo", "base64"),
            (b"\x89PNG", "4 bytes"),
        ],
    )
    def test_the_message_says_what_it_looks_like(self, data, said):
        with pytest.raises(NotAnImageError) as caught:
            inspect(data)
        assert said in str(caught.value)

    def test_the_message_stays_short(self):
        with pytest.raises(NotAnImageError) as caught:
            inspect(b"\0" * 5_000_000)
        assert len(str(caught.value)) < 250

    def test_it_survives_pickling(self):
        error = pickle.loads(pickle.dumps(TooManyPixelsError("too many")))
        assert str(error) == "too many"


class TestDecode:
    @every_sample
    def test_every_pixel_is_decoded(self, data):
        seen = inspect(data, decode=True)
        assert seen.damage == ""
        assert seen.decoded is (seen.media_type != "image/heic")

    def test_an_avif(self):
        pytest.importorskip("PIL.AvifImagePlugin")
        seen = inspect(encoded(photo(), "AVIF"), decode=True)
        assert (seen.media_type, seen.width, seen.height, seen.decoded) == ("image/avif", 48, 40, True)

    def test_is_not_done_unasked(self):
        assert inspect(SAMPLES["PNG"]).decoded is False

    def test_finds_what_the_structure_does_not_show(self):
        data = png_of(48, 40, pixels=Random(1).randbytes(500))
        assert inspect(data).damage == ""
        seen = inspect(data, decode=True)
        assert "does not decode" in seen.damage
        assert (seen.decoded, seen.blank) == (False, None)

    def test_a_cut_file_is_not_decoded_leniently(self):
        seen = inspect(SAMPLES["JPEG"][:1500], structure=False, decode=True)
        assert "truncated" in seen.damage
        assert not seen.decoded


class TestTooManyPixels:
    def test_refused_by_the_header_alone(self):
        with pytest.raises(TooManyPixelsError, match="30000x30000 = 900000000 pixels"):
            inspect(png_of(30_000, 30_000))

    @pytest.mark.parametrize("structure", [True, False])
    def test_refused_before_decoding(self, structure):
        with pytest.raises(TooManyPixelsError):
            inspect(png_of(60_000, 60_000), structure=structure, decode=True)

    def test_the_limit_is_inclusive(self):
        assert inspect(SAMPLES["PNG"], max_pixels=48 * 40).width == 48
        with pytest.raises(TooManyPixelsError):
            inspect(SAMPLES["PNG"], max_pixels=48 * 40 - 1)

    def test_the_limit_leaves_room_for_the_largest_model_output(self):
        assert MAX_PIXELS > 4 * 12288 * 1536

    @every_sample
    def test_no_kind_of_file_escapes(self, data):
        with pytest.raises(TooManyPixelsError):
            inspect(data, max_pixels=1000)

    def test_pillows_own_limit_is_neither_heard_nor_changed(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # 48x40 is over it: Pillow would warn
        assert inspect(SAMPLES["PNG"], decode=True).decoded
        assert inspect(SAMPLES["GIF"], decode=True).decoded
        assert Image.MAX_IMAGE_PIXELS == 1500

    def test_a_second_header_does_not_smuggle_a_bomb_past_the_first(self):
        data = SAMPLES["JPEG"]
        frame = data.index(b"\xff\xc0")
        end = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
        second = data[frame : frame + 5] + struct.pack(">HH", 60_000, 60_000) + data[frame + 9 : end]
        with pytest.raises(TooManyPixelsError):
            inspect(data[:end] + second + data[end:], decode=True)


def dotted(colour="black"):
    image = Image.new("RGB", (256, 256), colour)
    ImageDraw.Draw(image).ellipse((100, 100, 116, 116), fill="white")
    return image


def silhouette():
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((60, 60, 190, 190), fill=(0, 0, 0, 255))
    return image


def checkerboard():
    row = b"\0\xff" * 128
    return Image.frombytes("L", (256, 256), (row + row[::-1]) * 128)


class TestBlank:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
    @pytest.mark.parametrize("colour", ["black", "white", "navy"])
    def test_a_single_colour(self, kind, colour):
        seen = inspect(encoded(Image.new("RGB", (256, 256), colour), kind))
        assert seen.blank is True
        assert seen.damage == ""

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_a_single_colour_in_every_mode_of_a_png(self, mode):
        assert inspect(encoded(Image.new(mode, (256, 256)), "PNG")).blank is True

    def test_a_single_colour_of_a_printers_jpeg(self):
        assert inspect(encoded(Image.new("CMYK", (256, 256), (9, 9, 9, 9)), "JPEG", quality=100)).blank is True

    @pytest.mark.parametrize("options", [{"bits": 1}, {"transparency": 0}])
    def test_a_palette_is_looked_up(self, options):
        image = Image.new("P", (256, 256))
        image.putpalette((200, 30, 30) * 2)
        image.paste(1, (50, 50, 200, 200))
        assert inspect(encoded(image, "PNG", **options)).blank is ("transparency" not in options)

    def test_grey_of_16_bits(self):
        image = Image.new("I;16", (256, 256), 40_000)
        image.paste(20_000, (50, 50, 200, 200))
        assert inspect(encoded(image, "PNG")).blank is False

    def test_a_fully_transparent_picture(self):
        hidden = photo(256, 256)
        hidden.putalpha(0)
        assert inspect(encoded(Image.new("RGBA", (256, 256), (10, 20, 30, 0)), "PNG")).blank is True
        assert inspect(encoded(hidden, "PNG"), decode=True).blank is True

    def test_tiny_noise_is_blank_all_the_same(self):
        noise = photo(256, 256).point(lambda value: 20 + value % 3)
        assert inspect(encoded(noise, "PNG"), decode=True).blank is True
        assert inspect(encoded(noise, "JPEG", quality=60)).blank is True

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
    def test_a_small_picture_on_a_flat_ground_is_not(self, kind):
        assert inspect(encoded(dotted(), kind)).blank is False

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_a_black_shape_on_transparent_black_is_not(self, kind):
        assert inspect(encoded(silhouette(), kind, lossless=True)).blank is False

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_a_pattern_that_averages_to_grey_is_not(self, kind):
        assert inspect(encoded(checkerboard(), kind)).blank is False

    def test_stripes_that_an_eighth_of_a_jpeg_does_not_show_are_not(self):
        stripes = Image.frombytes("L", (256, 256), b"\x40\x40\x40\x40\xc0\xc0\xc0\xc0" * 32 * 256)
        data = encoded(stripes, "JPEG", quality=30, optimize=True)
        assert len(data) < 0.08 * 256 * 256
        assert inspect(data).blank is False

    def test_a_faint_gradient_is_not(self):
        gradient = Image.linear_gradient("L").point(lambda value: 100 + value // 32)
        assert inspect(encoded(gradient, "PNG")).blank is False

    def test_metadata_does_not_hide_it(self):
        plain = encoded(Image.new("RGB", (256, 256)), "JPEG")
        credentials = segment(0xEB, JUMBF + Random(1).randbytes(60_000))
        assert inspect(jpeg_with(credentials, data=plain)).blank is True

    def test_a_file_of_many_bytes_is_not_decoded_to_know(self):
        for data in (SAMPLES["PNG"], PLAIN["BMP"]):
            seen = inspect(data)
            assert (seen.blank, seen.decoded) == (False, False)

    def test_a_jpeg_is_decoded_whole_only_when_it_may_be_blank(self):
        assert inspect(encoded(dotted(), "JPEG")).decoded is False
        assert inspect(encoded(Image.new("RGB", (256, 256)), "JPEG")).decoded is True

    def test_it_can_be_left_out(self):
        data = encoded(Image.new("RGB", (256, 256)), "PNG")
        assert inspect(data, blank=False).blank is None
        assert inspect(data, blank=False, decode=True).blank is None

    def test_not_known_for_a_kind_without_a_decoder(self):
        assert inspect(heic(extent(4032, 3024))).blank is None

    def test_a_small_file_that_does_not_decode_is_damaged(self):
        seen = inspect(png_of(256, 256, pixels=bytes(100)))
        assert "does not decode" in seen.damage
        assert seen.blank is None


class TestProvenance:
    def test_none(self):
        assert inspect(SAMPLES["PNG"]).provenance == ()

    @pytest.mark.parametrize(
        "data",
        [
            png_with(chunk(b"caBX", JUMBF)),
            jpeg_with(segment(0xEB, JUMBF)),
            webp_with(b"C2PA", JUMBF),
            heic(extent(8, 8), after=box(b"uuid", bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + JUMBF)),
        ],
        ids=["PNG", "JPEG", "WebP", "HEIC"],
    )
    def test_c2pa(self, data):
        seen = inspect(data)
        assert seen.provenance == ("C2PA",)
        assert seen.damage == ""

    @pytest.mark.parametrize("word", [b"trainedAlgorithmicMedia", b"compositeWithTrainedAlgorithmicMedia"])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda xmp: png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
            lambda xmp: jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)),
            lambda xmp: webp_with(b"XMP ", xmp),
        ],
        ids=["PNG", "JPEG", "WebP"],
    )
    def test_iptc_source_type_and_credit_in_xmp(self, wrap, word):
        assert inspect(wrap(XMP % word)).provenance == (f"IPTC {word.decode()}", "Made with Google AI")

    def test_googles_text_chunk(self):
        data = png_with(chunk(b"tEXt", b"Credit\0Made with Google AI"))
        assert inspect(data).provenance == ("Made with Google AI",)

    def test_each_mark_once(self):
        xmp = XMP % b"trainedAlgorithmicMedia"
        data = jpeg_with(segment(0xEB, JUMBF), segment(0xEB, JUMBF), segment(0xE1, xmp), segment(0xE1, xmp))
        assert inspect(data).provenance == ("C2PA", "IPTC trainedAlgorithmicMedia", "Made with Google AI")

    def test_words_in_a_prompt_are_no_marks(self):
        data = png_with(
            chunk(b"tEXt", b"prompt\0c2pa caBX http://cv.iptc.org/newscodes/digitalsourcetype/minorHumanEdits")
        )
        assert inspect(data).provenance == ()

    def test_what_the_pixels_happen_to_spell_is_no_mark(self):
        assert inspect(heic(extent(48, 40), picture=b"Made with Google AI" * 50)).provenance == ()

    def test_of_a_cut_file_as_far_as_it_goes(self):
        assert inspect(jpeg_with(segment(0xEB, JUMBF))[:-50]).provenance == ("C2PA",)


class TestInspection:
    def test_is_a_value(self):
        assert inspect(SAMPLES["PNG"]) == inspect(SAMPLES["PNG"])
        assert hash(inspect(SAMPLES["PNG"])) == hash(inspect(SAMPLES["PNG"]))

    def test_survives_pickling(self):
        seen = inspect(png_with(chunk(b"caBX", JUMBF)))
        assert pickle.loads(pickle.dumps(seen)) == seen

    def test_needs_no_more_than_the_facts(self):
        assert Inspection("image/png", 1, 1, 67).damage == ""

    @pytest.mark.parametrize("options", [{}, {"decode": True}, {"structure": False, "decode": True}])
    @pytest.mark.parametrize("data", (SAMPLES | PLAIN).values(), ids=(SAMPLES | PLAIN).keys())
    def test_hostile_bytes_end_in_a_value_or_in_our_own_error(self, data, options):
        random = Random(len(data))
        for _ in range(40):
            hostile = bytearray(data)
            for _ in range(random.choice((1, 2, 8))):
                at = random.randrange(random.choice((64, 400, len(data))))
                hostile[at : at + random.randrange(3)] = random.randbytes(random.randrange(6))
            try:
                assert inspect(bytes(hostile), **options).size_bytes == len(hostile)
            except NotAnImageError:
                continue
