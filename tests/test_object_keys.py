import re
from typing import Any
from urllib.parse import unquote

import pytest

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.object_keys import DEFAULT_KEY_TEMPLATE, check_key, encode_metadata, extension_of, fill_key


class TestFillKey:
    def fill(self, template: str = DEFAULT_KEY_TEMPLATE, **values: Any) -> str:
        usual = {"prefix": "shop", "sha256": "ab12", "extension": "png", "name": None, "date": "2026-11-23"}
        return fill_key(template, **{**usual, "model": "flash", "request_key": "rk", **values})

    def test_default(self):
        assert self.fill() == "shop/ab12.png"

    def test_every_name(self):
        template = "{prefix}/{date}/{model}/{request_key}/{name}-{sha256}.{extension}"
        assert self.fill(template, name="SKU-1") == "shop/2026-11-23/flash/rk/SKU-1-ab12.png"

    @pytest.mark.parametrize("prefix", ["", "/", "//"])
    def test_empty_segments_collapse_and_no_slash_leads(self, prefix: str):
        assert self.fill("/{prefix}//a/{sha256}.{extension}", prefix=prefix) == "a/ab12.png"

    def test_name_may_have_folders_and_any_letters(self):
        assert self.fill("{prefix}/{name}.{extension}", name="Stühle/椅子 1") == "shop/Stühle/椅子 1.png"

    def test_braces_in_values_are_only_braces(self):
        assert self.fill("{prefix}/{name}", name="{sha256}{0.__class__}") == "shop/{sha256}{0.__class__}"

    @pytest.mark.parametrize("name", ["../../other/x", "a/../b", "..", "./a", "..\\..\\x", "a/.."])
    def test_name_never_climbs(self, name: str):
        with pytest.raises(InvalidRequestError, match=r"'\.\.'"):
            self.fill("{prefix}/{name}/x.{extension}", name=name)

    @pytest.mark.parametrize("name", ["a\nb", "a\0b", "a\x7fb", "a\x85b", "a\ud800b"])
    def test_control_characters_are_refused(self, name: str):
        with pytest.raises(InvalidRequestError, match="control characters"):
            self.fill("{prefix}/{name}", name=name)

    @pytest.mark.parametrize("name", ["", "  ", "/", " / "])
    def test_empty_name_is_refused(self, name: str):
        with pytest.raises(InvalidRequestError, match="is empty"):
            self.fill("{prefix}/{name}.{extension}", name=name)

    def test_name_without_a_place_says_where_to_put_it(self):
        with pytest.raises(InvalidRequestError, match=r"put \{name\} into the template"):
            self.fill(name="SKU-1")

    def test_place_without_a_name(self):
        with pytest.raises(InvalidRequestError, match="pass name="):
            self.fill("{prefix}/{name}.{extension}")

    def test_length_is_counted_in_bytes(self):
        assert len(self.fill("{name}", name="é" * 512).encode()) == 1024
        with pytest.raises(InvalidRequestError, match="1,026 bytes"):
            self.fill("{name}", name="é" * 513)

    @pytest.mark.parametrize(
        ("template", "said"),
        [
            ("{prefix}/{sku}.png", "{sku}"),
            ("{prefix", "is broken"),
            ("prefix}", "is broken"),
            ("{prefix!r}/{sha256}", "{prefix!r}"),
            ("{sha256:>99999999}", "{sha256:>99999999}"),
            ("{0}/{sha256}", "{0}"),
            ("{}/{sha256}", "{}"),
            ("{sha256.__class__.__mro__}", "{sha256.__class__.__mro__}"),
            ("{prefix[0]}/{sha256}", "{prefix[0]}"),
            ("{Sha256}", "{Sha256}"),
        ],
    )
    def test_what_is_not_a_known_name_is_quoted_beside_the_known_ones(self, template: str, said: str):
        with pytest.raises(InvalidRequestError, match=re.escape(said)) as caught:
            self.fill(template)
        assert "{prefix}, {sha256}, {extension}, {name}, {date}, {model}, {request_key}" in caught.value.message

    def test_template_that_gives_all_images_one_key(self):
        with pytest.raises(InvalidRequestError, match="every image the same key"):
            self.fill("{prefix}/{date}/{model}.{extension}")


class TestCheckKey:
    @pytest.mark.parametrize("key", ["", "/a.png", "a/", "a/../b.png", "a\nb"])
    def test_refuses(self, key: str):
        with pytest.raises(InvalidRequestError, match="key="):
            check_key(key)

    def test_refuses_a_whole_address(self):
        with pytest.raises(InvalidRequestError, match="s3://"):
            check_key("s3://bucket/a.png")


class TestExtensionOf:
    @pytest.mark.parametrize(
        ("media_type", "extension"),
        [
            ("image/png", "png"),
            ("image/jpeg", "jpg"),
            ("IMAGE/JPEG", "jpg"),
            ("image/webp", "webp"),
            ("image/tiff", "tif"),
            ("image/svg+xml", "svg"),
            ("image/x-../icon", "xicon"),
            ("", "bin"),
        ],
    )
    def test_without_a_dot(self, media_type: str, extension: str):
        assert extension_of(media_type) == extension


class TestEncodeMetadata:
    def test_ascii_stays_readable_and_the_rest_is_percent_encoded(self):
        encoded = encode_metadata({"Title": "Rote Füchse, 100% 椅子\n\tim  Schnee", "n": 3}, "ab")
        assert encoded == {
            "title": "Rote F%C3%BCchse, 100%25 %E6%A4%85%E5%AD%90 im Schnee",
            "n": "3",
            "sha256": "ab",
        }
        assert unquote(encoded["title"]) == "Rote Füchse, 100% 椅子 im Schnee"

    def test_long_values_are_cut_to_fit_and_short_ones_stay(self):
        metadata = {"note": "ü" * 5000, "story": "x" * 5000, "sku": "A-1"}
        encoded = encode_metadata(metadata, "f" * 64)
        assert encoded["sku"] == "A-1"
        assert encoded["sha256"] == "f" * 64
        assert sum(len(key) + len(value) for key, value in encoded.items()) <= 2048
        assert len(encoded["story"]) > 800

    @pytest.mark.parametrize("before", range(9))
    def test_no_letter_is_cut_in_two(self, before: int):
        encoded = encode_metadata({"note": "x" * before + "椅" * 5000}, "f" * 64)
        assert set(unquote(encoded["note"], errors="strict")) - {"x"} == {"椅"}

    @pytest.mark.parametrize("key", ["", "a b", "a:b", "ä", "-a", "x\r\ny", "k" * 129])
    def test_unusable_keys(self, key: str):
        with pytest.raises(InvalidRequestError, match="metadata key"):
            encode_metadata({key: "x"}, "ab")

    def test_keys_that_differ_only_in_case(self):
        with pytest.raises(InvalidRequestError, match="differ only in case"):
            encode_metadata({"SKU": "1", "sku": "2"}, "ab")

    def test_too_many_keys(self):
        with pytest.raises(InvalidRequestError, match="too many"):
            encode_metadata({f"key-{number}": "value" for number in range(200)}, "f" * 64)
