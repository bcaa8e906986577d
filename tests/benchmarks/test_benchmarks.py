"""The benchmarks still run, and what does not depend on the machine's speed holds."""

from functools import partial

import pytest

from tests.benchmarks import batch, importing, parsing, pipeline, replies, servers
from tests.benchmarks.measuring import Line, fresh, in_turns, median_ratio


class TestParsing:
    @pytest.mark.parametrize("form", [replies.as_json, replies.as_sse])
    @pytest.mark.parametrize("kind", [replies.JPEG_AND_SIGNATURE, replies.PNG])
    def test_a_reply_takes_little_memory(self, kind, form, tmp_path):
        body = form(replies.bodies(0.5)[kind])
        path = tmp_path / "body"
        path.write_bytes(body)
        peak = fresh(parsing.parsed_memory, str(path)).told
        assert len(body) <= peak <= parsing.MEMORY_AT_MOST * len(body)

    def test_both_ways_find_the_same_image(self):
        for line in parsing.cpu_lines(turns=1, share=0.05):
            assert line.value > 0


class TestImport:
    def test_neither_pillow_nor_boto3_is_loaded(self):
        prefect, heavy = fresh(importing.modules_used).told
        assert "prefect.tasks" in prefect
        assert heavy == []

    def test_prefect_is_loaded_before_us(self):
        theirs, ours = fresh(importing.import_seconds, ["prefect", "prefect.tasks"]).told
        assert theirs > 0
        assert ours > 0


@pytest.fixture(scope="module")
def ran():
    """A thousand images through one flow run, a tenth as large as real ones."""
    small = partial(servers.gateway, latency_seconds=batch.HASTE, picture_bytes=200_000)
    with pipeline.place(small, servers.forgetful_s3) as where:
        return batch.long_run(where, images=1000, at_once=8)


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestBatch:
    def test_each_image_is_paid_once_and_has_one_row(self, ran):
        assert ran["calls"] == 1000  # that no row is missing or twice is known where it ran
        assert ran["wrong"] == 0

    def test_memory_does_not_grow(self, ran):
        # With a tenth of each image kept it would be 20 MB; it is noise of a few.
        assert ran["looks"] >= 20
        assert ran["growth_mb"] < 20

    def test_the_database_grows_little(self, ran):
        assert 0 < ran["database_mb"] < 1.5


class TestGrowth:
    def test_is_that_of_the_best_line_once_memory_has_settled(self):
        looks = [(10, 900), (400, 5000), (600, 6600), (800, 6790), (1000, 7000)]
        assert batch.growth(looks) == pytest.approx(1.0, abs=0.05)


class TestMeasuring:
    def test_rounds_run_every_work_in_turn(self):
        trail = []
        taken = in_turns(2, a=lambda: trail.append("a"), b=lambda: trail.append("b"))
        assert trail == ["a", "b", "b", "a"]
        assert [len(seconds) for seconds in taken.values()] == [2, 2]

    def test_the_ratio_is_that_within_the_rounds(self):
        assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0

    def test_a_goal_is_missed_only_above_it(self):
        assert Line("part", "what", 1.15, at_most=1.15).verdict == "ok"
        assert Line("part", "what", 1.16, at_most=1.15).verdict == "MISSED"
        assert Line("part", "what", 9).verdict == ""

    def test_a_process_that_fails_says_why(self):
        with pytest.raises(RuntimeError, match="No such file"):
            fresh(parsing.parsed_memory, "/nowhere")
