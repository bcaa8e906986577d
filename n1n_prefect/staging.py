"""Where originals and the journal are kept: the run's Prefect result storage.

Inside a run that is whatever the flow, a setting or the server says; outside, and where a
task is called by `.fn`, it is `PREFECT_LOCAL_STORAGE_PATH`. Everything lies below the
prefix `n1n/`, which a lifecycle rule can name.
"""

import asyncio
import hashlib
import inspect
import os
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock, get_ident
from typing import Any
from urllib.parse import quote

from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.results import get_result_store
from prefect.settings import get_current_settings

from n1n_prefect.errors import JournalUnreadableError, StagingError
from n1n_prefect.images import GeneratedImage
from n1n_prefect.journal import PREFIX, Storage
from n1n_prefect.masking import without_secrets, without_secrets_in

# ── storages ─────────────────────────────────────────────────────────────────


class LocalStorage:
    """A folder. Records are written under a temporary name and renamed, so that none is ever torn.

    Args:
        root: Everything is kept below this folder.
        block_id: Id of the block document that names the folder, if there is one.
    """

    def __init__(self, root: Path, block_id: str = "") -> None:
        self.root = root
        self.block_id = block_id

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, or None if there are none."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise JournalUnreadableError(
                f"{self._path(key)} cannot be read: {exc.strerror or exc}. Nothing was spent. Check "
                "PREFECT_LOCAL_STORAGE_PATH, or the flow's result_storage.",
                is_transient=not isinstance(exc, (NotADirectoryError, IsADirectoryError, PermissionError)),
            ) from exc

    def write(self, key: str, data: bytes) -> None:
        """Stores bytes under a key."""
        path = self._path(key)
        part = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.part")
        try:
            try:
                part.write_bytes(data)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(data)
            part.replace(path)
        except OSError as exc:
            with suppress(OSError):
                part.unlink()
            raise _unwritable(path, exc) from exc

    def describe(self, key: str) -> Mapping[str, str]:
        """How the bytes under a key are found again."""
        return {"uri": self._path(key).as_uri(), "storage_block_id": self.block_id, "storage_key": key}

    def _path(self, key: str) -> Path:
        return self.root / _inside(key)


