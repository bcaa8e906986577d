import asyncio
import os
import threading
import traceback
import uuid
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from n1n_prefect import staging
from n1n_prefect.errors import JournalUnreadableError, StagingError, charge_in_words
from n1n_prefect.journal import journal_key, original_key
from n1n_prefect.staging import (
    BlockStorage,
    LocalStorage,
    aread_original,
    current_storage,
    local_storage,
    read_original,
    spool_folder,
)
from tests.examples import KEY, generated, png

RECORD = journal_key(KEY, 0, "sent")
ANSWERED = journal_key(KEY, 0, "answered")

# ── storages of many kinds ───────────────────────────────────────────────────


def aws(code):
    return ClientError({"Error": {"Code": code, "Message": f"{code}!"}}, "GetObject")


class GoogleError(Exception):
    """What google-cloud-storage raises: a code, and the address in quotes of its own in the words."""

    def __init__(self, code, key):
        super().__init__(f"{code} GET https://storage.example/b/shop/o/{quote(key, safe='')}?alt=media: No such object")
        self.code = code


class AzureError(Exception):
    """What azure-storage-blob raises: words with an id and the time, and a reply that is no dict."""

    def __init__(self, error_code, key):
        super().__init__(f"The specified blob does not exist.\nRequestId:{uuid.uuid4()}\nTime:2026-11-23T10:00:00Z")
        self.error_code = error_code
        self.response = object()


ABSENT = {
    "aws": lambda key: aws("NoSuchKey"),
    "aws-head": lambda key: aws("404"),
    "aws-without-list": lambda key: aws("AccessDenied"),
    "google": lambda key: GoogleError(404, key),
    "azure": lambda key: AzureError("BlobNotFound", key),
    "prefect": lambda key: ValueError(f"Path /srv/results/{key} does not exist."),
    "fsspec": lambda key: FileNotFoundError(2, "No such file", f"/srv/{uuid.uuid4()}/{key}"),
    "dict": KeyError,
    "words": lambda key: RuntimeError(f"no object named {key.rpartition('/')[2]}"),
}
BROKEN = {
    "aws": lambda key: aws("ExpiredToken"),
    "aws-head": lambda key: aws("503"),
    "aws-without-list": lambda key: aws("InternalError"),
    "google": lambda key: GoogleError(403, key),
    "azure": lambda key: AzureError("AuthenticationFailed", key),
    "prefect": lambda key: ValueError(f"Path /srv/results/{key} is not a file."),
    "fsspec": lambda key: PermissionError(13, "Permission denied", f"/srv/results/{key}"),
    "dict": lambda key: ConnectionError("reset"),
    "words": lambda key: RuntimeError("the cupboard is locked"),
}


class Cupboard:
    """A storage in memory that fails as it is told."""

    def __init__(self, absent=ABSENT["aws"]):
        self.absent = absent
        self.kept = {}
        self.fails = {}
        self.reads = []

    def write_path(self, path, content):
        self._fail("write")
        self.kept[path] = content

    def read_path(self, path):
        self.reads.append(path)
        self._fail(path)
        self._fail("read")
        if path not in self.kept:
            raise self.absent(path)
        return self.kept[path]

    def _fail(self, what):
        if self.fails.get(what):
            raise self.fails[what].pop(0)


class AsyncCupboard(Cupboard):
    """The same with methods that have to be awaited, as Prefect declares them."""

    async def write_path(self, path, content):
        await asyncio.sleep(0)
        super().write_path(path, content)

    async def read_path(self, path):
        await asyncio.sleep(0)
        return super().read_path(path)


@pytest.fixture(params=["local", "sync", "async", "LocalFileSystem", "RemoteFileSystem"])
def storage(request, tmp_path):
    """One of every kind of storage."""
    return {
        "local": lambda: LocalStorage(tmp_path),
        "sync": lambda: BlockStorage(Cupboard()),
        "async": lambda: BlockStorage(AsyncCupboard()),
        "LocalFileSystem": lambda: BlockStorage(LocalFileSystem(basepath=str(tmp_path))),
        "RemoteFileSystem": lambda: BlockStorage(RemoteFileSystem(basepath=f"memory://{uuid.uuid4()}")),
    }[request.param]()


