import hashlib
import random
import struct
import subprocess
import sys
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import AvifImagePlugin, Image, ImageCms, WebPImagePlugin

from n1n_prefect.derive import Derived, derive, derive_all, require_formats
from n1n_prefect.errors import ImageValidationError, InvalidRequestError
from n1n_prefect.inspection import inspect
from n1n_prefect.testing.drawing import Drawing, Picture
from n1n_prefect.variants import Variant, as_variants
from tests.image_files import PLAIN, SAMPLES, encoded, heic, photo, png_of

FORMATS = ["webp", "avif", "jpeg", "png"]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255)


def made(data: bytes, text: str) -> Image.Image:
    """The decoded variant, once its own figures are known to be true."""
    derived = derive(data, Variant.parse(f"v={text}"))
    image = Image.open(BytesIO(derived.data))
    assert (derived.media_type, derived.width, derived.height) == (f"image/{image.format.lower()}", *image.size)
    assert derived.size_bytes == len(derived.data)
    assert derived.sha256 == hashlib.sha256(derived.data).hexdigest()
    image.load()
    return image


def is_near(image, at, colour, by=12):
    """Whether a pixel has about this colour; one given with alpha must have that too."""
    seen = image.convert("RGBA").getpixel(at)
    return all(abs(one - other) <= by for one, other in zip(seen, colour, strict=False))


def halves(width=200, height=100, mode="RGB"):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image.convert(mode)


