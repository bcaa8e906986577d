"""The benchmarks still run, and what does not depend on the machine's speed holds."""

import pytest

from tests.benchmarks import importing, parsing, replies
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
