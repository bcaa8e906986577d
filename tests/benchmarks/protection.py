"""What it costs to never pay twice: the three tasks beside themselves without journal and spool, by storage."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tests.benchmarks.measuring import Line
from tests.benchmarks.pipeline import Place
from tests.benchmarks.variants import counted_run, three_tasks

MORE_CPU_AT_MOST = 1.10  # times the same pipeline without it
SMALL_WRITES_AT_MOST = 4  # an image
_SMALL = 20_000  # bytes; a journal record or a result of Prefect's, and no image


def lines(where: Place, images: int, rounds: int) -> Iterator[Line]:
    """CPU an image with and without protection, and what is read and written for it."""
    for storage in ("local", "s3"):
        taken: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for number in range(rounds):
            for protected in (True, False) if number % 2 == 0 else (False, True):
                taken[protected].append(where.measure(measured, storage, protected, images=images))
        ratios = [ours["cpu_ms"] / bare["cpu_ms"] for ours, bare in zip(taken[True], taken[False], strict=True)]
        cpu = [statistics.median(run["cpu_ms"] for run in taken[protected]) for protected in (True, False)]
        detail = f"{cpu[0]:.1f} ms beside {cpu[1]:.1f} ms"
        yield Line(
            "journal", f"CPU, {storage} result storage", statistics.median(ratios), "x", MORE_CPU_AT_MOST, detail
        )
        done = {name: taken[True][0][name] for name in ("small_writes", "large_writes", "reads")}
        detail = f"and {done['large_writes']:.1f} of the image itself, {done['reads']:.1f} reads"
        what = f"small writes an image, {storage} result storage"
        yield Line("journal", what, done["small_writes"], "", SMALL_WRITES_AT_MOST, detail)


def measured(storage: str, protected: bool, images: int, gateway: str, endpoint_url: str) -> dict[str, float]:
    """Runs the three tasks in a fresh process, and counts what its storage is asked for."""
    done: Counter[str] = Counter()
    options = {"result_storage": _bucket(endpoint_url)} if storage == "s3" else {}
    protection = nullcontext() if protected else _unprotected()
    with protection, _counting(done), three_tasks(gateway, endpoint_url, **options) as run:
        told = counted_run(run, images, done.clear)
    return {**told, **{name: done[name] / images for name in ("small_writes", "large_writes", "reads")}}


def _bucket(endpoint_url: str) -> Any:
    from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

    from tests.benchmarks.variants import _s3_client

    _s3_client(endpoint_url).create_bucket(Bucket="results")
    keys = AwsCredentials(
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url),
    )
    block = S3Bucket(bucket_name="results", credentials=keys)
    block.save("benchmark", overwrite=True)
    return block


# ── with and without ─────────────────────────────────────────────────────────


@contextmanager
def _counting(done: "Counter[str]") -> Iterator[None]:
    """Counts what storages are asked for, by us and by Prefect for its results."""
    from prefect.filesystems import LocalFileSystem
    from prefect_aws import S3Bucket

    from n1n_prefect.staging import LocalStorage

    def writing(write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Any, path: str, content: bytes, **options: Any) -> Any:
            done["small_writes" if len(content) < _SMALL else "large_writes"] += 1
            return write(self, path, content, **options)

        return counted

    def reading(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Any, path: str, **options: Any) -> Any:
            done["reads"] += 1
            return read(self, path, **options)

        return counted

    LocalStorage.write, LocalStorage.read = writing(LocalStorage.write), reading(LocalStorage.read)
    for block in (LocalFileSystem, S3Bucket):
        for name, wrap in (("write_path", writing), ("read_path", reading)):
            setattr(block, name, wrap(vars(block)[name]))
    yield


@contextmanager
def _unprotected() -> Iterator[None]:
    """Takes the journal away, and the spool: what is left pays again after every kill."""
    from n1n_prefect import journal
    from n1n_prefect.spool import Arrival, Spool, SpooledReply
    from n1n_prefect.staging import BlockStorage, LocalStorage

    kept: dict[str, SpooledReply] = {}

    class InMemory(Arrival):
        def __init__(self, name: str) -> None:
            self.name, self.pieces = name, list[bytes]()

        def write(self, data: bytes) -> None:
            self.pieces.append(data)

        def whole(self, head: Any) -> None:
            kept[self.name] = SpooledReply(head.status, head.headers, b"".join(self.pieces))

    @contextmanager
    def arriving(self: Spool, name: str) -> Iterator[InMemory]:
        yield InMemory(name)

    Spool.arriving = arriving
    Spool.find = lambda self, name: kept.get(name)
    Spool.forget = lambda self, name: kept.pop(name, None)
    in_journal = f"{journal.PREFIX}/journal/"
    for storage in (LocalStorage, BlockStorage):
        write, read = storage.write, storage.read
        storage.write = lambda self, key, data, do=write: None if key.startswith(in_journal) else do(self, key, data)
        storage.read = lambda self, key, do=read: None if key.startswith(in_journal) else do(self, key)
    yield
