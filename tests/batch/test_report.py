"""What people are shown of a batch."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from n1n_prefect.batch.report import BatchReport, _Sample, artifact_key
from n1n_prefect.images import ImageOutcome
from tests.batch.ended_items import failed, uploaded


def sampled(*outcomes: ImageOutcome) -> list[str]:
    sample = _Sample()
    for outcome in outcomes:
        sample.add(outcome)
    return [outcome.id for outcome in sample.shown()]


def report(**changes: Any) -> BatchReport:
    given: dict[str, Any] = {"items": 1_001, "by_status": {"uploaded": 1_000, "no_image": 1}}
    where = {"results": "s3://b/w/results.jsonl", "stats": "s3://b/w/_stats.json"}
    return BatchReport("week-46", **(given | where | {"estimated_cost_usd": 38.7} | changes))


class TestSample:
    def test_a_frequent_reason_hides_no_other(self):
        refused = [failed(f"r{n}", "Refused.", "refused") for n in range(50)]
        assert sampled(*refused, failed("slow", "Too slow.")) == ["r0", "slow", "r1", "r2"]

    def test_failures_stay_few_however_many_reasons_there_are(self):
        names = "abcdefghijklmnopqrstuvwxyz"
        assert len(sampled(*(failed(name, f"Reason {name * 3}.") for name in names))) == 12

    def test_images_are_from_all_over_the_batch(self):
        shown = sampled(*(uploaded(str(n)) for n in range(1_000)))
        assert len(shown) <= 24
        assert shown[0] == "0"
        assert int(shown[-1]) > 900
        gaps = {int(later) - int(earlier) for earlier, later in pairwise(shown)}
        assert len(gaps) == 1

    def test_what_was_not_tried_is_not_shown(self):
        assert sampled(ImageOutcome("later", "pending", "Not tried.")) == []


class TestBatchReport:
    def test_in_words(self):
        assert str(report(bad_rows=3)).splitlines() == [
            "Batch week-46: 1,000 uploaded, 1 no image; bad rows left out: 3; $38.70 in all",
            "  s3://b/w/results.jsonl",
            "  s3://b/w/_stats.json",
        ]

    def test_of_a_dry_run_says_that_nothing_has_begun(self):
        dry = replace(report(), by_status={"pending": 1_001}, is_dry_run=True)
        assert str(dry) == "Batch week-46, not begun: 1,001 pending; about $38.70"


@pytest.mark.parametrize(("name", "key"), [("Week_46.b", "batch-week-46-b"), ("a", "batch-a")])
def test_an_artifact_s_key_is_one_that_prefect_takes(name, key):
    assert artifact_key(name) == key
