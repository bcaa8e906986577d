import pytest

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.layout import layout_of
from n1n_prefect.variants import Variant


def canvas(text, width, height):
    return layout_of(Variant.parse(f"v={text}"), width, height).canvas


class TestFit:
    @pytest.mark.parametrize(
        ("text", "size", "expected"),
        [
            ("fit 400x400", (1376, 768), (400, 223)),
            ("fit 400x100", (1376, 768), (179, 100)),
            ("fit 400x", (1376, 768), (400, 223)),
            ("fit x100", (1376, 768), (179, 100)),
            ("fit 400", (300, 200), (300, 200)),
            ("fit 400x", (300, 2000), (300, 2000)),
            ("fit 400 enlarge", (300, 200), (400, 267)),
            ("fit 400", (5000, 1), (400, 1)),
            ("fit 400", (1, 5000), (1, 400)),
            ("fit 1", (7, 5), (1, 1)),
            ("webp", (7, 5), (7, 5)),
        ],
    )
    def test_is_within_the_box_in_the_same_shape(self, text, size, expected):
        layout = layout_of(Variant.parse(f"v={text}"), *size)
        assert (layout.canvas, layout.size, layout.at) == (expected, expected, (0, 0))
        assert layout.box == (0, 0, *size)

    @pytest.mark.parametrize("size", [(1, 65_500), (16_384, 1)])
    def test_a_shape_that_would_make_it_too_large(self, size):
        with pytest.raises(
            InvalidRequestError, match=r"'v' would be .* at most 16383; give a smaller size, or another"
        ):
            canvas("webp", *size)
        with pytest.raises(InvalidRequestError, match="'v' would be"):
            canvas("fit 3000x enlarge png" if size[0] == 1 else "fit x3000 enlarge png", *size)


class TestCrop:
    @pytest.mark.parametrize(
        ("text", "size", "box"),
        [
            ("crop 100x100", (300, 200), (50, 0, 250, 200)),
            ("crop 100x100 left", (300, 200), (0, 0, 200, 200)),
            ("crop 100x100 right", (300, 200), (100, 0, 300, 200)),
            ("crop 100x100 top", (300, 200), (50, 0, 250, 200)),
            ("crop 100x100 top-left", (200, 300), (0, 0, 200, 200)),
            ("crop 100x100 bottom-right", (200, 300), (0, 100, 200, 300)),
            ("crop 300x100", (300, 200), (0, 50, 300, 150)),
            ("crop 900x600", (300, 200), (0, 0, 300, 200)),
            ("crop 100x100", (1, 5000), (0, 2499.5, 1, 2500.5)),
            ("crop 1000x10", (1, 5000), (0, 2499.5, 1, 2500.5)),
        ],
    )
    def test_takes_the_part_that_gravity_says(self, text, size, box):
        layout = layout_of(Variant.parse(f"v={text}"), *size)
        assert layout.box == pytest.approx(box)
        assert layout.canvas == layout.size

    def test_fills_its_box_exactly_and_enlarges_for_it(self):
        assert canvas("crop 256x100", 30, 20) == (256, 100)


class TestPad:
    @pytest.mark.parametrize(
        ("text", "size", "at"),
        [
            ("pad 400x400", (400, 200), (0, 100)),
            ("pad 400x400 top", (400, 200), (0, 0)),
            ("pad 400x400 bottom-right", (400, 200), (0, 200)),
            ("pad 400x400 left", (100, 200), (0, 100)),
            ("pad 400x400 bottom", (100, 200), (150, 200)),
            ("pad 400x400", (800, 100), (0, 175)),
        ],
    )
    def test_puts_the_whole_picture_where_gravity_says(self, text, size, at):
        layout = layout_of(Variant.parse(f"v={text}"), *size)
        assert (layout.canvas, layout.at) == ((400, 400), at)

    def test_enlarges_only_where_it_is_told(self):
        assert layout_of(Variant.parse("v=pad 400x400"), 100, 50).size == (100, 50)
        assert layout_of(Variant.parse("v=pad 400x400 enlarge"), 100, 50).size == (400, 200)


class TestScale:
    @pytest.mark.parametrize(
        ("text", "scale"),
        [("fit 256", 0.25), ("crop 512x128", 0.5), ("pad 256x512", 0.25), ("webp", 1), ("fit 9x", 9 / 1024)],
    )
    def test_is_what_the_part_becomes(self, text, scale):
        assert layout_of(Variant.parse(f"v={text}"), 1024, 1024).scale == pytest.approx(scale)
