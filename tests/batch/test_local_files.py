import errno
import os

import pytest

from n1n_prefect.batch.local_files import find_below, open_below
from n1n_prefect.errors import SourceError
from n1n_prefect.sources import SourceRules


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.csv").write_bytes(b"id,prompt\n")
    (tmp_path / "secret.csv").write_bytes(b"secret\n")
    return SourceRules(roots=(tmp_path / "in",))


class TestFind:
    def test_a_file_below_a_root(self, rules, tmp_path):
        assert find_below(tmp_path / "in" / "m.csv", rules) == tmp_path / "in" / "m.csv"

    def test_the_working_directory_where_no_root_is_named(self, rules, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path / "in")
        assert find_below("m.csv", SourceRules()) == tmp_path / "in" / "m.csv"

    @pytest.mark.parametrize("path", ["secret.csv", "in/../secret.csv", "/etc/passwd"])
    def test_elsewhere_is_refused_whether_it_is_there_or_not(self, rules, tmp_path, path):
        for name in (path, f"{path}.missing"):
            with pytest.raises(SourceError, match=r"outside .*in', where files may be read\. .*INPUT_ROOTS"):
                find_below(tmp_path / name, rules)

    def test_a_link_that_leads_out_is_refused(self, rules, tmp_path):
        (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
        with pytest.raises(SourceError, match="outside"):
            find_below(tmp_path / "in" / "link.csv", rules)

    def test_none_there(self, rules, tmp_path):
        with pytest.raises(SourceError, match=r"missing\.csv' does not exist; correct the path"):
            find_below(tmp_path / "in" / "missing.csv", rules)

    def test_a_directory_and_a_pipe(self, rules, tmp_path):
        with pytest.raises(SourceError, match="is a directory, not a file"):
            find_below(tmp_path / "in", rules)
        os.mkfifo(tmp_path / "in" / "pipe.csv")
        with pytest.raises(SourceError, match="is a device or pipe"):
            open_below(tmp_path / "in" / "pipe.csv", rules)

    @pytest.mark.parametrize("path", ["a\0b.csv", "x" * 5000 + ".csv"])
    def test_a_path_that_none_can_be(self, rules, tmp_path, path):
        with pytest.raises(SourceError, match="cannot be read as a file"):
            find_below(tmp_path / "in" / path, rules)


class TestOpen:
    def test_the_file_itself(self, rules, tmp_path):
        with open_below(tmp_path / "in" / "m.csv", rules) as file:
            assert file.read() == b"id,prompt\n"

    def test_one_put_in_its_place_meanwhile_is_not_read(self, rules, tmp_path, monkeypatch):
        path = tmp_path / "in" / "m.csv"
        opened = os.open

        def swapped(name, flags, *rest):
            path.unlink()
            path.symlink_to(tmp_path / "secret.csv")
            return opened(name, flags, *rest)

        monkeypatch.setattr(os, "open", swapped)
        with pytest.raises(SourceError, match="was replaced while it was opened"):
            open_below(path, rules)

    def test_one_that_may_not_be_read(self, rules, tmp_path, monkeypatch):
        def refuses(*_):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuses)
        with pytest.raises(SourceError, match=r"m\.csv' cannot be read as a file: Permission denied"):
            open_below(tmp_path / "in" / "m.csv", rules)
