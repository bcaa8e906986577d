import base64
import hashlib
import io
import random
import subprocess
import sys
from collections.abc import Iterator

import orjson
import pytest
from PIL import Image

from n1n_prefect import catalog
from n1n_prefect.testing.checking import Asked, check
from n1n_prefect.testing.drawing import Drawing, Picture, UnreadableInputError, seed_of
from n1n_prefect.testing.replies import nearest_ratio, picture_for
from tests.testing.asking import body, png

DRAWING = Drawing()
CELLS = [
    (model.id, ratio, size)
    for model in catalog.MODELS
    for ratio in model.aspect_ratios
    for size in (model.image_sizes or (None,))
]


def asked(model: str, ratio: str | None = None, size: str | None = None, *images: bytes) -> Asked:
    config = {"aspectRatio": ratio, "imageSize": size}
    return check(model, orjson.dumps(body("a lighthouse", *images, imageConfig=config)), [model])


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def share_of(image: Image.Image, colour: tuple[int, int, int]) -> float:
    """How much of the image has exactly a colour."""
    colours = image.getcolors(image.width * image.height)
    assert colours is not None
    return sum(count for count, found in colours if found == colour) / (image.width * image.height)


class TestCells:
    @pytest.mark.parametrize("model", [model.id for model in catalog.MODELS])
    def test_every_cell_of_the_catalogue_has_its_pixels_and_type(self, model: str) -> None:
        entry = catalog.find(model)
        assert entry is not None
        for _, ratio, size in (cell for cell in CELLS if cell[0] == model):
            picture = picture_for(asked(model, ratio, size), 1)
            assert (picture.width, picture.height) == entry.pixels(ratio, size)
            assert picture.media_type == entry.usual_media_type

    @pytest.mark.parametrize(("model", "ratio", "size"), random.Random(3).sample(CELLS, 8))
    def test_what_is_drawn_is_what_was_promised(self, model: str, ratio: str, size: str | None) -> None:
        picture = picture_for(asked(model, ratio, size), 1)
        image = opened(Drawing(grain=False).draw(picture))
        assert image.size == (picture.width, picture.height)
        assert f"image/{image.format.lower()}" == picture.media_type

    @pytest.mark.parametrize(
        ("shape", "ratio"), [(1.0, "1:1"), (1.77, "16:9"), (0.57, "9:16"), (50.0, "8:1"), (0.01, "1:8"), (1.3, "4:3")]
    )
    def test_the_nearest_ratio(self, shape: float, ratio: str) -> None:
        entry = catalog.find("gemini-3.1-flash-image")
        assert nearest_ratio(shape, entry) == ratio


@pytest.mark.slow
class TestDrawing:
    def test_a_square_png_is_as_large_as_a_real_one(self) -> None:
        assert 1.3e6 < len(DRAWING.draw(Picture(1024, 1024, "image/png", "a lighthouse"))) < 2e6

    def test_without_grain_it_is_small(self) -> None:
        assert len(Drawing(grain=False).draw(Picture(1024, 1024, "image/png", "a lighthouse"))) < 300_000

    def test_equal_pictures_are_equal_bytes_in_every_process(self) -> None:
        code = (
            "import hashlib; from n1n_prefect.testing.drawing import Drawing, Picture; "
            "print(hashlib.sha256(Drawing().draw(Picture(200, 120, 'image/png', 'a cat'))).hexdigest())"
        )
        there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        here = [hashlib.sha256(DRAWING.draw(Picture(200, 120, "image/png", "a cat"))).hexdigest() for _ in range(2)]
        assert here == [there, there]

    def test_prompt_number_and_caption_each_change_it(self) -> None:
        plain = Picture(256, 256, prompt="a cat")
        others = [
            Picture(256, 256, prompt="a dog"),
            Picture(256, 256, prompt="a cat", number=1),
            Picture(256, 256, prompt="a cat", number=2),
            Picture(256, 256, prompt="a cat", caption="16:9"),
        ]
        assert len({DRAWING.draw(picture) for picture in (plain, *others)}) == 5

    def test_the_words_can_be_read(self) -> None:
        with_words = opened(DRAWING.draw(Picture(1024, 1024, prompt="A lighthouse at dusk")))
        assert share_of(with_words.crop((0, 800, 1024, 1024)), (255, 255, 255)) > 0.005

    @pytest.mark.parametrize(
        "prompt",
        [
            "",
            " \n\t ",
            "w" * 5000,
            "many words " * 2000,
            "одно, 二つ, שלוש, أربعة, 🦄",
            "e\u0301\u0301" * 300,
            "\0\x07\u202e",
            "\ufffd\uffff",
        ],
    )
    @pytest.mark.parametrize("size", [(300, 200), (64, 4000), (2000, 110)])
    def test_any_prompt_fits(self, prompt: str, size: tuple[int, int]) -> None:
        picture = Picture(*size, "image/jpeg", prompt, prompt, number=10**9)
        assert opened(DRAWING.draw(picture)).size == size

    @pytest.mark.parametrize("size", [(1, 1), (2, 50), (99, 100)])
    def test_small_ones_have_no_words_and_are_whole(self, size: tuple[int, int]) -> None:
        assert opened(DRAWING.draw(Picture(*size, prompt="a cat", inputs=(png(),), number=3))).size == size

    def test_blank_is_one_colour_in_both_types(self) -> None:
        for media_type in ("image/png", "image/jpeg"):
            blank = DRAWING.draw(Picture(64, 64, media_type, "a cat", number=1, blank=True))
            assert len(opened(blank).getcolors()) == 1

    def test_seeds_differ_and_survive_odd_text(self) -> None:
        assert len({seed_of(prompt) for prompt in ("", "a", "b", "\ud800")}) == 4


