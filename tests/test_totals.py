from dataclasses import replace

from n1n_prefect.images import ImageOutcome
from n1n_prefect.outcomes import outcome_of
from n1n_prefect.totals import Totals
from tests.examples import generated, uploaded


def arrived(**changes):
    return outcome_of(uploaded(original=generated(**changes)))


class TestTotals:
    def test_every_sum(self):
        outcomes = [
            arrived(),
            arrived(possible_duplicates=1),
            arrived(reused=True),
            replace(arrived(), estimated_cost_usd=None),
            ImageOutcome("a", "refused", "no", charged="unknown"),
            ImageOutcome("b", "failed", "no", charged="no"),
        ]
        totals = Totals.of(outcomes)
        assert totals == Totals(
            images=6,
            by_status={"uploaded": 4, "refused": 1, "failed": 1},
            estimated_cost_usd=0.078,
            unpriced=1,
            reused=1,
            charged_without_image=1,
            possible_duplicates=1,
        )
        assert str(totals) == (
            "6 images: 4 uploaded, 1 refused, 1 failed. Estimated cost $0.08, and 1 without a known price. "
            "1 reused, nothing paid. 1 possibly charged without an image. 1 possibly paid twice."
        )

    def test_what_a_person_rejected_has_not_failed(self):
        assert Totals.of([ImageOutcome("a", "rejected", "too dark"), ImageOutcome("b", "failed", "no")]).failed == 1

    def test_of_nothing(self):
        assert str(Totals.of([])) == "No images."
