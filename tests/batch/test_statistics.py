import pickle
import platform
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import prefect
import pytest
from markdown_it import MarkdownIt

import n1n_prefect
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.batch.statistics import Statistics
from n1n_prefect.images import ImageOutcome
from tests.batch.ended_items import AT, THUMB, ended, failed, image, item, uploaded

HOSTILE = "<img src=x onerror=alert(1)> | [a](http://evil.example) `b` ![](x)\n# heading"


def counted(*results: ItemResult, **options: Any) -> Statistics:
    statistics = Statistics("week-46", **options)
    for result in results:
        statistics.add(result)
    return statistics


def written(statistics: Statistics) -> dict[str, Any]:
    return orjson.loads(statistics.dumped())


def reused(name: str = "fox") -> ItemResult:
    return ended(uploaded(name, image(reused=True)), seconds=0.01)


class TestCounts:
    def test_statuses_models_and_what_was_made(self):
        found = written(
            counted(
                ended(variants=[THUMB, THUMB]),
                ended(replace(uploaded(), status="already_there")),
                ended(failed(), item(model="gemini-2.5-flash-image")),
                ItemResult.pending(item()),
            )
        )
        assert found["by_status"] == {"uploaded": 1, "already_there": 1, "failed": 1, "pending": 1}
        assert (found["items"], found["images"], found["variants"], found["ok_rate"]) == (4, 2, 2, 0.5)
        assert (found["size_bytes"], found["pixels"]) == (3_000_000, 2 * 1264 * 848)
        assert list(found["by_model"]) == ["gemini-3-pro-image", "gemini-2.5-flash-image"]
        assert found["by_model"]["gemini-3-pro-image"]["images"] == 2
        assert found["by_model"]["gemini-2.5-flash-image"]["items"] == 1

    def test_reasons_of_those_that_failed(self):
        found = written(
            counted(
                ended(failed("a", "Slow: 3 s.")),
                ended(failed("b", "Slow: 5 s.")),
                ended(uploaded(reason="Kept another one.")),
                ItemResult.pending(item()),
            )
        )
        assert found["top_reasons"] == [{"status": "failed", "reason": "Slow: # s.", "count": 2, "example": "a"}]

    def test_many_models_cost_no_more_memory(self):
        statistics = counted(*(ended(of=item(model=f"model-{number}")) for number in range(300)))
        assert len(statistics.models) == 201
        assert statistics.models["other models"].items == 100

    def test_of_nothing(self):
        found = written(counted())
        assert (found["items"], found["ok_rate"], found["images_per_second"]) == (0, None, None)
        assert (found["started_at"], found["last_finished_at"], found["wall_seconds"]) == (None, None, 0)


class TestMoney:
    def test_what_an_earlier_pass_paid_is_spent(self):
        found = written(counted(ended(), reused()))
        assert (found["spent_usd"], found["reused"]) == (0.268, 1)

    def test_a_failure_that_cost_something(self):
        found = written(
            counted(ended(ImageOutcome("fox", "invalid", "Blank.", image(), charged="yes", estimated_cost_usd=0.134)))
        )
        assert (found["spent_usd"], found["images"], found["charged_without_image"]) == (0.134, 1, 0)

    def test_charged_without_an_image(self):
        found = written(
            counted(
                ended(failed(status="unknown_outcome", charged="unknown")),
                ended(failed(status="no_image", charged="yes")),
                ended(failed(charged="no")),
            )
        )
        assert (found["charged_without_image"], found["spent_usd"], found["unpriced"]) == (2, 0, 0)

    def test_images_without_a_price(self):
        unpriced = ended(uploaded(of=image(estimated_cost_usd=None)))
        nan = ended(uploaded(estimated_cost_usd=float("nan")))
        found = written(counted(unpriced, nan, ended()))
        assert (found["unpriced"], found["spent_usd"]) == (2, 0.134)

    def test_possibly_spent_twice(self):
        found = written(
            counted(
                ended(uploaded(possible_duplicates=2, estimated_cost_usd=0.268)),
                ended(failed(possible_duplicates=1)),
            )
        )
        assert (found["possible_duplicates"], found["possibly_spent_twice_usd"]) == (3, 0.268)


class TestTime:
    def test_percentiles(self):
        found = written(counted(*(ended(seconds=float(n), waited_seconds=n / 10) for n in range(1, 101))))
        assert found["seconds"]["p50"] == pytest.approx(50, rel=0.01)
        assert found["waited_seconds"]["p99"] == pytest.approx(9.9, rel=0.01)
        assert found["seconds"]["max"] == 100

    def test_what_was_found_in_the_journal_took_none(self):
        assert written(counted(reused(), ended(seconds=8.0)))["seconds"]["p50"] == 8.0

    def test_from_the_first_begin_to_the_last_end(self):
        later = ended(finished_at=AT + timedelta(seconds=60), seconds=1.0)
        found = written(counted(later, ended(seconds=40.0), ItemResult.pending(item())))
        assert found["started_at"] == (AT - timedelta(seconds=40)).isoformat()
        assert found["first_finished_at"] == AT.isoformat()
        assert found["last_finished_at"] == (AT + timedelta(seconds=60)).isoformat()
        assert (found["wall_seconds"], found["images_per_second"]) == (100, 0.02)

    def test_pauses_between_passes_are_no_work(self):
        minutes = [0, 5, 10, 600, 606]
        statistics = counted(*(ended(finished_at=AT + timedelta(minutes=each), seconds=0.0) for each in minutes))
        found = written(statistics)
        assert (found["wall_seconds"], found["at_work_seconds"]) == (606 * 60, 16 * 60)
        assert statistics.images_per_second == 5 / (16 * 60)