class TestInputs:
    @pytest.mark.parametrize("size", [(1024, 1024), (2928, 352), (352, 2928), (600, 448)])
    def test_each_is_seen_in_the_picture(self, size: tuple[int, int]) -> None:
        inputs = (png(300, 200, "magenta"), png(100, 300, "lime"), png(50, 50, "yellow"))
        image = opened(DRAWING.draw(Picture(*size, "image/png", "side by side", inputs=inputs)))
        for colour in ((255, 0, 255), (0, 255, 0), (255, 255, 0)):
            assert share_of(image, colour) > 0.01

    def test_one_fills_much_of_the_picture(self) -> None:
        image = opened(DRAWING.draw(Picture(512, 512, prompt="more", inputs=(png(),))))
        assert share_of(image, (255, 0, 255)) > 0.2

    def test_fourteen_fit(self) -> None:
        picture = Picture(448, 600, "image/png", "all of them", inputs=(png(),) * 14)
        assert share_of(opened(DRAWING.draw(picture)), (255, 0, 255)) > 0.05

    @pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1", "I;16", "CMYK"])
    def test_any_mode_is_taken(self, mode: str) -> None:
        file = io.BytesIO()
        Image.new(mode, (40, 40)).save(file, "TIFF" if mode == "CMYK" else "PNG")
        assert opened(DRAWING.draw(Picture(200, 200, prompt="x", inputs=(file.getvalue(),))))

    @pytest.mark.parametrize("data", [b"", b"<html>", png()[:-30], png(5000, 5000)[:200]])
    def test_one_that_cannot_be_decoded_is_named(self, data: bytes) -> None:
        with pytest.raises(UnreadableInputError) as refused:
            DRAWING.draw(Picture(200, 200, prompt="x", inputs=(png(), data)))
        assert refused.value.index == 1


class TestMarks:
    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
    @pytest.mark.parametrize("canned", [False, True])
    def test_the_file_says_that_it_was_generated(self, media_type: str, canned: bool) -> None:
        data = base64.b64decode(Drawing(canned=canned).draw_base64(Picture(200, 100, media_type, "a cat", number=2)))
        xmp = opened(data).info["xmp"]
        assert b"trainedAlgorithmicMedia" in xmp
        assert b"Made with Google AI" in xmp

    @pytest.mark.parametrize("canned", [False, True])
    def test_every_chunk_of_a_png_has_the_right_checksum(self, canned: bool) -> None:
        data = base64.b64decode(Drawing(canned=canned).draw_base64(Picture(200, 100, "image/png", "a cat", number=2)))
        Image.open(io.BytesIO(data)).verify()
        names = [name for name, _ in _chunks(data)]
        assert (names[0], names[-1]) == (b"IHDR", b"IEND")
        assert b"iTXt" in names


class TestPrepared:
    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
    def test_ones_differ_by_their_number_alone(self, media_type: str) -> None:
        drawing = Drawing(canned=True)
        pictures = [Picture(200, 100, media_type, prompt, number=number) for prompt in "ab" for number in (1, 22, 333)]
        files = [base64.b64decode(drawing.draw_base64(picture), validate=True) for picture in pictures]
        assert files[:3] == files[3:]
        assert len(set(files)) == 3
        assert len({opened(data).tobytes() for data in files}) == 1

    def test_ones_without_a_number_are_equal(self) -> None:
        drawing = Drawing(canned=True)
        assert drawing.draw_base64(Picture(200, 100, prompt="a")) == drawing.draw_base64(Picture(200, 100, prompt="b"))

    def test_sizes_and_blankness_are_kept_apart(self) -> None:
        drawing = Drawing(canned=True)
        pictures = [
            Picture(200, 100),
            Picture(100, 200),
            Picture(200, 100, "image/jpeg"),
            Picture(200, 100, blank=True),
        ]
        assert len({drawing.draw_base64(picture) for picture in pictures}) == 4


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
