import pickle
import struct
import zlib
from io import BytesIO
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

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description Iptc4xmpExt:DigitalSourceType='
    b'"http://cv.iptc.org/newscodes/digitalsourcetype/%s" photoshop:Credit="Made with Google AI"/></x:xmpmeta>'
)
JUMBF = b"JP\x00\x01\x00\x00\x00\x01\x00\x00\x00\x40jumb\x00\x00\x00\x1ejumdc2pa\x00\x11\x00\x10\x80\x00c2pa\x00"


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


def webp_with(name, payload):
    body = encoded(photo(), "WEBP")[8:] + name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


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


class TestSize:
    @pytest.mark.parametrize("data", (SAMPLES | PLAIN).values(), ids=(SAMPLES | PLAIN).keys())
    def test_of_every_kind(self, data):
        seen = inspect(data)
        assert (seen.width, seen.height, seen.size_bytes) == (48, 40, len(data))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    @pytest.mark.parametrize("size", [(1, 1), (700, 3), (17, 1300)])
    def test_agrees_with_pillow(self, kind, size):
        seen = inspect(encoded(photo(*size), kind))
        assert (seen.width, seen.height) == size

    def test_pixels_are_those_stored_whatever_the_exif_orientation(self):
        exif = Image.Exif()
        exif[274] = 6
        seen = inspect(encoded(photo(), "JPEG", exif=exif))
        assert (seen.width, seen.height) == (48, 40)

    def test_a_thumbnail_inside_a_jpeg_is_not_its_size(self):
        exif = segment(0xE1, b"Exif\0\0" + encoded(photo(8, 8), "JPEG"))
        assert inspect(jpeg_with(exif)).width == 48

    def test_tiles_and_thumbnails_of_a_heic_are_not_its_size(self):
        seen = inspect(heic(extent(512, 512), extent(4032, 3024), extent(320, 240)))
        assert (seen.width, seen.height) == (4032, 3024)

    def test_a_top_down_bmp(self):
        data = bytearray(PLAIN["BMP"])
        data[22:26] = struct.pack("<i", -40)
        assert inspect(bytes(data)).height == 40

    @pytest.mark.parametrize(("order", "magic"), [("<", b"II*\0"), (">", b"MM\0*")])
    @pytest.mark.parametrize("kind", [3, 4])
    def test_a_tiff_of_either_byte_order(self, order, magic, kind):
        value = f"{order}HHIHH" if kind == 3 else f"{order}HHII"
        edges = b"".join(
            struct.pack(value, tag, kind, 1, *((edge, 0) if kind == 3 else (edge,)))
            for tag, edge in ((256, 48), (257, 40))
        )
        seen = inspect(magic + struct.pack(f"{order}IH", 8, 2) + edges)
        assert (seen.width, seen.height) == (48, 40)

    def test_a_gif_frame_larger_than_its_screen(self):
        data = bytearray(SAMPLES["GIF"])
        data[6:10] = struct.pack("<HH", 5, 5)
        seen = inspect(bytes(data))
        assert (seen.width, seen.height) == (48, 40)

    def test_a_png_under_a_jpeg_name_is_a_png(self):
        assert inspect(SAMPLES["PNG"]).media_type == "image/png"


