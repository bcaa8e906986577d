"""How the cost of a batch grows: with its items, with Dask workers, and by the database behind the Prefect server."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks import chart, database, servers
from tests.benchmarks.batch import HASTE
from tests.benchmarks.database import SQLite
from tests.benchmarks.measuring import MEGABYTE, Line
from tests.benchmarks.pipeline import Place
from tests.benchmarks.variants import AT_ONCE, batch, counted_run

ITEMS = (100, 1000)
WORKERS = (0, 1, 2, 4)


@dataclass(frozen=True)
class Point:
    """What one batch took."""

    database: str
    items: int
    workers: int
    """Dask workers, each a process; 0 is the flow's own process, on threads."""

    images_a_second: float
    """From the flow's start to its end, starting the workers included."""

    cpu_ms: float
    """An image, of the flow's process and its workers, starting them included."""

    database_mb: float
    """Growth of the server's database, artifacts apart."""

    @property
    def where(self) -> str:
        return f"{self.workers} Dask worker{'s' * (self.workers > 1)}" if self.workers else "threads"


def lines(items: Sequence[int], workers: Sequence[int], output: Path) -> Iterator[Line]:
    """A figure for each batch; the table and the plot of all of them go to a folder."""
    points: list[Point] = []
    for point in _points(items, [number for number in workers if not number or _has_dask()]):
        points.append(point)
        what = f"{point.items} items, {point.where}, {point.database}"
        detail = f"{point.cpu_ms:.1f} ms CPU an image; database {point.database_mb:+.2f} MB"
        yield Line("scaling", what, point.images_a_second, "img/s", None, detail)
        output.mkdir(exist_ok=True)
        (output / "scaling.md").write_text(table(points))
        (output / "scaling.svg").write_text(chart.drawn(points))


def _has_dask() -> bool:
    if find_spec("prefect_dask") is None:
        print("No Dask workers: prefect-dask is not installed. pip install prefect-dask")
        return False
    return True


def _points(items: Sequence[int], workers: Sequence[int]) -> Iterator[Point]:
    for kind in ("SQLite", "PostgreSQL"):
        with tempfile.TemporaryDirectory() as folder, _place(kind, Path(folder)) as found:
            if found is None:
                print("No PostgreSQL: it is not installed. apt-get install postgresql")
                continue
            where, stored = found
            for number in items:
                for count in workers:
                    yield _point(kind, where, stored, number, count)


@contextmanager
def _place(kind: str, folder: Path) -> Iterator[tuple[Place, database.Database] | None]:
    """Servers with a database of that kind; None where it is not installed."""
    folder.chmod(0o755)  # PostgreSQL runs as somebody else
    programs = database.postgresql_programs()
    if kind == "PostgreSQL" and programs is None:
        yield None
        return
    stored: AbstractContextManager[database.Database] = (
        database.postgresql(programs, folder / "postgresql", servers.free_port())
        if kind == "PostgreSQL" and programs is not None
        else nullcontext(SQLite(folder / "prefect" / "prefect.db"))
    )
    with (
        stored as opened,
        servers.prefect_server(folder / "prefect", opened.url) as prefect_api,
        servers.gateway(HASTE) as gateway,
        servers.forgetful_s3() as s3,
    ):
        yield Place(folder, prefect_api, gateway, s3), opened


def _point(kind: str, where: Place, stored: database.Database, items: int, workers: int) -> Point:
    before = database.settled(stored).without_artifacts
    told = where.measure(scaled, workers, images=items)
    grown = (database.settled(stored).without_artifacts - before) / MEGABYTE
    return Point(kind, items, workers, items / told["seconds"], told["cpu_ms"], grown)


def scaled(workers: int, images: int, gateway: str, endpoint_url: str) -> dict[str, float]:
    """What `counted_run` tells of a batch on so many Dask workers; for a fresh process."""
    runner = _dask(workers) if workers else None
    with batch(gateway, endpoint_url, AT_ONCE, runner, chunk_size=_chunk_size(images, workers)) as run:
        return counted_run(run, images)


def _chunk_size(images: int, workers: int) -> int:
    """Four chunks a worker at least, so that all are busy until near the end; 200 items at most."""
    return max(min(200, images // (4 * max(workers, 1))), 1)


def _dask(workers: int) -> Any:
    # Its profiler can hang a worker that starts threads, see docs/batch.md; read when Dask is imported.
    os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "false"
    from prefect_dask import DaskTaskRunner

    cluster = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=cluster)


def table(points: Sequence[Point]) -> str:
    """The points as Markdown."""
    head = "| Database | Items | On | Images/s | Client CPU, ms an image | Database, MB |\n|---|--:|---|--:|--:|--:|\n"
    rows = (
        f"| {it.database} | {it.items:,} | {it.where} | {it.images_a_second:.1f} | {it.cpu_ms:.1f} "
        f"| {it.database_mb:.2f} |\n"
        for it in points
    )
    return head + "".join(rows)
