import struct

import pytest
from PIL import Image

from n1n_prefect.inspection import inspect
from tests.image_files import (
    PLAIN,
    SAMPLES,
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