class BlockStorage:
    """A Prefect storage block that can write and read paths, such as prefect-aws's `S3Bucket`.

    Prefect's storages have no way to ask whether a path exists, and answer differently for an
    absent one. So the first time one is needed, the answer is learnt: a probe is written and
    read back, and then a path that nobody wrote is read; twice, so that a storage which fails
    at that moment is not taken for an empty one.
    """

    def __init__(self, block: WritableFileSystem) -> None:
        self.block = block
        self.block_id = _document_id(block)
        self._absent = ""
        self._lock = Lock()

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, or None if there are none."""
        absent = self._how_absence_looks()
        try:
            return self._get(_inside(key))
        except Exception as exc:
            if _signature(exc, key) == absent and self._still_reads(absent):
                return None
            without_secrets_in(exc)
            raise JournalUnreadableError(
                f"{key!r} cannot be read from the result storage ({_said(exc)}). "
                "Whether it was paid is not known, so nothing was spent."
            ) from exc

    def write(self, key: str, data: bytes) -> None:
        """Stores bytes under a key."""
        try:
            _finished(self.block.write_path(_inside(key), data))
        except Exception as exc:
            without_secrets_in(exc)
            raise _unwritable(key, exc) from exc

    def describe(self, key: str) -> Mapping[str, str]:
        """How the bytes under a key are found again."""
        return {"uri": f"{_address(self.block)}/{key}", "storage_block_id": self.block_id, "storage_key": key}

    def _get(self, key: str) -> bytes:
        return _finished(self.block.read_path(key))

    def _still_reads(self, absent: str) -> bool:
        """Whether absence is what it looks like; some storages answer "denied" for it, as for a lost permission."""
        if any(word in absent for word in _NOT_FOUND):
            return True
        try:
            return self._get(_PROBE) == b"n1n-prefect"
        except Exception:  # noqa: BLE001 - whatever it is, nothing can be read now
            return False

    def _how_absence_looks(self) -> str:
        with self._lock:
            if not self._absent:
                self._absent = self._learn()
            return self._absent

    def _learn(self) -> str:
        self.write(_PROBE, b"n1n-prefect")
        looks = {self._look_of_nothing() for _ in range(2)}
        if len(looks) > 1:
            ways = without_secrets("; ".join(looks))
            raise StagingError(f"The result storage fails in different ways ({ways}).")
        return looks.pop()

    def _look_of_nothing(self) -> str:
        try:
            whole = self._get(_PROBE) == b"n1n-prefect"
        except Exception as exc:
            said = f"The result storage can be written and not read ({_said(exc)})."
            without_secrets_in(exc)
            raise StagingError(said) from exc
        if not whole:
            raise StagingError("The result storage does not give back what was written.")
        nowhere = f"{PREFIX}/absent-{uuid.uuid4().hex}"
        try:
            self._get(nowhere)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what absence looks like
            return _signature(exc, nowhere)
        raise StagingError("The result storage gives bytes for a path that nobody wrote.")


_PROBE = f"{PREFIX}/probe"
_NOT_FOUND = ("FileNotFoundError", "NoSuchKey", "404", "NotFound", "BlobNotFound")


def _finished(result: Any) -> Any:
    """The result of a block's method, which may be asynchronous whatever the context says."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def _signature(exc: BaseException, key: str) -> str:
    """What tells one failure of a storage from another: its class, and its code or its words."""
    if isinstance(exc, FileNotFoundError):
        return "FileNotFoundError"
    response = getattr(exc, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None  # boto3
    code = code or getattr(exc, "error_code", None) or getattr(exc, "code", None)  # Azure's and Google's
    words = str(code) if code and not callable(code) else str(exc)
    for name in (key, quote(key, safe=""), PurePosixPath(key).name):
        words = words.replace(name, "")
    return f"{type(exc).__name__}: {words}"


def _said(exc: BaseException) -> str:
    """What a storage says; the address in it may have a password."""
    return f"{type(exc).__name__}: {without_secrets(str(exc))}"


def _unwritable(where: object, exc: BaseException) -> StagingError:
    return StagingError(
        f"{where} could not be written to the result storage ({_said(exc)}). "
        "Make the storage writable; what was paid before is safe."
    )


def _inside(key: str) -> str:
    """The key, if it stays below the storage's root."""
    parts = PurePosixPath(key).parts
    if not parts or parts[0] != PREFIX or ".." in parts or "\\" in key or "\0" in key:
        raise StagingError(
            f"storage_key={key!r:.80} does not lie below {PREFIX + '/'!r} of the result storage; this is no image that "
            "a task of n1n-prefect gave.",
            is_transient=False,
        )
    return key


def _document_id(block: WritableFileSystem) -> str:
    return str(getattr(block, "_block_document_id", None) or "")


def _address(block: WritableFileSystem) -> str:
    """The root of a storage as an address for people."""
    bucket, folder = getattr(block, "bucket_name", ""), getattr(block, "bucket_folder", "")
    if bucket:
        return "/".join(part for part in (f"s3://{bucket}", str(folder).strip("/")) if part)
    base = without_secrets(str(getattr(block, "basepath", "") or "").rstrip("/"))
    return base or f"{type(block).__name__}:"


# ── finding the storage ──────────────────────────────────────────────────────

_lock = Lock()
_storages: dict[str, Storage] = {}


def current_storage() -> Storage:
    """The storage of this run, or the local folder outside of one."""
    return storage_of(get_result_store().result_storage)


def local_storage() -> LocalStorage:
    """The folder that is used outside of a run."""
    return LocalStorage(_folder(get_current_settings().results.local_storage_path))


def spool_folder() -> Path:
    """Where replies wait on the local disk until they are staged."""
    return local_storage().root / PREFIX / "spool"


def storage_of(block: Any) -> Storage:
    """One storage object for each place and process, so that what was learnt of it is kept."""
    if block is None:
        return local_storage()
    block_id = _document_id(block)
    if isinstance(block, LocalFileSystem):
        root = _folder(block.basepath or ".")
        return _remembered(root.as_uri(), block_id, LocalStorage(root, block_id))
    return _remembered(_address(block), block_id, BlockStorage(block))


def _folder(path: "str | Path") -> Path:
    """A folder's whole path; each step of it costs a look at the disk, and tasks ask often."""
    whole = Path(path).expanduser()
    return _resolved(whole) if whole.is_absolute() else whole.resolve()


@lru_cache(maxsize=64)
def _resolved(path: Path) -> Path:
    return path.resolve()


def _remembered(address: str, block_id: str, storage: Storage) -> Storage:
    with _lock:
        known = _storages.get(f"{address} {block_id}")
        # A block whose credentials were changed is another block.
        if known is None or getattr(known, "block", None) != getattr(storage, "block", None):
            _storages[f"{address} {block_id}"] = known = storage
        return known


# ── reading originals ────────────────────────────────────────────────────────


_at_hand: ContextVar[dict[str, bytes] | None] = ContextVar("n1n_prefect_at_hand", default=None)


@contextmanager
def originals_at_hand() -> Generator[None]:
    """The original that was staged or read last is not read again within, by whoever has this context."""
    if _at_hand.get() is not None:
        yield
        return
    token = _at_hand.set({})
    try:
        yield
    finally:
        _at_hand.reset(token)


def keep_at_hand(key: str, data: bytes) -> None:
    """Keeps an original whose hash is known to be right, in the place of an earlier one."""
    kept = _at_hand.get()
    if kept is not None:
        kept.clear()
        kept[key] = data


def read_original(image: GeneratedImage) -> bytes:
    """The original bytes of an image, verified against its SHA-256.

    Raises:
        StagingError: They are gone, unreadable, or not the bytes that were staged.
    """
    key = _inside(image.storage_key)
    kept = (_at_hand.get() or {}).get(key)
    if kept is not None:
        return kept
    for storage in _candidates(image):
        data = _read_from(storage, key, image)
        if data is None:
            continue
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise StagingError(f"{image.uri} does not hold the bytes that were staged: its SHA-256 differs.")
        keep_at_hand(key, data)
        return data
    raise StagingError(
        f"The original {image.uri} is gone: pruned, or kept on another machine. Results must be kept on storage that "
        "every worker shares: set PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK, or result_storage on the flow. "
        "refresh_cache=True on the task draws and pays anew.",
        is_transient=False,
    )


def _read_from(storage: Storage, key: str, image: GeneratedImage) -> bytes | None:
    """The bytes under a key; a failure is told as one of an image, which is paid, and not of the journal."""
    try:
        return storage.read(key)
    except JournalUnreadableError as exc:
        why = f" ({_said(exc.__cause__)})" if exc.__cause__ else ""
        raise StagingError(
            f"The original {image.uri} cannot be read{why}. Make the result storage readable and run again.",
            is_transient=exc.is_transient,
        ) from exc.__cause__


async def aread_original(image: GeneratedImage) -> bytes:
    """`read_original` for asynchronous code."""
    return await asyncio.to_thread(read_original, image)


def _candidates(image: GeneratedImage) -> list[Storage]:
    current = current_storage()
    if image.storage_block_id:
        is_current = getattr(current, "block_id", "") == image.storage_block_id
        return [current if is_current else _saved_storage(image.storage_block_id)]
    root = image.uri.removesuffix(image.storage_key).rstrip("/")
    with _lock:
        known = _storages.get(f"{root} ")
    return [storage for storage in (known, current, local_storage()) if storage is not None]


def _saved_storage(block_id: str) -> Storage:
    try:
        return _loaded_storage(block_id)
    except Exception as exc:
        raise StagingError(
            f"The storage block {block_id!r} that holds the original cannot be loaded ({_said(exc)}). "
            "Run against the Prefect API where it was saved.",
            is_transient=not isinstance(exc, (ValueError, ObjectNotFound)),
        ) from exc


@lru_cache(maxsize=16)
def _loaded_storage(block_id: str) -> Storage:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import get_client

    document_id = uuid.UUID(block_id)  # before a client, which may start a server
    with get_client(sync_client=True) as client:
        document = client.read_block_document(document_id)
    return storage_of(Block._from_block_document(document))
