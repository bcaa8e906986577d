import pytest

from n1n_prefect import N1nCredentials, catalog
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, Spending, Usage
from n1n_prefect.pricing import (
    LIST_PRICES,
    CostEstimate,
    Price,
    cost_usd,
    estimate_cost,
    estimate_usd,
    price_of,
)

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

    def test_an_image_of_a_model_that_only_the_user_knows_is_not_taken_for_free(self):
        assert estimate_usd(ImageRequest("x", model="new"), own={"new": Price(image=30)}) == pytest.approx(0.0387)


class TestEstimateCost:
    def test_texts_and_requests_together(self):
        pro = ImageRequest("a wolf", model="gemini-3-pro-image", image_size="4K")
        estimate = estimate_cost(["a fox", pro, "a hare"])
        assert estimate.images == 3
        assert estimate.usd == pytest.approx(2 * estimate_usd(ImageRequest("a fox")) + estimate_usd(pro), abs=1e-6)
        assert list(estimate.by_model) == [FLASH, pro.model]
        assert estimate.by_model[pro.model] == CostEstimate(1, estimate_usd(pro), round(3 * estimate_usd(pro), 6))
        assert estimate.unpriced == ()

    def test_options_are_for_the_texts(self):
        whole = ImageRequest("a wolf")
        estimate = estimate_cost(["a fox", whole], model="gemini-3-pro-image", image_size="4K", images=[b"a", "b.png"])
        asked = ImageRequest("a fox", (b"a", "b.png"), "gemini-3-pro-image", image_size="4K")
        assert estimate.usd == pytest.approx(estimate_usd(asked) + estimate_usd(whole))

    @pytest.mark.parametrize("one", ["a fox", ImageRequest("a fox")])
    def test_one_alone_is_one(self, one):
        assert estimate_cost(one).images == 1

    def test_nothing_costs_nothing(self):
        assert estimate_cost(iter([])) == CostEstimate()

    def test_credentials_bring_their_factor_and_prices(self):
        block = N1nCredentials(api_key="sk-x", price_factor=0.5, prices={"new": Price(per_image=0.02)})
        estimate = estimate_cost([ImageRequest("a fox", model="new"), "a fox"], credentials=block)
        assert estimate.by_model["new"].usd == 0.01
        assert estimate.by_model[FLASH].usd == estimate_usd(ImageRequest("a fox"), factor=0.5)

    def test_a_model_without_a_price_is_named_and_left_out(self):
        estimate = estimate_cost(["a fox", ImageRequest("a fox", model="new")])
        assert (estimate.images, estimate.unpriced) == (2, ("new",))
        assert estimate.usd == estimate_cost("a fox").usd

    def test_equal_requests_share_an_image_as_in_a_run(self):
        fox = ImageRequest("a fox", images=(b"same",))
        again = ImageRequest("a fox", images=(b"same",), stream=True)
        others = [ImageRequest("a fox", images=(b"other",)), ImageRequest("a fox", images=(b"same",), sample=1)]
        estimate = estimate_cost([fox, again, *others, "a fox", "a fox"])
        assert (estimate.images, estimate.repeated) == (4, 2)

    @pytest.mark.parametrize(
        ("spending", "calls"),
        [(None, 3), (Spending(on_unknown_outcome="fail"), 2), (Spending(unknown_retries=3, no_image_retries=0), 4)],
    )
    def test_the_most_is_what_spending_lets_be_paid_again(self, spending, calls):
        estimate = estimate_cost("a fox", spending=spending)
        assert estimate.most_usd == pytest.approx(calls * estimate.usd)

    @pytest.mark.parametrize(
        ("requests", "options", "said"),
        [
            (["a fox", "a fox"], {"aspect_ratio": "7:3"}, r"Request 1: aspect_ratio='7:3' .* it has 1:1"),
            (["a fox", ImageRequest("x", image_size="4K")], {}, r"Request 2: image_size='4K'"),
            (["a fox", ""], {}, "Request 2: prompt='' is empty"),
            (["a fox", 7], {}, "Request 2: prompt must be one text"),
            ("a fox", {"colour": "red"}, "no field 'colour'"),
            ("a fox", {"images": ["a.png"] * 15}, "15 input images; .* at most 14"),
            (7, {}, "requests must be texts or ImageRequests, not int"),
            ("a fox", {"credentials": "default"}, r"not str; give credentials=N1nCredentials.load\('NAME'\)"),
        ],
    )
    def test_what_cannot_work_is_named_before_money_is_spent(self, requests, options, said):
        with pytest.raises(InvalidRequestError, match=said):
            estimate_cost(requests, **options)


class TestPrice:
    @pytest.mark.parametrize("price", [-1, float("inf"), float("nan")])
    def test_what_is_no_price_is_refused(self, price):
        with pytest.raises(InvalidRequestError, match="image"):
            Price(image=price)
