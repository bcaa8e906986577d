"""The three-task pipeline beside a bare script, whole and cut into tasks, and beside tasks that do nothing.

Client CPU, and memory growth.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import servers
from tests.benchmarks.database import SQLite
from tests.benchmarks.measuring import Line, fresh
from tests.benchmarks.variants import measured

CPU_AT_MOST = 1.15  # times the script cut into tasks; and times the whole one and three tasks that do nothing
GROWTH_AT_MOST = 0.1  # megabytes an image
_RUNS = ("bare", "nothing", "by_hand", "three_tasks", "anothing", "aby_hand", "athree_tasks", "one_task")
_FEW, _MANY = 50, 250
Servers = Callable[[], AbstractContextManager[str]]


@dataclass
class Place:
    """Where the variants run: the servers' addresses and a folder."""

    folder: Path
    prefect_api: str
    gateway: str
    s3: str
    runs: int = 0

    @property
    def database(self) -> SQLite:
        """The Prefect server's own."""
        return SQLite(self.folder / "prefect" / "prefect.db")

    def run(self, variant: str, images: int) -> dict[str, float]:
        """What one variant took, in a fresh process with storage of its own."""
        return self.measure(measured, variant, images=images)

    def measure(self, function: Callable[..., dict[str, float]], *arguments: object, images: int) -> dict[str, float]:
        """What a function tells of so many images, in a fresh process with storage of its own, and its CPU an image."""
        self.runs += 1
        home = self.folder / f"run-{self.runs}"
        env = {
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": str(home),
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        }
        ended = fresh(function, *arguments, images, self.gateway, self.s3, env=env)
        servers.forget_objects(self.s3)
        shutil.rmtree(home, ignore_errors=True)
        cpu = ended.cpu_seconds - ended.told["cpu_before"]
        return {**ended.told, "cpu_ms": cpu / images * 1000}


@contextmanager
def place(gateway: Servers = servers.gateway, s3: Servers = servers.moto) -> Iterator[Place]:
    """Servers in processes of their own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.prefect_server(Path(folder, "prefect")) as prefect_api,
        gateway() as gateway_url,
        s3() as s3_url,
    ):
        yield Place(Path(folder), prefect_api, gateway_url, s3_url)


# ── CPU ──────────────────────────────────────────────────────────────────────


def cpu_lines(where: Place, images: int, rounds: int) -> Iterator[Line]:
    """Client CPU an image, from behind the warm-up to the end of the process."""
    taken: dict[str, list[dict[str, float]]] = {variant: [] for variant in _RUNS}
    for number in range(rounds):
        for variant in _RUNS if number % 2 == 0 else reversed(_RUNS):
            taken[variant].append(where.run(variant, images))
    for variant, runs in taken.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        detail = f"{images / seconds:.1f} images/s; peak {statistics.median(run['peak_mb'] for run in runs):.0f} MB"
        cpu = [run["cpu_ms"] for run in runs]
        yield Line("pipeline", f"CPU an image, {variant}", statistics.median(cpu), "ms", None, f"{detail}; {_all(cpu)}")
    for ours, parts in (
        ("three_tasks", ("by_hand",)),
        ("three_tasks", ("bare", "nothing")),
        ("athree_tasks", ("aby_hand",)),
        ("athree_tasks", ("bare", "anothing")),
    ):
        ratios = [
            run["cpu_ms"] / sum(taken[part][number]["cpu_ms"] for part in parts)
            for number, run in enumerate(taken[ours])
        ]
        what = f"CPU, {ours} to {' + '.join(parts)}"
        yield Line("pipeline", what, statistics.median(ratios), "x", CPU_AT_MOST, _all(ratios))


def _all(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


# ── memory ───────────────────────────────────────────────────────────────────


def memory_lines(where: Place) -> Iterator[Line]:
    """How much the peak of a process grows with the number of its images."""
    for variant, goal in (("nothing", None), ("three_tasks", GROWTH_AT_MOST), ("athree_tasks", GROWTH_AT_MOST)):
        few, many = (where.run(variant, images)["peak_mb"] for images in (_FEW, _MANY))
        detail = f"{few:.0f} MB at {_FEW}, {many:.0f} MB at {_MANY}"
        yield Line("memory", f"growth, {variant}", (many - few) / (_MANY - _FEW), "MB/img", goal, detail)
