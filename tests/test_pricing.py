import pytest

from n1n_prefect import catalog
from n1n_prefect.images import ImageRequest, Usage
from n1n_prefect.pricing import LIST_PRICES, Price, cost_usd, estimate_usd, price_of

FLASH = "gemini-2.5-flash-image"
MINE = {FLASH: Price(1.0, 2.0, 3.0)}


class TestPriceOf:
    def test_every_model_of_the_catalogue_has_one(self):
        assert set(LIST_PRICES) == {model.id for model in catalog.MODELS}

    @pytest.mark.parametrize("name", [FLASH, f"models/{FLASH}", f"{FLASH}-preview"])
    def test_a_model_by_any_of_its_names(self, name):
        assert price_of(name) == LIST_PRICES[FLASH]

    def test_the_user_s_own_wins(self):
        assert price_of(FLASH, MINE) == MINE[FLASH]

    def test_the_user_s_own_may_be_for_a_model_that_nobody_knows(self):
        assert price_of("new", {"new": Price(1, 1, 1)}) == Price(1, 1, 1)

    def test_an_unknown_model_has_none(self):
        assert price_of("new", MINE) is None


class TestCost:
    def test_each_kind_of_token_at_its_price(self):
        usage = Usage(1_000_000, 500_000, 200_000, 1_290, 300_000, 2_001_290)
        assert cost_usd(FLASH, usage) == pytest.approx(1.5 * 0.30 + 0.5 * 2.50 + 1_290 * 30 / 1e6)

    def test_google_s_own_figure_for_one_image(self):
        assert cost_usd(FLASH, Usage(output_image_tokens=1290)) == pytest.approx(0.0387)
        assert cost_usd("gemini-3-pro-image", Usage(output_image_tokens=1120)) == pytest.approx(0.1344)

    def test_the_group_s_factor_multiplies_everything(self):
        usage = Usage(1000, 1000, 1000, 1000, 1000)
        assert cost_usd(FLASH, usage, factor=0.5) == pytest.approx(cost_usd(FLASH, usage) / 2)
        assert cost_usd(FLASH, usage, factor=0) == 0

    @pytest.mark.parametrize("usage", [Usage(), Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)])
    def test_a_flat_price_is_for_the_image_whatever_its_tokens(self, usage):
        own = {FLASH: Price(1, 1, 1, per_image=0.02)}
        assert cost_usd(FLASH, usage, own=own, factor=2) == pytest.approx(0.04)

    def test_an_image_without_usage_costs_what_the_catalogue_says_for_its_size(self):
        pro = "gemini-3-pro-image"
        assert cost_usd(pro, Usage()) == pytest.approx(1120 * 120 / 1e6)
        assert cost_usd(pro, Usage(), image_size="4K") == pytest.approx(2000 * 120 / 1e6)

    def test_without_a_price_nothing_is_invented(self):
        assert cost_usd("new", Usage(output_image_tokens=1290)) is None


class TestEstimate:
    def test_words_and_input_images_count(self):
        bare = estimate_usd(ImageRequest("x" * 4))
        worded = estimate_usd(ImageRequest("x" * 4_000_004))
        with_images = estimate_usd(ImageRequest("x" * 4, images=(b"a", b"b")))
        assert worded - bare == pytest.approx(0.30)
        assert with_images - bare == pytest.approx(2 * 1120 * 0.30 / 1e6)

    def test_size_and_own_prices_count(self):
        large = ImageRequest("x", model="gemini-3-pro-image", image_size="4K")
        assert estimate_usd(large) == pytest.approx(0.24, rel=0.01)
        assert estimate_usd(ImageRequest("x"), own={FLASH: Price(0, 0, 0, per_image=0.5)}, factor=2) == 1.0

    def test_unknown_is_unknown(self):
        assert estimate_usd(ImageRequest("x", model="new")) is None
