import pickle

import pytest
from pydantic import TypeAdapter

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.variants import MAX_VARIANTS, Variant, as_variants, derived_key


class TestVariant:
    def test_only_a_name_converts_to_webp(self):
        assert Variant("web") == Variant("web", None, None, "fit", "webp", None, False, "centre", False, None)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"name": ""}, "a name is 1 to 40"),
            ({"name": "a" * 41}, "a name is 1 to 40"),
            ({"name": "a/b"}, "a name is 1 to 40"),
            ({"name": "../up"}, "a name is 1 to 40"),
            ({"name": "a\n"}, "a name is 1 to 40"),
            ({"name": "grün"}, "a name is 1 to 40"),
            ({"width": 0}, "width=0"),
            ({"width": -5}, "width=-5"),
            ({"height": 70_000}, "height=70000"),
            ({"width": "wide"}, "width='wide'"),
            ({"width": 20_000, "height": 10}, "at most 16383"),
            ({"width": 60_000, "height": 60_000, "format": "png"}, "3600000000 pixels"),
            ({"mode": "stretch", "width": 5}, "mode='stretch'"),
            ({"mode": "crop", "width": 5}, "crop needs width and height"),
            ({"mode": "pad"}, "pad needs width and height"),
            ({"format": "gif"}, "format='gif'"),
            ({"quality": 0}, "quality=0"),
            ({"quality": 101}, "quality=101"),
            ({"quality": 80, "format": "png"}, "a png has no quality"),
            ({"lossless": True, "quality": 80}, "one of them"),
            ({"lossless": True, "format": "jpeg"}, "jpeg is never lossless"),
            ({"lossless": True, "format": "avif"}, "avif is never lossless"),
            ({"width": 5, "gravity": "top"}, "is for crop and pad"),
            ({"width": 5, "height": 5, "mode": "crop", "gravity": "north"}, "gravity='north'"),
            ({"enlarge": True}, "enlarge is for a width or height"),
            ({"background": "blue"}, "write a colour as #rrggbb"),
            ({"background": "#12345"}, "write a colour as #rrggbb"),
            ({"background": ""}, "write a colour as #rrggbb"),
            ({"sharpen": True}, "there is no field 'sharpen'"),
        ],
        ids=str,
    )
    def test_what_is_not_right_is_named(self, fields, words):
        with pytest.raises(InvalidRequestError, match=words):
            Variant(**{"name": "web", **fields})

    @pytest.mark.parametrize(
        ("given", "kept"),
        [("#FFF", "#ffffff"), ("a1B2c3", "#a1b2c3"), ("White", "#ffffff"), ("black", "#000000"), (None, None)],
    )
    def test_colours(self, given, kept):
        assert Variant("web", background=given).background == kept

    def test_travels(self):
        variant = Variant("thumb", 256, 256, "crop", background="white")
        adapter = TypeAdapter(Variant)
        assert pickle.loads(pickle.dumps(variant)) == variant
        assert adapter.validate_json(adapter.dump_json(variant)) == variant
        assert hash(variant) == hash(Variant("thumb", 256, 256, "crop", background="#ffffff"))