class TestAnyStorage:
    def test_gives_back_what_was_written(self, storage):
        for data in (b"first", b"", b"\x00\xff" * 100_000, b"last"):
            storage.write(RECORD, data)
            assert storage.read(RECORD) == data

    def test_what_was_never_written_is_absent(self, storage):
        assert storage.read(RECORD) is None
        storage.write(RECORD, b"sent")
        assert storage.read(ANSWERED) is None

    async def test_works_in_an_event_loop(self, storage):
        storage.write(RECORD, b"sent")
        assert (storage.read(RECORD), storage.read(ANSWERED)) == (b"sent", None)

    async def test_works_in_a_thread_beside_an_event_loop(self, storage):
        await asyncio.to_thread(storage.write, RECORD, b"sent")
        assert await asyncio.to_thread(storage.read, RECORD) == b"sent"

    def test_works_from_many_threads(self, storage):
        keys = [journal_key(f"{number:064x}", 0, "sent") for number in range(12)]
        seen = {}

        def work(key):
            assert storage.read(key) is None
            storage.write(key, key.encode())
            seen[key] = storage.read(key)

        threads = [threading.Thread(target=work, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == {key: key.encode() for key in keys}

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "n1",
            "other/originals/a.png",
            "/n1n/originals/a.png",
            "n1n/../secret",
            "n1n/originals/../../secret",
            "../n1n/a",
            "n1n\\..\\..\\secret",
            "n1n/a\0.png",
            "file:///etc/passwd",
        ],
    )
    def test_no_key_leads_outside(self, storage, key):
        with pytest.raises(StagingError, match="storage_key"):
            storage.read(key)
        with pytest.raises(StagingError):
            storage.write(key, b"x")

    def test_says_how_a_thing_is_found_again(self, storage):
        key = original_key("ab" * 32, "image/png")
        seen = storage.describe(key)
        assert set(seen) == {"uri", "storage_block_id", "storage_key"}
        assert (seen["storage_key"], seen["storage_block_id"]) == (key, "")
        assert seen["uri"].endswith(f"/{key}")


class TestLocalStorage:
    def test_nothing_but_the_record_is_left(self, tmp_path):
        LocalStorage(tmp_path / "not yet there").write(RECORD, b"sent")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["0.sent"]

    def test_a_record_is_never_seen_half_written(self, tmp_path):
        storage, seen, done = LocalStorage(tmp_path), set(), threading.Event()
        contents = [bytes([value]) * 2_000_000 for value in range(4)]

        def look():
            while not done.is_set():
                data = storage.read(RECORD)
                seen.add(data and (len(data), len(set(data))))

        watcher = threading.Thread(target=look)
        watcher.start()
        for data in contents:
            storage.write(RECORD, data)
        done.set()
        watcher.join()
        assert seen <= {None, (2_000_000, 1)}

    def test_a_folder_that_is_a_file_cannot_be_written(self, tmp_path):
        (tmp_path / "n1n").write_bytes(b"in the way")
        with pytest.raises(StagingError, match="could not be written") as caught:
            LocalStorage(tmp_path).write(RECORD, b"sent")
        assert (caught.value.is_transient, caught.value.charged) == (True, "no")

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path):
        storage = LocalStorage(tmp_path)
        (tmp_path / RECORD).mkdir(parents=True)  # where the record should go
        with pytest.raises(StagingError):
            storage.write(RECORD, b"sent")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_what_cannot_be_read_is_not_absent(self, tmp_path):
        (tmp_path / RECORD).mkdir(parents=True)
        with pytest.raises(JournalUnreadableError, match="Nothing was spent"):
            LocalStorage(tmp_path).read(RECORD)

    def test_a_folder_with_spaces_and_letters_of_all_kinds(self, tmp_path):
        storage = LocalStorage(tmp_path / "Füchse & Co #1 100%")
        storage.write(RECORD, b"sent")
        assert storage.read(RECORD) == b"sent"
        assert " " not in storage.describe(RECORD)["uri"]


