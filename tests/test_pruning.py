import os
import time
import uuid
from pathlib import Path

import pytest

from n1n_prefect import pruning
from n1n_prefect.errors import JournalUnreadableError, StagingError
from n1n_prefect.journal import journal_key, original_key
from n1n_prefect.pruning import Bucket, Entry, LocalFolder, Request, kind_of, named_original, old_entries, prune
from tests.s3_servers import Answer, new_bucket

LIMIT = 1000.0
OLD, NEW = 10.0, 2000.0


def entry(name, modified=OLD, size_bytes=1):
    return Entry(name, size_bytes, modified)


def sha(number):
    return f"{number:064x}"


def answered(number, schema=1):
    """An answered record that names an original."""
    return f'{{"schema":{schema},"outcome":"image","image":{{"storage_key":"{original(number)}"}}}}'.encode()


def original(number):
    return original_key(sha(number), "image/png")


class TestKindOf:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            (journal_key("ab" * 32, 0, "sent"), "journal"),
            (journal_key("ab" * 32, 12, "answered"), "journal"),
            (original_key(sha(1), "image/jpeg"), "original"),
            ("n1n/spool/abc-0.reply", "reply"),
            ("n1n/spool/abc-0.12-34.part", "part"),
            (f"{original(1)}.12-34.part", "part"),
            ("n1n/journal/abc/0.sent.12-34.part", "part"),
        ],
    )
    def test_what_is_ours(self, name, kind):
        assert kind_of(name) == kind

    @pytest.mark.parametrize(
        "name",
        [
            "n1n/probe",
            "n1n/journal/abc/0.claimed",
            "n1n/journal/abc/deeper/0.sent",
            "n1n/originals/holiday.png",
            f"n1n/originals/{sha(1)}",
            "n1n/spool/notes.txt",
            f"n1n-{sha(1)}",
            f"images/{original(1)}",
            f"{original(1)}.part",
        ],
    )
    def test_what_is_not(self, name):
        assert kind_of(name) is None


class TestRequests:
    def test_are_folders_of_the_journal(self):
        names = ["n1n/probe", "n1n/journal/b/0.sent", "n1n/journal/a/0.sent", "n1n/journal/a/0.answered", original(1)]
        found = pruning.requests_in(entry(name) for name in names)
        assert [(request.key, len(request.entries)) for request in found] == [("a", 2), ("b", 1)]

    @pytest.mark.parametrize(
        ("others", "is_old"),
        [
            ([], True),
            ([entry("n1n/journal/a/1.sent", NEW)], False),
            ([entry("n1n/journal/a/1.sent", LIMIT)], False),
            ([entry("n1n/journal/a/0.answered.1-2.part", NEW)], False),
            ([entry("n1n/journal/a/0.answered.1-2.part")], True),
            ([entry("n1n/journal/a/0.claimed")], False),
        ],
    )
    def test_are_old_as_a_whole(self, others, is_old):
        request = Request("a", (entry("n1n/journal/a/0.sent"), *others))
        assert request.is_old(LIMIT) is is_old

    def test_go_from_their_end(self):
        names = ["0.answered", "0.sent", "10.sent", "2.answered", "2.sent", "2.sent.1-2.part"]
        request = Request("a", tuple(entry(f"n1n/journal/a/{name}") for name in names))
        gone = [entry.name.removeprefix("n1n/journal/a/") for entry in request.last_first()]
        assert gone == ["2.sent.1-2.part", "10.sent", "2.answered", "2.sent", "0.answered", "0.sent"]


class TestOldEntries:
    def test_go_unless_something_that_stays_needs_them(self):
        entries = [
            entry(original(1)),
            entry(original(2)),
            entry(original(3), NEW),
            entry("n1n/spool/a-0.reply"),
            entry("n1n/spool/b-0.reply"),
            entry("n1n/spool/c-0.reply", NEW),
            entry("n1n/spool/a-1.1-2.part"),
            entry("n1n/spool/a-2.1-2.part", NEW),
            entry("n1n/probe"),
            entry("n1n/journal/b/0.sent"),
        ]
        going = old_entries(entries, before=LIMIT, kept={"a"}, named={original(2)})
        assert [entry.name for entry in going] == [original(1), "n1n/spool/b-0.reply", "n1n/spool/a-1.1-2.part"]


class TestNamedOriginal:
    @pytest.mark.parametrize(
        ("record", "name"),
        [
            (answered(1), original(1)),
            (b'{"schema":1,"outcome":"refused","error":{}}', ""),
            (b'{"schema":1,"outc', ""),
            (b"", ""),
            (None, ""),
        ],
    )
    def test_is_known_from_the_record(self, record, name):
        assert named_original(record) == name

    @pytest.mark.parametrize("record", [answered(1, schema=2), b"[]"])
    def test_of_another_version_is_not(self, record):
        with pytest.raises(JournalUnreadableError, match="newer one"):
            named_original(record)


# ── both kinds of storage ────────────────────────────────────────────────────


def removed(store, before=LIMIT, dry_run=False):
    return sorted(entry.name for entry in prune(store, before=before, dry_run=dry_run))


