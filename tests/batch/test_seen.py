import pytest

from n1n_prefect.batch.seen import Seen


@pytest.fixture
def seen(tmp_path):
    with Seen(tmp_path / "seen.sqlite") as seen:
        yield seen


class TestSeen:
    def test_the_second_is_told_of_the_first(self, seen):
        assert [seen.first("id", "a", line) for line in (2, 5, 9)] == [None, 2, 2]

    def test_kinds_and_texts_are_apart(self, seen):
        seen.first("id", "a", 2)
        assert seen.first("key", "a", 3) is None
        assert seen.first("id", "A", 4) is None
        assert seen.first("i", "d\0a", 5) is None

    def test_looking_remembers_nothing(self, seen):
        assert seen.find("id", "a") is None
        assert seen.first("id", "a", 2) is None
        assert seen.find("id", "a") == 2

    def test_counting(self, seen):
        assert [seen.count("made", text) for text in ("a", "b", "a", "a")] == [1, 1, 2, 3]

    def test_any_text(self, seen):
        for text in ("", "ü🦊", "\ud800", "x" * 1_000_000):
            assert seen.first("id", text, 2) is None
            assert seen.first("id", text, 3) == 2