class TestStructure:
    @every_sample
    def test_a_whole_file_has_no_damage(self, data):
        assert inspect(data).damage == ""

    @every_sample
    def test_a_file_cut_anywhere_is_damaged(self, data):
        lengths = [length for length in range(16, len(data), 7) if not inspect(data[:length]).damage]
        assert lengths == []

    @every_sample
    def test_a_file_cut_by_one_byte_is_truncated(self, data):
        assert "truncated" in inspect(data[:-1]).damage

    @pytest.mark.parametrize(("sample", "length"), [("PNG", 17), ("JPEG", 30), ("WebP", 17), ("GIF", 8), ("HEIC", 40)])
    def test_a_file_cut_inside_its_header_is_an_image_all_the_same(self, sample, length):
        seen = inspect(SAMPLES[sample][:length])
        assert (seen.width, seen.height, seen.blank, seen.decoded) == (0, 0, None, False)
        assert "truncated" in seen.damage

    @every_sample
    def test_padding_behind_the_end_is_no_damage(self, data):
        assert inspect(data + bytes(4096)).damage == ""

    @pytest.mark.parametrize("data", [SAMPLES["PNG"], SAMPLES["JPEG"], SAMPLES["WebP"]])
    def test_of_a_file_cut_inside_its_header_no_pixels_are_known_without_structure_either(self, data):
        assert "no width and height" in inspect(data[:17], structure=False).damage

    def test_it_can_be_left_out(self):
        assert inspect(SAMPLES["PNG"][:-20], structure=False).damage == ""

    def test_where_a_png_was_cut_is_said(self):
        damage = inspect(SAMPLES["PNG"][:3000]).damage
        assert "'IDAT'" in damage
        assert "ends at 3000" in damage

    @pytest.mark.parametrize("at", [24, 50, 3000, -6])
    def test_a_flipped_bit_in_a_png_fails_its_crc(self, at):
        data = bytearray(SAMPLES["PNG"])
        data[at] ^= 0x10
        assert inspect(bytes(data)).damage

    def test_the_failing_chunk_is_named(self):
        data = bytearray(SAMPLES["PNG"])
        data[3000] ^= 0x10
        assert inspect(bytes(data)).damage == "damaged: chunk 'IDAT' at byte 37 fails its CRC"

    def test_a_png_without_picture_data(self):
        data = SAMPLES["PNG"][:33] + chunk(b"IEND", b"")
        assert "no picture data" in inspect(data).damage

    def test_a_png_of_millions_of_empty_chunks_is_given_up(self):
        data = png_with(chunk(b"aaAa", b"") * 200_000)
        assert "no IEND" in inspect(data).damage

    def test_a_cut_jpeg_padded_to_its_length_is_truncated(self):
        data = SAMPLES["JPEG"]
        assert "no EOI" in inspect(data[:1500] + bytes(len(data) - 1500)).damage

    def test_the_end_of_a_jpeg_thumbnail_is_not_the_end_of_the_jpeg(self):
        thumbnail = segment(0xE1, b"Exif\0\0" + encoded(photo(8, 8), "JPEG"))
        assert "no EOI" in inspect(jpeg_with(thumbnail)[:-10]).damage

    def test_a_second_picture_behind_a_jpeg_is_no_damage(self):
        assert inspect(SAMPLES["JPEG"] + encoded(photo(9, 9), "JPEG")[:-9]).damage == ""

    @pytest.mark.parametrize("data", [b"\xff\xd8\xff\xd9", b"\xff\xd8\xff" * 50, b"\xff\xd8\xff\xe0\0\0" * 50])
    def test_a_jpeg_without_a_scan(self, data):
        assert inspect(data).damage

    def test_fill_bytes_between_jpeg_segments_are_no_damage(self):
        data = SAMPLES["JPEG"]
        assert inspect(data[:2] + b"\xff" * 9 + data[2:], decode=True).damage == ""

    def test_a_jpeg_marker_without_a_length_is_no_damage(self):
        assert inspect(jpeg_with(b"\xff\x01", b"\xff\xd0")).damage == ""

    def test_text_behind_a_webp_is_no_damage(self):
        assert inspect(SAMPLES["WebP"] + b"and more, longer than a chunk header").damage == ""

    def test_a_heic_whose_picture_reaches_to_the_end(self):
        data = heic(extent(48, 40), picture=b"")[:-8] + struct.pack(">I4s", 0, b"mdat") + b"\x5a" * 50
        assert inspect(data).damage == ""

    def test_a_heic_with_64_bit_lengths(self):
        data = heic(extent(48, 40), picture=b"")[:-8] + struct.pack(">I4sQ", 1, b"mdat", 66) + b"\x5a" * 50
        assert inspect(data).damage == ""
        assert "truncated" in inspect(data[:-1]).damage

    def test_no_width_is_damage(self):
        assert "no width and height" in inspect(png_of(0, 40)).damage


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
