"""How things are measured: in fresh processes, in turns, and as medians, since the machine is shared."""

import ctypes
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Line:
    """One figure of the report."""

    part: str
    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.at_most is None:
            return ""
        return "ok" if self.value <= self.at_most else "MISSED"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds, user and system, of all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(rounds: int, **works: Callable[[], object]) -> dict[str, list[float]]:
    """CPU seconds of each work in each round; a round runs every work once, its order turning."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(cpu_of(works[name]))
    return taken


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios within each round, which drift on the machine leaves alone."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def settled_bytes() -> int:
    """The memory that this process holds, with what imports took and gave back gone; its peak counts from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc's, which would use again what it kept
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is held now
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that this process has held so far, or since `settled_bytes`."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found, "the kernel does not tell VmHWM"
    return int(found[1]) * 1024


def held_bytes() -> int:
    """The memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@dataclass(frozen=True)
class Ended:
    """A fresh process that has ended."""

    told: Any
    """What the function returned."""

    cpu_seconds: float
    """User and system time of the whole process, its start and its end included."""


_CHILD = "import json, sys; from {module} import {name} as f; print('\\n' + json.dumps(f(*json.loads(sys.argv[1]))))"


def fresh(function: Callable[..., Any], *arguments: Any, env: Mapping[str, str] | None = None) -> Ended:
    """Runs a module's function in a fresh process; arguments and result travel as JSON."""
    code = _CHILD.format(module=function.__module__, name=function.__name__)
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        text=True,
    )
    before = _children_seconds()
    out, err = process.communicate()
    cpu = _children_seconds() - before
    if process.returncode:
        raise RuntimeError(f"{function.__name__} ended with {process.returncode}:\n{err[-4000:]}")
    return Ended(json.loads(out.splitlines()[-1]), cpu)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