class TestBlockStorage:
    @pytest.mark.parametrize("kind", ABSENT)
    @pytest.mark.parametrize("cupboard", [Cupboard, AsyncCupboard])
    def test_absent_is_learnt_whatever_it_looks_like(self, kind, cupboard):
        storage = BlockStorage(cupboard(ABSENT[kind]))
        for key in (RECORD, ANSWERED, original_key("ab" * 32, "image/png")):
            assert storage.read(key) is None
        storage.write(RECORD, b"sent")
        assert storage.read(RECORD) == b"sent"

    @pytest.mark.parametrize("kind", ABSENT)
    def test_unreadable_is_not_absent(self, kind):
        cupboard = Cupboard(ABSENT[kind])
        storage = BlockStorage(cupboard)
        storage.write(RECORD, b"sent")
        assert storage.read(ANSWERED) is None
        cupboard.fails[RECORD] = [BROKEN[kind](RECORD)]
        with pytest.raises(JournalUnreadableError, match="nothing was spent") as caught:
            storage.read(RECORD)
        assert caught.value.is_transient
        assert storage.read(RECORD) == b"sent"

    def test_is_learnt_once(self):
        cupboard = Cupboard()
        storage = BlockStorage(cupboard)
        for _ in range(3):
            storage.read(RECORD)
        assert cupboard.reads.count(RECORD) == 3
        assert len(cupboard.reads) - 3 == 4

    def test_the_probe_lies_below_the_prefix(self):
        cupboard = Cupboard()
        BlockStorage(cupboard).read(RECORD)
        assert all(path.startswith("n1n/") for path in [*cupboard.kept, *cupboard.reads])

    @pytest.mark.parametrize("moment", range(4))
    def test_a_hiccup_while_learning_is_not_taken_for_absence(self, moment):
        cupboard = Cupboard()
        storage = BlockStorage(cupboard)
        storage.write(RECORD, b"sent")
        passing = [None] * moment + [aws("SlowDown")]
        read = cupboard.read_path

        def read_path(path):
            error = passing.pop(0) if passing else None
            if error:
                raise error
            return read(path)

        cupboard.read_path = read_path
        with pytest.raises(StagingError) as caught:
            storage.read(ANSWERED)
        assert caught.value.is_transient
        assert storage.read(ANSWERED) is None
        cupboard.fails[RECORD] = [aws("SlowDown")]
        with pytest.raises(JournalUnreadableError):
            storage.read(RECORD)

    def test_a_torn_record_reads_as_what_is_there(self):
        cupboard = Cupboard()
        cupboard.kept[RECORD] = b""
        assert BlockStorage(cupboard).read(RECORD) == b""

    def test_one_that_cannot_be_written_is_a_staging_error(self):
        cupboard = Cupboard()
        cupboard.fails["write"] = [aws("AccessDenied"), OSError("disk full")]
        storage = BlockStorage(cupboard)
        for words in ("AccessDenied", "disk full"):
            with pytest.raises(StagingError, match=words):
                storage.write(RECORD, b"sent")

    def test_one_that_cannot_be_written_cannot_be_read_either(self):
        cupboard = Cupboard()
        cupboard.fails["write"] = [aws("AccessDenied")]
        with pytest.raises(StagingError, match="could not be written"):
            BlockStorage(cupboard).read(RECORD)

    def test_one_that_cannot_be_read_says_so(self):
        cupboard = Cupboard()
        cupboard.fails["read"] = [aws("AccessDenied")]
        with pytest.raises(StagingError, match="written and not read"):
            BlockStorage(cupboard).read(RECORD)

    def test_one_that_loses_bytes_is_found_out(self):
        cupboard = Cupboard()
        cupboard.write_path = lambda path, content: cupboard.kept.update({path: content[:-1]})
        with pytest.raises(StagingError, match="does not give back"):
            BlockStorage(cupboard).read(RECORD)

    def test_one_that_has_everything_is_found_out(self):
        cupboard = Cupboard()
        cupboard.read_path = lambda path: b"n1n-prefect"
        with pytest.raises(StagingError, match="nobody wrote"):
            BlockStorage(cupboard).read(RECORD)

    def test_something_that_is_no_storage_is_a_staging_error(self):
        with pytest.raises(StagingError):
            BlockStorage(object()).read(RECORD)

    @pytest.mark.parametrize("fails", ["write_path", "read_path"])
    def test_a_password_in_the_address_is_not_shown(self, fails):
        """prefect-aws takes an endpoint with a password, and boto3 says the endpoint in its errors."""
        cupboard = Cupboard()
        storage = BlockStorage(cupboard)

        words = "Could not connect to the endpoint URL: http://me:hush-hush@localhost:1/results"

        def refused(*_):
            raise ConnectionError(words)

        setattr(cupboard, fails, refused)
        with pytest.raises(StagingError, match="localhost:1") as caught:
            storage.read(RECORD)
        assert "hush-hush" not in "".join(traceback.format_exception(caught.value))

    def test_an_address_in_s3_is_one_that_people_know(self):
        block = Cupboard()
        block.bucket_name, block.bucket_folder = "results", "/flows/"
        assert BlockStorage(block).describe(RECORD)["uri"] == f"s3://results/flows/{RECORD}"


# ── which storage ────────────────────────────────────────────────────────────


