import subprocess
import sys
from io import BytesIO

import pytest
from PIL import Image

from n1n_prefect.decoding import decoder_of
from tests.image_files import encoded, photo


class TestDecoderOf:
    @pytest.mark.parametrize(
        ("media_type", "kind"),
        [
            ("image/png", "PNG"),
            ("image/jpeg", "JPEG"),
            ("image/webp", "WEBP"),
            ("image/gif", "GIF"),
            ("image/bmp", "BMP"),
        ],
    )
    def test_opens_its_kind_alone(self, media_type, kind):
        decoder = decoder_of(media_type)
        image = decoder(BytesIO(encoded(photo(), kind)))
        assert (image.format, image.size) == (kind, (48, 40))
        with pytest.raises((SyntaxError, OSError)):
            decoder(BytesIO(encoded(photo(), "TIFF")))

    @pytest.mark.parametrize("media_type", ["image/heic", "image/heif", "image/tiff", "image/svg+xml", "text/html", ""])
    def test_none_for_other_kinds(self, media_type):
        assert decoder_of(media_type) is None

    def test_none_for_avif_where_pillow_has_no_module_for_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
        assert decoder_of("image/avif") is None

    def test_none_for_avif_where_pillow_was_built_without_it(self, monkeypatch):
        plugin = pytest.importorskip("PIL.AvifImagePlugin")
        monkeypatch.setattr(plugin, "SUPPORTED", False)
        assert decoder_of("image/avif") is None

    def test_a_missing_decoder_that_every_pillow_has_is_not_hidden(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL.PngImagePlugin", None)
        with pytest.raises(ModuleNotFoundError, match="PngImagePlugin"):
            decoder_of("image/png")

    def test_no_warning_about_many_pixels(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # 48x40 is over it; warnings are errors here
        assert decoder_of("image/png")(BytesIO(encoded(photo(), "PNG"))).width == 48

    def test_loads_one_plugin_and_only_when_asked(self):
        check = (
            "import sys; from n1n_prefect.decoding import decoder_of; print('PIL' in sys.modules); "
            "decoder_of('image/png'); print([name for name in sys.modules if name.endswith('ImagePlugin')])"
        )
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[:2] == ["False", "['PIL.PngImagePlugin']"]
