from dataclasses import replace

import pytest

from n1n_prefect import N1nCredentials
from n1n_prefect.batch.checking import identity_of
from n1n_prefect.batch.estimating import RunningEstimate
from n1n_prefect.batch.seen import Seen
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, Spending
from n1n_prefect.pricing import Price, estimate_cost

PRO = "gemini-3-pro-image"
MIXED = [
    ImageRequest("A fox"),
    ImageRequest("A fox", model=PRO, image_size="4K"),
    ImageRequest("A fox"),
    ImageRequest("An owl", images=("a.png", "b.png")),
    ImageRequest("A fox", model="new"),
    ImageRequest("A fox", model="new"),
    ImageRequest("A fox", model="new", sample=1),
]


@pytest.fixture
def seen(tmp_path):
    with Seen(tmp_path / "seen.sqlite") as seen:
        yield seen


def total(seen, requests, **options):
    estimate = RunningEstimate(seen, **options)
    for line, request in enumerate(requests, 2):
        estimate.add(request, identity_of(request), line)
    assert estimate.total() == estimate.total()
    return estimate.total()


class TestTotal:
    def test_none(self, seen):
        assert total(seen, []) == estimate_cost([])

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"spending": Spending(no_image_retries=3)},
            {"credentials": N1nCredentials(api_key="k" * 20, price_factor=0.5, prices={"new": Price(per_image=0.1)})},
        ],
    )
    def test_it_is_what_the_whole_list_costs(self, seen, options):
        assert total(seen, MIXED, **options) == estimate_cost(MIXED, **options)

    def test_over_many_blocks(self, seen):
        requests = [replace(request, sample=n) for n in range(300) for request in MIXED[:6]]
        expected = estimate_cost(requests)
        found = total(seen, requests)
        assert (found.images, found.repeated, found.unpriced) == (1200, 600, ("new",))
        assert found.usd == pytest.approx(expected.usd, abs=1e-4)
        assert found.most_usd == pytest.approx(expected.most_usd, abs=1e-4)
        assert {model: each.repeated for model, each in found.by_model.items()} == {
            model: each.repeated for model, each in expected.by_model.items()
        }

    def test_two_spellings_of_a_model_share_an_image(self, seen):
        found = total(seen, [ImageRequest("A fox"), ImageRequest("A fox", model="models/gemini-2.5-flash-image")])
        assert (found.images, found.repeated) == (1, 1)

    def test_the_wrong_column_as_model(self, seen):
        with pytest.raises(
            InvalidRequestError, match="more than 50 models, at last 'm499'; look at the column 'model'"
        ):
            total(seen, [ImageRequest("A fox", model=f"m{number}") for number in range(1000)])
