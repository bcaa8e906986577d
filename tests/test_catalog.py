import pytest

from n1n_prefect import catalog
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, ImageSpec, ratio_of

MODELS = catalog.MODELS
PROMISES = [
    (model.id, ratio, size, model.pixels(ratio, size))
    for model in MODELS
    for ratio in model.aspect_ratios
    for size in model.image_sizes or (None,)
]


class TestFind:
    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
    def test_every_model_by_its_id_and_by_google_s_long_name(self, model):
        assert catalog.find(model.id) is model
        assert catalog.find(f"models/{model.id}") is model

    @pytest.mark.parametrize(("alias", "name"), catalog.ALIASES.items())
    def test_aliases_lead_to_models_that_there_are(self, alias, name):
        assert catalog.find(alias).id == name

    @pytest.mark.parametrize("name", ["", "gpt-image-1", "Gemini-2.5-Flash-Image", "gemini-2.5-flash-image "])
    def test_an_unknown_one_is_none(self, name):
        assert catalog.find(name) is None


class TestTables:
    def test_ids_and_nicks_are_unique(self):
        assert len({model.id for model in MODELS}) == len({model.nick for model in MODELS}) == len(MODELS)

    @pytest.mark.parametrize(("model", "ratio", "size", "pixels"), PROMISES)
    def test_every_accepted_ratio_and_size_has_pixels_near_the_ratio(self, model, ratio, size, pixels):
        width, height = pixels
        assert width / height == pytest.approx(ratio_of(ratio), rel=0.05)

    @pytest.mark.parametrize("model", [model for model in MODELS if model.image_sizes], ids=lambda model: model.id)
    def test_a_larger_size_has_more_pixels(self, model):
        for ratio in model.aspect_ratios:
            areas = [width * height for width, height in (model.pixels(ratio, size) for size in model.image_sizes)]
            assert areas == sorted(set(areas))

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
    def test_turned_ratios_have_turned_pixels(self, model):
        for ratio in model.aspect_ratios:
            turned = ":".join(reversed(ratio.split(":")))
            if turned in model.aspect_ratios:
                assert model.pixels(turned) == tuple(reversed(model.pixels(ratio)))

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
    def test_there_are_tokens_for_each_size(self, model):
        assert len(model.image_tokens) == max(1, len(model.image_sizes))

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
    def test_no_size_asked_is_1k(self, model):
        assert model.pixels("16:9") == model.pixels("16:9", "1K")

    def test_a_ratio_that_is_in_no_table_has_no_pixels(self):
        assert catalog.find("gemini-2.5-flash-image").pixels("1:8") is None
        assert catalog.find("gemini-3-pro-image").pixels("1:8") is None

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
    def test_a_size_that_is_in_no_table_has_no_pixels(self, model):
        assert model.image_sizes == () or model.pixels("1:1", "8K") is None


class TestWhatIsPromisedIsWhatIsChecked:
    @pytest.mark.parametrize(("model", "ratio", "size", "pixels"), PROMISES)
    def test_the_table_s_own_pixels_keep_the_rules_made_from_it(self, model, ratio, size, pixels):
        spec = ImageSpec.for_request(ImageRequest("x", model=model, aspect_ratio=ratio, image_size=size))
        width, height = pixels
        assert spec.min_pixels <= width * height <= spec.max_pixels
        assert width / height == pytest.approx(ratio_of(spec.aspect_ratio), rel=spec.tolerance)

    @pytest.mark.parametrize("model", [model for model in MODELS if len(model.image_sizes) > 1], ids=lambda m: m.id)
    def test_the_next_size_down_breaks_them(self, model):
        for ratio in model.aspect_ratios:
            for lower, asked in zip(model.image_sizes, model.image_sizes[1:], strict=False):
                width, height = model.pixels(ratio, lower)
                spec = ImageSpec.for_request(ImageRequest("x", model=model.id, aspect_ratio=ratio, image_size=asked))
                assert width * height < spec.min_pixels

    def test_an_unknown_model_is_held_to_the_ratio_alone(self):
        spec = ImageSpec.for_request(ImageRequest("x", model="new", aspect_ratio="7:3", image_size="16K"))
        assert (spec.aspect_ratio, spec.min_pixels, spec.max_pixels) == ("7:3", None, None)

    def test_no_ratio_asked_means_any_ratio(self):
        assert ImageSpec.for_request(ImageRequest("x")).aspect_ratio is None

    def test_a_size_that_the_model_does_not_have_is_no_crash(self):
        spec = ImageSpec.for_request(ImageRequest("x", model="gemini-3-pro-image", image_size="8K"))
        assert spec.min_pixels is None

    def test_a_ratio_that_is_none_is_named(self):
        with pytest.raises(InvalidRequestError, match="'square:ish'"):
            ImageSpec.for_request(ImageRequest("x", model="new", aspect_ratio="square:ish"))
