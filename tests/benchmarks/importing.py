"""What `import n1n_prefect` adds to the Prefect modules that it uses."""

import importlib
import statistics
import sys
import time
from collections.abc import Iterator

from tests.benchmarks.measuring import Line, fresh

SECONDS_AT_MOST = 0.15
_PROCESSES = 7
HEAVY = ("PIL", "boto3", "botocore")


def lines() -> Iterator[Line]:
    """CPU seconds over Prefect's own, and what must not be loaded."""
    prefect, heavy = fresh(modules_used).told
    yield Line("import", "modules of Pillow and boto3 that are loaded", len(heavy), "", 0, ", ".join(heavy))
    taken = [fresh(import_seconds, prefect).told for _ in range(_PROCESSES)]
    theirs, ours = (statistics.median(pair[number] for pair in taken) for number in (0, 1))
    yield Line(
        "import", "CPU of import n1n_prefect over Prefect's", ours, "s", SECONDS_AT_MOST, f"Prefect {theirs:.2f} s"
    )


def modules_used() -> tuple[list[str], list[str]]:
    """The Prefect modules that importing us loads, in their order, and heavy ones; runs in a fresh process."""
    importlib.import_module("n1n_prefect")
    prefect = [name for name in sys.modules if name.partition(".")[0] == "prefect"]
    return prefect, [name for name in sys.modules if name in HEAVY]


def import_seconds(prefect: list[str]) -> tuple[float, float]:
    """CPU seconds of importing Prefect's modules, then us; runs in a fresh process."""
    start = time.process_time()
    for name in prefect:
        importlib.import_module(name)
    between = time.process_time()
    importlib.import_module("n1n_prefect")
    return between - start, time.process_time() - between
