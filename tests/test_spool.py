"""Replies are whole in the spool, or not there."""

import pytest

from n1n_prefect import spool as spools
from n1n_prefect.client import ReplyHead
from n1n_prefect.errors import JournalUnreadableError
from n1n_prefect.spool import Spool


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def put(spool, name, body=b"body", head=None):
    head = head or ReplyHead(200, {"content-type": "application/json"})
    with spool.arriving(name) as arrival:
        arrival.write(body)
        arrival.whole(head)


class TestSpool:
    def test_a_whole_reply_comes_back_as_it_was(self, spool):
        put(spool, "k-0", b"\x00\xffbody" * 1000, ReplyHead(503, {"retry-after": "7"}))
        reply = spool.find("k-0")
        assert (reply.status, reply.headers, bytes(reply.body)) == (503, {"retry-after": "7"}, b"\x00\xffbody" * 1000)

    def test_an_empty_body_is_a_reply_too(self, spool):
        put(spool, "k-0", b"")
        assert bytes(spool.find("k-0").body) == b""

    def test_what_never_came_is_not_there(self, spool):
        assert spool.find("k-0") is None

    @pytest.mark.parametrize("exc", [OSError, KeyboardInterrupt])
    def test_a_broken_arrival_leaves_nothing(self, spool, exc):
        def break_off():
            with spool.arriving("k-0") as arrival:
                arrival.write(b"half")
                raise exc

        with pytest.raises(exc):
            break_off()
        assert spool.find("k-0") is None
        assert list(spool.folder.iterdir()) == []

    def test_an_arrival_that_is_not_said_to_be_whole_leaves_nothing(self, spool):
        with spool.arriving("k-0") as arrival:
            arrival.write(b"half")
        assert list(spool.folder.iterdir()) == []

    def test_an_arrival_that_is_whole_stays_whatever_interrupts_us_then(self, spool):
        def interrupted():
            with spool.arriving("k-0") as arrival:
                arrival.write(b"body")
                arrival.whole(ReplyHead(200, {}))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert bytes(spool.find("k-0").body) == b"body"

    def test_a_reply_that_cannot_be_opened_is_not_absent(self, spool):
        put(spool, "k-0")
        spool._path("k-0").unlink()
        spool._path("k-0").mkdir()
        with pytest.raises(JournalUnreadableError, match="nothing was spent now"):
            spool.find("k-0")

    @pytest.mark.parametrize("torn", [b"", b"half", b"\xff" * 40])
    def test_a_torn_file_is_none(self, spool, torn):
        put(spool, "k-0")
        spool._path("k-0").write_bytes(torn)
        assert spool.find("k-0") is None

    def test_a_full_disk_is_known_before_anything_is_sent(self, spool, monkeypatch):
        monkeypatch.setattr(spools, "_LEAST_FREE", 1 << 60)
        with pytest.raises(OSError, match="MiB are free"), spool.arriving("k-0"):
            pytest.fail("it must not come to that")

    def test_a_forgotten_reply_is_gone_and_forgetting_twice_is_no_error(self, spool):
        put(spool, "k-0")
        spool.forget("k-0")
        spool.forget("k-0")
        assert spool.find("k-0") is None

    def test_a_reply_is_not_in_its_repr(self, spool):
        put(spool, "k-0", b"secretbody")
        assert "secretbody" not in repr(spool.find("k-0"))