def see_through(width=100, height=100):
    """Red on the left, transparent on the right."""
    image = halves(width, height, "RGBA")
    image.paste((0, 0, 255, 0), (width // 2, 0, width, height))
    return image


def profile(kind="XYZ"):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


class TestSize:
    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_every_format_into_every_other(self, kind, format_):
        image = made(encoded(halves(), kind), f"fit 50 {format_}")
        assert image.size == (50, 25)
        assert is_near(image, (5, 12), RED)
        assert is_near(image, (45, 12), BLUE)

    @pytest.mark.parametrize(("gravity", "colour"), [("left", RED), ("right", BLUE)])
    @pytest.mark.parametrize("edge", [10, 90])
    def test_crop(self, gravity, colour, edge):
        for kind in ("PNG", "JPEG"):
            image = made(encoded(halves(), kind), f"crop {edge} {gravity} webp")
            assert image.size == (edge, edge)
            assert all(is_near(image, (x, edge // 2), colour) for x in (edge // 4, edge // 2, edge * 3 // 4))

    def test_crop_enlarges_to_fill(self):
        assert made(encoded(halves(20, 10), "PNG"), "crop 300x200").size == (300, 200)

    def test_fit_enlarges_only_if_told(self):
        assert made(encoded(halves(20, 10), "PNG"), "fit 40").size == (20, 10)
        assert made(encoded(halves(20, 10), "PNG"), "fit 40 enlarge").size == (40, 20)

    @pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 4097)])
    @pytest.mark.parametrize("text", ["fit 64", "crop 64x32", "pad 64 png", "jpeg", "crop 300x2 avif", "fit x7 jpeg"])
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_extremes(self, size, text, kind):
        image = made(encoded(Image.new("RGB", size, RED), kind), text)
        assert is_near(image, (image.width // 2, image.height // 2), RED)

    def test_a_shape_that_no_webp_can_have(self):
        with pytest.raises(InvalidRequestError, match="at most 16383"):
            made(encoded(Image.new("RGB", (1, 20_000)), "PNG"), "webp")


class TestPad:
    @pytest.mark.parametrize("format_", ["webp", "avif", "png"])
    def test_is_transparent_where_the_format_can(self, format_):
        image = made(encoded(halves(), "PNG"), f"pad 100 {format_}")
        assert image.mode == "RGBA"
        assert image.getpixel((50, 10))[3] == 0
        assert is_near(image, (10, 50), (*RED, 255))

    def test_is_white_in_a_jpeg(self):
        image = made(encoded(halves(), "PNG"), "pad 100 jpeg")
        assert is_near(image, (50, 10), WHITE)
        assert is_near(image, (10, 50), RED)

    @pytest.mark.parametrize("format_", FORMATS)
    def test_has_the_colour_that_is_asked(self, format_):
        image = made(encoded(halves(), "PNG"), f"pad 100 {format_} on 00a000")
        assert image.mode == "RGB"
        assert is_near(image, (50, 10), GREEN)
        assert is_near(image, (90, 50), BLUE)

    def test_gravity(self):
        image = made(encoded(halves(), "PNG"), "pad 100 top png on white")
        assert is_near(image, (10, 10), RED)
        assert is_near(image, (10, 90), WHITE)

    def test_of_the_same_shape_leaves_nothing_to_pad(self):
        assert made(encoded(halves(), "PNG"), "pad 100x50 png").mode == "RGB"


class TestTransparency:
    @pytest.mark.parametrize("format_", ["webp", "avif", "png"])
    @pytest.mark.parametrize("mode", ["RGBA", "P"])
    def test_is_kept(self, mode, format_):
        image = made(encoded(see_through().convert(mode), "PNG"), f"fit 40 {format_}")
        assert is_near(image, (10, 20), (*RED, 255))
        assert image.getpixel((35, 20))[3] == 0

    @pytest.mark.parametrize("mode", ["RGBA", "P"])
    @pytest.mark.parametrize(
        ("words", "colour"), [("jpeg", WHITE), ("jpeg on 00a000", GREEN), ("webp on 00a000", GREEN)]
    )
    def test_gives_way_to_the_background(self, mode, words, colour):
        image = made(encoded(see_through().convert(mode), "PNG"), f"fit 40 {words}")
        assert image.mode == "RGB"
        assert is_near(image, (35, 20), colour)

    def test_of_a_single_colour_and_of_a_grey_with_alpha(self):
        keyed = encoded(halves(), "PNG", transparency=BLUE)
        assert made(keyed, "png").getpixel((150, 50))[3] == 0
        grey = encoded(see_through().convert("LA"), "PNG")
        assert made(grey, "fit 40 webp").getpixel((35, 20))[3] == 0
        deep = encoded(Image.new("I;16", (8, 8), 5), "PNG", transparency=5)
        assert made(deep, "png").size == (8, 8)

    def test_hidden_colours_do_not_bleed(self):
        """Blue stands behind what is transparent; scaled with it, the seam would be purple."""
        image = made(encoded(see_through(101, 101), "PNG"), "fit 25 png on white")
        assert all(image.getpixel((x, 12))[2] <= image.getpixel((x, 12))[0] for x in range(25))

    def test_an_opaque_alpha_is_dropped(self):
        assert made(encoded(halves(mode="RGBA"), "PNG"), "png").mode == "RGB"


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    @pytest.mark.parametrize("format_", FORMATS)
    def test_white_stays_white(self, mode, format_):
        white = {"1": 1, "LA": (255, 255), "RGB": WHITE, "RGBA": (*WHITE, 255), "I;16": 65535, "P": 0}
        image = Image.new(mode, (64, 64), white.get(mode, 255))
        if mode == "P":
            image.putpalette(WHITE)
        assert is_near(made(encoded(image, "PNG"), f"fit 16 {format_}"), (8, 8), (*WHITE, 255), by=2)

    def test_grey_of_16_bits_is_scaled_not_clipped(self):
        assert is_near(made(encoded(Image.new("I;16", (64, 64), 32768), "PNG"), "png"), (8, 8), (128, 128, 128), by=2)

    def test_cmyk(self):
        image = made(encoded(halves(mode="CMYK"), "JPEG", quality=98), "fit 50 png")
        assert image.mode == "RGB"
        assert is_near(image, (5, 10), RED, by=30)
        assert is_near(image, (45, 10), BLUE, by=30)

    @pytest.mark.parametrize("name", [name for name in (*SAMPLES, "BMP") if name != "HEIC"])
    def test_every_kind_of_file_and_of_an_animation_the_first_picture(self, name):
        data = {**SAMPLES, **PLAIN}[name]
        image = made(data, "png")
        assert image.size == (48, 40)
        with Image.open(BytesIO(data)) as first:
            assert is_near(image, (20, 20), first.convert("RGBA").getpixel((20, 20)), by=2)


class TestOrientation:
    @pytest.mark.parametrize("turn", range(1, 9))
    @pytest.mark.parametrize("text", ["png", "fit 100 png", "crop 20x40 left png"])
    def test_is_applied(self, turn, text):
        """What is derived from a turned file is what is derived from the upright one."""
        upright = Image.new("RGB", (400, 800), RED)
        upright.paste(BLUE, (200, 0, 400, 800))
        upright.paste(GREEN, (0, 400, 400, 800))
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # transpositions that undo the orientation
        stored = upright.transpose(Image.Transpose(back[turn])) if turn > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = turn
        expected = made(encoded(upright, "PNG"), text)
        for kind in ("JPEG", "PNG", "WEBP"):
            image = made(encoded(stored, kind, exif=exif, **({"quality": 98} if kind != "PNG" else {})), text)
            assert image.size == expected.size
            for at in ((0.2, 0.2), (0.8, 0.2), (0.2, 0.8)):
                point = int(image.width * at[0]), int(image.height * at[1])
                assert is_near(image, point, expected.getpixel(point), by=20), (kind, at)
            assert "exif" not in image.info

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_damaged_exif_hides_no_picture(self, kind):
        assert made(encoded(halves(), kind, exif=b"Exif\0\0no TIFF at all"), "fit 50").size == (50, 25)


class TestColours:
    def swapped(self, name="another"):
        """A profile whose red and green are exchanged, so that nobody overlooks it; names have 13 letters at most."""
        data = bytearray(profile("sRGB"))
        tags = {data[at : at + 4].decode(): at for at in range(132, 132 + 12 * data[131], 12)}
        red, green = tags["rXYZ"], tags["gXYZ"]
        data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
        return bytes(data).replace("sRGB built-in".encode("utf-16-be"), f"{name:13}".encode("utf-16-be"))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize("format_", FORMATS)
    def test_of_another_profile_become_srgb(self, kind, format_):
        image = made(encoded(Image.new("RGB", (64, 64), RED), kind, icc_profile=self.swapped()), f"fit 32 {format_}")
        assert is_near(image, (16, 16), (0, 255, 0), by=20)
        assert not image.info.get("icc_profile")

    def test_alpha_stays_with_them(self):
        image = made(encoded(see_through(), "PNG", icc_profile=self.swapped()), "fit 40 png")
        assert is_near(image, (10, 20), (0, 255, 0, 255), by=20)
        assert image.getpixel((35, 20))[3] == 0

    def test_of_srgb_stay_as_they_are(self):
        noise = photo(64, 64)
        image = made(encoded(noise, "PNG", icc_profile=profile("sRGB")), "png")
        assert image.tobytes() == noise.tobytes()
        named = made(encoded(noise, "PNG", icc_profile=self.swapped("sRGB")), "png")
        assert named.tobytes() == noise.tobytes()

    @pytest.mark.parametrize("name", ["P3 with sRGB", "sRGB Linear"])
    def test_a_name_that_only_has_srgb_in_it_is_not_srgb(self, name):
        image = made(encoded(Image.new("RGB", (9, 9), RED), "PNG", icc_profile=self.swapped(name)), "png")
        assert is_near(image, (4, 4), (0, 255, 0), by=20)

    @pytest.mark.parametrize("icc", [b"no profile at all", b"\0" * 200, profile("LAB"), profile("XYZ")], ids=len)
    def test_a_damaged_or_foreign_profile_says_nothing(self, icc):
        for mode, kind in (("RGB", "PNG"), ("L", "PNG"), ("CMYK", "JPEG"), ("RGBA", "WEBP")):
            assert made(encoded(halves(mode=mode), kind, icc_profile=icc), "fit 50 png").size == (50, 25)

    def test_lossless_is(self):
        noise = photo(64, 64)
        for text in ("webp lossless", "png"):
            assert made(encoded(noise, "PNG"), text).tobytes() == noise.tobytes()


class TestMetadata:
    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
    def test_a_variant_still_says_that_a_model_made_it(self, media_type, format_):
        data = Drawing(grain=False).draw(Picture(256, 256, media_type, "a fox"))
        derived = derive(data, Variant.parse(f"v=fit 64 {format_}"))
        seen = inspect(derived.data)
        assert not seen.damage
        if format_ == "avif":  # which our inspection finds no XMP in
            with Image.open(BytesIO(derived.data)) as image:
                packet = image.info["xmp"]
            assert b"digitalsourcetype/trainedAlgorithmicMedia" in packet
            assert b"Made with Google AI" in packet
        else:
            assert seen.provenance == ("IPTC trainedAlgorithmicMedia", "Made with Google AI")

    @pytest.mark.parametrize("format_", FORMATS)
    def test_nothing_else_is_carried(self, format_):
        exif = Image.Exif()
        exif[0x010E] = "secret description"
        data = encoded(
            halves(), "JPEG", exif=exif, comment=b"secret comment", dpi=(300, 300), icc_profile=profile("sRGB")
        )
        derived = derive(data, Variant.parse(f"v=fit 50 {format_}"))
        assert b"secret" not in derived.data
        assert derived.size_bytes < 1500
        with Image.open(BytesIO(derived.data)) as image:
            assert not {"exif", "icc_profile", "comment", "xmp", "dpi"} & {*image.info}


class TestQuality:
    @pytest.mark.parametrize("format_", ["webp", "avif", "jpeg"])
    def test_more_is_longer(self, format_):
        data = encoded(photo(100, 100), "PNG")
        low, usual, high = (derive(data, Variant.parse(f"v={format_} {q}")).size_bytes for q in (10, "", 95))
        assert low < usual < high


class TestSeveral:
    VARIANTS = as_variants("thumb=fit 32,64,128 webp; card=pad 100x80 jpeg; whole=avif; square=crop 50 png")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_are_each_what_they_are_alone(self, kind):
        """Bytes follow the image and the variant, and not what else is asked, or nothing would be found again."""
        data = encoded(photo(600, 400), kind)
        together = derive_all(data, self.VARIANTS)
        assert list(together) == ["thumb-32", "thumb-64", "thumb-128", "card", "whole", "square"]
        assert together == {variant.name: derive(data, variant) for variant in self.VARIANTS}

    def test_are_the_same_in_another_process(self):
        code = (
            "import hashlib, sys\n"
            "from n1n_prefect.derive import derive_all\n"
            "from n1n_prefect.variants import as_variants\n"
            "from tests.image_files import encoded, photo\n"
            "made = derive_all(encoded(photo(600, 400), 'JPEG'), as_variants(sys.argv[1]))\n"
            "print(*(one.sha256 for one in made.values()))"
        )
        text = ";".join(map(str, self.VARIANTS))
        done = subprocess.run(
            [sys.executable, "-c", code, text], capture_output=True, text=True, check=True, timeout=120
        )
        here = derive_all(encoded(photo(600, 400), "JPEG"), self.VARIANTS)
        assert done.stdout.split() == [one.sha256 for one in here.values()]

    def test_are_the_same_on_a_machine_of_more_cores(self, monkeypatch):
        variant, data = Variant("web", format="avif"), encoded(photo(1024, 512), "PNG")
        monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 1)
        one = derive(data, variant)
        monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 4)
        assert derive(data, variant) == one

    def test_a_picture_is_decoded_once(self, monkeypatch):
        from PIL import JpegImagePlugin, PngImagePlugin

        loads = []
        for plugin in (PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile):
            load = plugin.load

            def counted(self, load=load):
                loads.append(self.size)
                return load(self)

            monkeypatch.setattr(plugin, "load", counted)
        derive_all(encoded(photo(800, 400), "PNG"), self.VARIANTS)
        assert set(loads) == {(800, 400)}
        loads.clear()
        derive_all(encoded(photo(800, 400), "JPEG"), as_variants("a=fit 40; b=fit 50; c=crop 40; d=fit 100; e=jpeg"))
        assert set(loads) == {(100, 50), (200, 100), (800, 400)}

    def test_of_none_are_none(self):
        assert derive_all(encoded(photo(), "PNG"), []) == {}


class TestRefusal:
    @pytest.mark.parametrize(
        ("data", "rule"),
        [
            (b"", "image"),
            (b"<html>busy</html>", "image"),
            (b"\0" * 999, "image"),
            (encoded(photo(), "PNG")[:1000], "whole"),
            (encoded(photo(), "JPEG")[:1000], "whole"),
            (encoded(photo(), "WEBP")[:1000], "whole"),
            (encoded(photo(), "GIF")[:1000], "whole"),
            (b"\x89PNG\r\n\x1a\n", "whole"),
            (encoded(photo(), "BMP")[:1000], "decode"),
            (png_of(5, 5, pixels=b"\0" * 10), "decode"),
            (heic(), "whole"),
            (SAMPLES["HEIC"], "decode"),
            (PLAIN["TIFF"], "decode"),
            (png_of(30_000, 30_000), "max_pixels"),
            (png_of(2**31 - 1, 2**31 - 1), "max_pixels"),
        ],
    )
    def test_says_what_is_wrong_with_the_image(self, data, rule):
        with pytest.raises(ImageValidationError, match="No variant can be made of the image") as caught:
            derive(data, Variant("web", 10))
        assert [violation.rule for violation in caught.value.violations] == [rule]
        assert not caught.value.is_transient

    def test_a_bomb_is_not_decoded(self):
        """A gigabyte of pixels in 1 MB, which its header admits."""
        before = _peak_kilobytes()
        with pytest.raises(ImageValidationError, match="900000000 pixels"):
            derive(png_of(30_000, 30_000, pixels=bytes(30_000)), Variant("web", 10))
        assert _peak_kilobytes() - before < 50_000

    def test_a_second_header_does_not_smuggle_a_bomb_past_the_first(self):
        data = SAMPLES["JPEG"]
        frame = data.index(b"\xff\xc0")
        end = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
        second = data[frame : frame + 5] + struct.pack(">HH", 60_000, 60_000) + data[frame + 9 : end]
        for text in ("v=fit 10", "v=webp"):
            with pytest.raises(ImageValidationError, match="max_pixels"):
                derive(data[:end] + second + data[end:], Variant.parse(text))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
    def test_scrambled_bytes_give_an_image_or_our_error(self, kind):
        whole = encoded(photo(64, 64), kind)
        chance = random.Random(2)
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            scrambled = bytearray(whole)
            scrambled[at : at + 8] = chance.randbytes(8)
            with suppress(ImageValidationError):
                assert isinstance(derive(bytes(scrambled), Variant("web", 10)), Derived)

    def test_original_bytes_are_not_touched(self):
        data = encoded(photo(), "PNG")
        before = hashlib.sha256(data).hexdigest()
        derive(data, Variant("web", 10, background="white"))
        assert hashlib.sha256(data).hexdigest() == before


def _peak_kilobytes():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class TestRequireFormats:
    def test_takes_what_this_pillow_writes(self):
        require_formats(as_variants("a=avif;b=webp;c=jpeg;d=png"))

    @pytest.mark.parametrize(
        ("plugin", "format_", "remedy"),
        [(AvifImagePlugin, "avif", "pillow>=11.3"), (WebPImagePlugin, "webp", "--upgrade pillow")],
    )
    def test_names_the_variant_and_the_remedy(self, monkeypatch, plugin, format_, remedy):
        monkeypatch.setattr(plugin, "SUPPORTED", False)
        variants = as_variants(f"a=jpeg; hero={format_}")
        with pytest.raises(InvalidRequestError, match=rf"'hero' is to be {format_}, which Pillow [\d.]+ .*{remedy}"):
            require_formats(variants)
        with pytest.raises(InvalidRequestError, match="'hero'"):
            derive_all(b"not even an image", variants)

    def test_a_pillow_without_the_plugin(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
        with pytest.raises(InvalidRequestError, match="'hero' is to be avif"):
            require_formats(as_variants("hero=avif"))


def test_importing_loads_no_pillow():
    code = "import sys, n1n_prefect.derive; print([name for name in sys.modules if name.split('.')[0] == 'PIL'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