def put(root, name, modified=OLD, data=b"x"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified, modified))
    return path


def names_below(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def request(root, key, number, sent=OLD, done=OLD, image=OLD):
    """A request with one attempt and its original."""
    put(root, journal_key(key, 0, "sent"), sent, b'{"schema":1}')
    put(root, original(number), image)
    put(root, journal_key(key, 0, "answered"), done, answered(number))


class TestLocalFolder:
    def test_what_is_old_goes_and_the_rest_stays(self, tmp_path):
        request(tmp_path, "old", 1)
        request(tmp_path, "new", 2, NEW, NEW, NEW)
        request(tmp_path, "refreshed", 3)
        put(tmp_path, journal_key("refreshed", 1, "sent"), NEW, b'{"schema":1}')
        request(tmp_path, "shares", 4, NEW, NEW)
        request(tmp_path, "shared", 4)
        put(tmp_path, "n1n/spool/old-0.reply")
        put(tmp_path, "n1n/spool/refreshed-0.reply")
        put(tmp_path, f"{original(5)}.1-2.part")
        put(tmp_path, "n1n/probe")
        put(tmp_path, f"n1n-{sha(1)}")
        put(tmp_path, "n1nx/journal/old/0.sent")
        before = names_below(tmp_path)
        going = [
            journal_key("old", 0, "answered"),
            journal_key("old", 0, "sent"),
            journal_key("shared", 0, "answered"),
            journal_key("shared", 0, "sent"),
            original(1),
            f"{original(5)}.1-2.part",
            "n1n/spool/old-0.reply",
        ]
        assert removed(LocalFolder(tmp_path), dry_run=True) == sorted(going)
        assert names_below(tmp_path) == before
        assert removed(LocalFolder(tmp_path)) == sorted(going)
        assert names_below(tmp_path) == sorted(set(before) - set(going))
        assert not (tmp_path / "n1n/journal/old").exists()
        assert removed(LocalFolder(tmp_path)) == []

    def test_a_folder_without_anything(self, tmp_path):
        assert removed(LocalFolder(tmp_path / "absent")) == []

    def test_nothing_goes_if_a_record_that_stays_cannot_be_understood(self, tmp_path):
        request(tmp_path, "old", 1)
        put(tmp_path, journal_key("new", 0, "answered"), NEW, answered(1, schema=2))
        before = names_below(tmp_path)
        with pytest.raises(JournalUnreadableError):
            removed(LocalFolder(tmp_path))
        assert names_below(tmp_path) == before

    def test_at_every_moment_an_answered_record_has_its_original(self, tmp_path):
        for number in range(5):
            request(tmp_path, f"old{number}", number)
        going = prune(LocalFolder(tmp_path), before=LIMIT)
        for _ in going:  # a generator that is not asked for more is a process that was killed
            left = names_below(tmp_path)
            for number in range(5):
                key = f"old{number}"
                if journal_key(key, 0, "answered") in left:
                    assert original(number) in left
                    assert journal_key(key, 0, "sent") in left

    def test_what_is_written_meanwhile_keeps_its_request_and_its_original(self, tmp_path):
        class Busy(LocalFolder):
            """A folder in which a run goes on once it has been listed."""

            def entries(self):
                yield from list(super().entries())
                put(tmp_path, journal_key("resumed", 1, "sent"), NEW, b'{"schema":1}')
                put(tmp_path, original(3), NEW)

        request(tmp_path, "resumed", 1)
        request(tmp_path, "old", 2)
        request(tmp_path, "redrawn", 3)
        removed(Busy(tmp_path))
        assert names_below(tmp_path) == sorted(
            [
                journal_key("resumed", 0, "sent"),
                journal_key("resumed", 0, "answered"),
                journal_key("resumed", 1, "sent"),
                original(1),
                original(3),
            ]
        )

    def test_what_vanishes_meanwhile_is_no_error(self, tmp_path):
        class Raced(LocalFolder):
            """A folder that another prune clears first."""

            def entries(self):
                found = list(super().entries())
                list(prune(LocalFolder(tmp_path), before=LIMIT))
                return iter(found)

        request(tmp_path, "old", 1)
        assert removed(Raced(tmp_path)) == []
        assert names_below(tmp_path) == []

    def test_links_are_neither_followed_nor_removed(self, tmp_path):
        outside, root = tmp_path / "outside", tmp_path / "root"
        request(outside, "old", 1)
        (root / "n1n/originals").mkdir(parents=True)
        (root / original(2)).symlink_to(outside / original(1))
        (root / original(3)).symlink_to(outside / "nowhere")
        assert removed(LocalFolder(root)) == []
        assert len(names_below(outside)) == 3
        assert (root / original(2)).is_symlink()

    @pytest.mark.parametrize("link", ["n1n", "n1n/journal", "n1n/journal/new", "n1n/journal/new/0.answered"])
    def test_a_journal_behind_a_link_may_need_what_is_here(self, tmp_path, link):
        outside, root = tmp_path / "outside", tmp_path / "root"
        request(outside, "new", 1, NEW, NEW)
        put(root, original(1))
        if link == "n1n":
            (root / "n1n").rename(tmp_path / "moved")
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(outside / link)
        before = names_below(tmp_path)
        with pytest.raises(StagingError, match="symbolic link"):
            removed(LocalFolder(root))
        assert names_below(tmp_path) == before


# ── S3 ───────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["moto", "rclone"])
def bucket(request, tmp_path_factory):
    """A bucket with a folder, and a client for it."""
    client = request.getfixturevalue(f"{request.param}_client")
    return client, new_bucket(client)


def fill(client, bucket, folder, root):
    for name in names_below(root):
        client.put_object(Bucket=bucket, Key=f"{folder}{name}", Body=(root / name).read_bytes())


def keys_in(client, bucket):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sorted(found["Key"] for page in pages for found in page.get("Contents", ()))


@pytest.mark.slow
class TestBucket:
    @pytest.mark.parametrize("folder", ["", "flows/results"])
    def test_what_is_old_goes_and_the_rest_stays(self, bucket, folder, tmp_path):
        client, name = bucket
        base = f"{folder}/" if folder else ""
        request(tmp_path, "a" * 64, 1)
        put(tmp_path, "n1n/probe")
        put(tmp_path, f"n1n-{sha(1)}")
        put(tmp_path, "other/n1n/journal/a/0.sent")
        fill(client, name, base, tmp_path)
        client.put_object(Bucket=name, Key=f"elsewhere/{original(1)}", Body=b"x")
        store = Bucket(client, name, folder)
        assert removed(store, before=time.time() - 3600) == []
        soon = time.time() + 60
        going = [journal_key("a" * 64, 0, "answered"), journal_key("a" * 64, 0, "sent"), original(1)]
        assert removed(store, before=soon, dry_run=True) == sorted(going)
        assert removed(store, before=soon) == sorted(going)
        rest = [f"{base}n1n/probe", f"{base}n1n-{sha(1)}", f"{base}other/n1n/journal/a/0.sent"]
        assert keys_in(client, name) == sorted([*rest, f"elsewhere/{original(1)}"])

    def test_of_thousands(self, moto_client):
        name = new_bucket(moto_client)
        keys = [uuid.uuid4().hex * 2 for _ in range(520)]
        for number, key in enumerate(keys):
            moto_client.put_object(Bucket=name, Key=journal_key(key, 0, "sent"), Body=b'{"schema":1}')
            moto_client.put_object(Bucket=name, Key=journal_key(key, 0, "answered"), Body=answered(number))
        for number in range(1100):
            moto_client.put_object(Bucket=name, Key=original(number), Body=b"x")
        going = removed(Bucket(moto_client, name), before=time.time() + 60)
        assert len(going) == 520 * 2 + 1100
        assert keys_in(moto_client, name) == []

    def test_what_is_written_meanwhile_keeps_its_request_and_its_original(self, moto_client, tmp_path):
        class Busy(Bucket):
            """A bucket in which a run goes on once it has been listed."""

            def entries(self):
                yield from [Entry(e.name, e.size_bytes, e.modified - 7200) for e in super().entries()]
                moto_client.put_object(Bucket=name, Key=journal_key("b" * 64, 1, "sent"), Body=b'{"schema":1}')

            def again(self, entries):
                fresh = journal_key("b" * 64, 1, "sent")
                for e in super().again(entries):
                    yield Entry(e.name, e.size_bytes, e.modified - (0 if e.name == fresh else 7200))

        name = new_bucket(moto_client)
        for number, key in enumerate("abc"):
            request(tmp_path, key * 64, number)
        fill(moto_client, name, "", tmp_path)
        removed(Busy(moto_client, name), before=time.time() - 3600)
        kept = [journal_key("b" * 64, *record) for record in ((0, "sent"), (0, "answered"), (1, "sent"))]
        assert keys_in(moto_client, name) == sorted([*kept, original(1)])

    def test_a_store_without_multiple_deletes_gets_single_ones(self, scripted_store, scripted_client):
        scripted_store.says(Answer(501, "NotImplemented"), Answer(204), Answer(204))
        Bucket(scripted_client, "images", "flows").remove([entry(original(1)), entry(original(2))])
        assert scripted_store.methods == ["POST", "DELETE", "DELETE"]
        assert scripted_store.requests[1].path == f"/images/flows/{original(1)}"

    def test_what_may_not_be_deleted_is_said(self, scripted_store, scripted_client):
        refused = (
            "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
        )
        scripted_store.says(Answer(body=refused.encode()))
        with pytest.raises(StagingError, match=r"s3:DeleteObject below s3://images/n1n\. The store says AccessDenied"):
            Bucket(scripted_client, "images").remove([entry("n1n/probe")])

    def test_a_bucket_that_is_not_there(self, moto_client):
        with pytest.raises(StagingError, match="there is no bucket 'absent-bucket'"):
            removed(Bucket(moto_client, "absent-bucket"))


def test_names_are_below_a_folder_on_every_system(tmp_path):
    put(tmp_path, journal_key("a", 0, "sent"))
    assert [entry.name for entry in LocalFolder(Path(tmp_path)).entries()] == ["n1n/journal/a/0.sent"]