class TestFindingTheStorage:
    def test_outside_of_a_run_it_is_prefect_s_local_folder(self, tmp_path):
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "here"}):
            assert current_storage().root == local_storage().root == tmp_path / "here"
            assert spool_folder() == tmp_path / "here" / "n1n" / "spool"

    def test_the_tests_keep_everything_in_their_own_home(self):
        assert local_storage().root.is_relative_to(Path(os.environ["PREFECT_HOME"]).resolve())

    def test_a_local_block_is_a_folder(self, tmp_path):
        storage = staging.storage_of(LocalFileSystem(basepath=str(tmp_path / "x" / ".." / "y")))
        assert isinstance(storage, LocalStorage)
        assert storage.root == tmp_path / "y"

    def test_a_home_directory_is_expanded(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert staging.storage_of(LocalFileSystem(basepath="~/results")).root == tmp_path / "results"

    def test_any_other_block_is_asked_for_paths(self):
        assert isinstance(staging.storage_of(RemoteFileSystem(basepath="memory://results")), BlockStorage)

    def test_the_same_place_is_one_storage(self, tmp_path):
        first, again = LocalFileSystem(basepath=str(tmp_path)), LocalFileSystem(basepath=f"{tmp_path}/")
        assert staging.storage_of(first) is staging.storage_of(again)
        block = RemoteFileSystem(basepath="memory://results")
        assert staging.storage_of(block) is staging.storage_of(RemoteFileSystem(basepath="memory://results"))

    def test_two_storages_are_two_even_where_they_have_no_address(self):
        one, two = Cupboard(), Cupboard()
        assert staging.storage_of(one) is staging.storage_of(one)
        assert staging.storage_of(two) is not staging.storage_of(one)

    def test_a_block_with_new_credentials_is_another(self):
        old = RemoteFileSystem(basepath="memory://results", settings={"key": "old"})
        new = RemoteFileSystem(basepath="memory://results", settings={"key": "new"})
        staging.storage_of(old)
        assert staging.storage_of(new).block.settings == {"key": "new"}


# ── reading originals ────────────────────────────────────────────────────────

DATA = png()


@pytest.fixture
def folder(tmp_path):
    """Prefect's local storage, empty."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage"}):
        yield tmp_path / "storage"


def staged(storage, data=DATA):
    """A reference to bytes that are staged."""
    image = generated(data)
    storage.write(image.storage_key, data)
    return replace(image, **storage.describe(image.storage_key))


class TestReadOriginal:
    def test_gives_the_bytes(self, folder):
        image = staged(current_storage())
        assert image.read_bytes() == read_original(image) == DATA

    async def test_in_asynchronous_code(self, folder):
        image = staged(current_storage())
        assert await image.aread_bytes() == await aread_original(image) == DATA

    def test_from_an_unsaved_storage_of_this_process(self, folder):
        image = staged(staging.storage_of(Cupboard()))
        assert image.read_bytes() == DATA

    def test_from_an_unsaved_folder_of_this_process(self, folder, tmp_path):
        image = staged(staging.storage_of(LocalFileSystem(basepath=str(tmp_path / "Füchse & Co"))))
        assert not folder.exists()
        assert image.read_bytes() == DATA

    def test_one_that_is_gone_says_what_to_set(self, folder):
        image = staged(current_storage())
        Path(folder / image.storage_key).unlink()
        with pytest.raises(StagingError, match="PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK") as caught:
            image.read_bytes()
        assert (caught.value.is_transient, caught.value.charged) == (False, "no")
        assert image.uri in str(caught.value)

    @pytest.mark.parametrize("other", [b"", DATA[:-1], DATA + b"\n", png(3, 3)])
    def test_one_that_changed_is_not_given(self, folder, other):
        image = staged(current_storage())
        (folder / image.storage_key).write_bytes(other)
        with pytest.raises(StagingError, match="SHA-256 differs"):
            image.read_bytes()

    @pytest.mark.parametrize("key", ["", "../../secret.png", "n1n/../../secret.png", "/etc/passwd", "secret.png"])
    def test_one_outside_of_the_root_is_not_read(self, folder, key):
        folder.mkdir()
        (folder / "secret.png").write_bytes(DATA)
        (folder.parent / "secret.png").write_bytes(DATA)
        with pytest.raises(StagingError, match="storage_key"):
            generated(DATA, storage_key=key).read_bytes()

    def test_the_uri_leads_nowhere(self, folder, tmp_path):
        secret = tmp_path / "secret.png"
        secret.write_bytes(DATA)
        with pytest.raises(StagingError, match="gone"):
            generated(DATA, uri=secret.as_uri()).read_bytes()

    def test_one_that_cannot_be_read_is_not_gone(self, folder):
        """It is told as an image, which is paid, and not as the journal, before which nothing is spent."""
        image = staged(current_storage())
        Path(folder / image.storage_key).unlink()
        Path(folder / image.storage_key).mkdir()
        with pytest.raises(StagingError, match=r"original .* cannot be read") as caught:
            image.read_bytes()
        error = caught.value
        assert (type(error), error.is_transient) == (StagingError, False)
        error.image = image
        assert (charge_in_words(error), "spent" in str(error)) == ("Charged.", False)

    def test_a_block_id_that_is_none_is_a_staging_error(self, folder):
        with pytest.raises(StagingError, match="'my-block'") as caught:
            generated(DATA, storage_block_id="my-block").read_bytes()
        assert not caught.value.is_transient