class TestMerge:
    RESULTS = (
        ended(variants=[THUMB]),
        ended(failed("a", "Slow: 3 s.", possible_duplicates=1)),
        reused(),
        ended(failed("b", "No."), item(model="other"), finished_at=AT + timedelta(minutes=3), seconds=90.0),
        ItemResult.pending(item()),
    )

    @pytest.mark.parametrize("cut", range(6))
    def test_is_as_if_all_were_counted_together(self, cut: int):
        one, other = counted(*self.RESULTS[:cut]), counted(*self.RESULTS[cut:])
        one.merge(pickle.loads(pickle.dumps(other)))
        assert written(one) == written(counted(*self.RESULTS))


class TestDumped:
    def test_says_what_it_is_of(self):
        found = written(counted(manifest="s3://shop/week.csv", bad_rows=3))
        assert (found["schema"], found["batch"], found["manifest"], found["bad_rows"]) == (
            1, "week-46", "s3://shop/week.csv", 3,
        )  # fmt: skip
        assert found["versions"] == {
            "python": platform.python_version(),
            "prefect": prefect.__version__,
            "n1n_prefect": n1n_prefect.__version__,
        }

    def test_names_every_field_in_its_docstring(self):
        doc = Statistics.dumped.__doc__ or ""
        sums = set(vars(Statistics("x").total))
        assert [name for name in written(counted()) if f"`{name}`" not in doc and name not in sums] == []

    def test_hostile_words(self):
        hostile = counted(ended(failed("\ud800", "\udfff is odd.")), manifest="https://x.example/a?token=abcdefgh12345")
        found = written(hostile)
        assert found["top_reasons"][0]["example"] == "?"
        assert "abcdefgh12345" not in str(found)


class TestForPeople:
    def test_a_quiet_batch_is_a_few_sentences(self):
        assert str(counted(ended(), ended(failed()), ended())) == (
            "3 items: 2 uploaded, 1 failed (66.7 % arrived). Estimated cost: $0.27. At work: 0:00:04, 0.47 images a "
            "second."
        )

    def test_what_it_cost_stands_beside_the_estimate(self):
        statistics = counted(ended(), expected_usd=0.15)
        assert "Estimated cost: $0.13, and $0.15 expected." in str(statistics)
        assert written(statistics)["expected_usd"] == 0.15

    def test_no_image_has_no_speed(self):
        assert "images a second" not in str(counted(ended(failed())))

    def test_losses_are_named(self):
        said = str(
            counted(
                ended(uploaded(possible_duplicates=1)),
                ended(uploaded(of=image(estimated_cost_usd=None))),
                ended(failed(charged="unknown")),
                reused(),
                bad_rows=1,
            )
        )
        for words in (
            "Without a known price: 1 image.",
            "Possibly charged without an image: 1 item.",
            "Possibly paid twice: 1 call, $0.13.",
            "Found in the journal, nothing paid again: 1 image.",
            "1 bad row of the manifest left out.",
        ):
            assert words in said

    def test_of_nothing(self):
        assert str(counted()) == "No items. Estimated cost: $0.00."

    def test_tables(self):
        shown = rendered(counted(ended(variants=[THUMB]), ended(failed()), bad_rows=2, manifest="week.csv").markdown())
        assert "<h2>Batch week-46</h2>" in shown
        assert "<p>2 items of week.csv, 2 bad rows left out.</p>" in shown
        assert cells(shown, "uploaded") == ["uploaded", "1", "50.0 %"]
        assert cells(shown, "It broke.") == ["1", "failed", "It broke.", "fox"]
        assert cells(shown, "gemini-3-pro-image") == ["gemini-3-pro-image", "2", "1", "$0.13"]
        assert cells(shown, "Estimated cost") == ["Estimated cost", "$0.13"]
        assert cells(shown, "Variants") == ["Variants", "1"]

    def test_of_nothing_has_no_empty_tables(self):
        assert counted().markdown().count("|---|") == 1

    def test_words_of_others_do_not_render(self):
        result = ended(failed(HOSTILE, HOSTILE), item(HOSTILE, model=HOSTILE))
        statistics = replace(counted(result), batch=HOSTILE, manifest=HOSTILE)
        tokens = MarkdownIt("commonmark", {"linkify": True}).enable("table").parse(statistics.markdown())
        kinds = {child.type for token in tokens for child in token.children or ()} | {token.type for token in tokens}
        assert not kinds & {"link_open", "image", "html_inline", "html_block", "code_inline", "em_open"}
        assert [token.tag for token in tokens if token.type == "heading_open"] == ["h2"]
        assert all(len(row) == 4 for row in table_with(statistics.markdown(), "Reason"))

    def test_stays_short_however_much_there_is(self):
        results = (
            ended(failed(f"{'x' * 300}{n}", chr(0x4E00 + n) + "y" * 5000), item(model=f"{'m' * 300}{n}"))
            for n in range(1_000)
        )
        assert len(counted(*results).markdown()) < 20_000


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


def cells(html: str, word: str) -> list[str]:
    """The cells of the first table row that has one with this text."""
    for row in html.split("<tr>"):
        found = [part.partition("</td>")[0] for part in row.split("<td>")[1:]]
        if word in found:
            return found
    raise AssertionError(f"{word} in no row of {html}")


def table_with(markdown: str, heading: str) -> Iterable[list[str]]:
    """The cells of each row of the table that has this heading."""
    for table in rendered(markdown).split("<table>"):
        if f"<th>{heading}</th>" in table:
            for row in table.partition("<tbody>")[2].split("<tr>")[1:]:
                yield row.split("<td>")[1:]