class TestText:
    @pytest.mark.parametrize(
        ("text", "variant", "canonical"),
        [
            ("thumb=crop 256x256 webp 80", Variant("thumb", 256, 256, "crop", quality=80), None),
            ("thumb=crop 256", Variant("thumb", 256, 256, "crop"), "thumb=crop 256x256 webp"),
            ("b=crop 1200x400 top jpeg", Variant("b", 1200, 400, "crop", "jpeg", gravity="top"), None),
            ("b=crop 9x4 bottom-right png", Variant("b", 9, 4, "crop", "png", gravity="bottom-right"), None),
            ("web=fit 1600x1600 avif", Variant("web", 1600, 1600, "fit", "avif"), None),
            ("wide=fit 1600x webp", Variant("wide", 1600), None),
            ("high=fit x900 enlarge webp", Variant("high", None, 900, enlarge=True), None),
            ("c=pad 800x600 jpg on F4F4F4", Variant("c", 800, 600, "pad", "jpeg", background="#f4f4f4"),
             "c=pad 800x600 jpeg on f4f4f4"),
            ("c=pad 8x6 left png", Variant("c", 8, 6, "pad", "png", gravity="left"), None),
            ("print=png", Variant("print", format="png"), None),
            ("exact=webp lossless", Variant("exact", lossless=True), None),
            (" SKU_1-b = 7  WEBP fit 5x5 ", Variant("SKU_1-b", 5, 5, quality=7), "SKU_1-b=fit 5x5 webp 7"),
            ("plain=", Variant("plain"), "plain=webp"),
            ("w=on white jpeg", Variant("w", format="jpeg", background="white"), "w=jpeg on ffffff"),
        ],
    )  # fmt: skip
    def test_says_and_is_said(self, text, variant, canonical):
        assert Variant.parse(text) == variant
        assert str(variant) == (canonical or text)
        assert Variant.parse(str(variant)) == variant

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "0 variants"),
            (" ; \n ;", "0 variants"),
            ("crop 256", "a name is 1 to 40"),
            ("=webp", "a name is 1 to 40"),
            ("../../etc=webp", "a name is 1 to 40"),
            ("a\0b=webp", "a name is 1 to 40"),
            ("t=wepb", "'wepb' is no word of a variant"),
            ("t=crop", "'' is no size"),
            ("t=crop x", "'x' is no size"),
            ("t=crop webp", "'webp' is no size"),
            ("t=crop -5x5", "'-5x5' is no size"),
            ("t=crop 0x5", "width=0"),
            ("t=crop \u0662\u0665x\u0662", "is no size"),
            ("t=crop 5x5x5", "is no size"),
            ("t=crop " + "9" * 5000, "is no size"),
            ("t=crop 999999x999999", "width=999999"),
            ("t=crop 5x", "crop needs width and height"),
            ("t=fit 5 webp webp", "gives its format once more"),
            ("t=fit 5 crop 5", "gives its mode once more"),
            ("t=webp 80 90", "gives its quality once more"),
            ("t=webp 0", "quality=0"),
            ("t=webp 101", "quality=101"),
            ("t=webp 8000", "'8000' is no word"),
            ("t=jpeg on", "write a colour"),
            ("t=jpeg on webp", "write a colour"),
            ("t=fit 5 on url(javascript:alert(1))", "write a colour"),
            ("t=webp --verbose", "'--verbose' is no word"),
            ("t=fit 5,,6", "'' is no size"),
            ("a=webp; a=png", "Two variants are called 'a'"),
            ("a=webp; b=png", "describes 2 variants"),
            ("a=fit 5,6", "describes 2 variants"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_mean(self, text, words):
        with pytest.raises(InvalidRequestError, match=words) as caught:
            Variant.parse(text)
        assert len(str(caught.value)) < 400

    def test_a_long_name_has_no_room_for_its_size(self):
        assert as_variants(f"{'n' * 36}=fit 5,256")[1].name == f"{'n' * 36}-256"
        with pytest.raises(InvalidRequestError, match="a name is 1 to 40"):
            as_variants(f"{'n' * 37}=fit 5,256")


class TestAsVariants:
    def test_a_set_is_one_variant_a_size(self):
        assert as_variants("thumb=fit 256,512x,800x600 avif 50") == (
            Variant("thumb-256", 256, 256, format="avif", quality=50),
            Variant("thumb-512x", 512, format="avif", quality=50),
            Variant("thumb-800x600", 800, 600, format="avif", quality=50),
        )

    def test_of_every_kind_in_order(self):
        given = ["a=webp;b=png", Variant("c"), {"name": "d", "width": 5}, "e=jpeg\nf=fit 7"]
        found = as_variants(given)
        assert [variant.name for variant in found] == list("abcdef")
        assert found[3] == Variant("d", 5)
        assert as_variants(found) == found
        assert as_variants(Variant("c")) == (Variant("c"),)
        assert as_variants({"name": "d", "width": 5}) == (Variant("d", 5),)

    @pytest.mark.parametrize("given", [None, 5, b"t=webp", ["a=webp", None], [["a=webp"]], {5: 6}, {}], ids=str)
    def test_of_no_kind(self, given):
        with pytest.raises(InvalidRequestError):
            as_variants(given)

    @pytest.mark.parametrize("given", [[], "", "v=fit " + ",".join(map(str, range(1, MAX_VARIANTS + 2)))])
    def test_too_few_or_too_many(self, given):
        with pytest.raises(InvalidRequestError, match="1 to 20 are made"):
            as_variants(given)


class TestDerivedKey:
    @pytest.mark.parametrize(
        ("key", "derived"),
        [
            ("products/fox.png", "products/fox.thumb.webp"),
            ("fox.JPEG", "fox.thumb.webp"),
            ("v1.2/fox", "v1.2/fox.thumb.webp"),
            ("products/sku-1.5", "products/sku-1.5.thumb.webp"),
            ("products/.png", "products/.png.thumb.webp"),
            (".png", ".png.thumb.webp"),
            ("a.png/b", "a.png/b.thumb.webp"),
            ("a/fox.png.webp", "a/fox.png.thumb.webp"),
            ("Stühle/Ä 1.tiff", "Stühle/Ä 1.thumb.webp"),
        ],
    )
    def test_stands_beside_the_original(self, key, derived):
        assert derived_key(key, Variant("thumb")) == derived

    def test_ends_as_its_format_does(self):
        ends = [derived_key("a.png", Variant("b", format=name)) for name in ("webp", "avif", "jpeg", "png")]
        assert ends == ["a.b.webp", "a.b.avif", "a.b.jpg", "a.b.png"]

    def test_has_the_limit_of_every_key(self):
        assert derived_key("k" * 1013 + ".png", Variant("thumb")) == "k" * 1013 + ".thumb.webp"
        with pytest.raises(InvalidRequestError, match="1,025 bytes"):
            derived_key("k" * 1014 + ".png", Variant("thumb"))
