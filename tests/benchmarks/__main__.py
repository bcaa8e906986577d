"""Measures the package beside what people would write: `python -m tests.benchmarks`.

Every figure stands beside its yardstick from the same run, since the machine's own speed
varies. Nothing here passes or fails the test suite.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks import batch, importing, parsing, pipeline, protection, scaling, servers, sheet
from tests.benchmarks.measuring import Line

_OUTPUT = Path("benchmark-output")


def main() -> int:
    options = _options()
    started = time.monotonic()
    lines: list[Line] = []
    print(_environment(), flush=True)
    for part in options.only:
        for line in PARTS[part](options):
            lines.append(line)
            print(_row(line), flush=True)
    seconds = time.monotonic() - started
    path = _written(lines, seconds)
    missed = [line.what for line in lines if line.verdict == "MISSED"]
    print(f"\n{len(lines)} figures in {seconds:.0f} s, {len(missed)} goals missed; {path}")
    return 0


def _parsing(options: argparse.Namespace) -> Iterator[Line]:
    return parsing.lines(options.rounds)


def _importing(options: argparse.Namespace) -> Iterator[Line]:
    return importing.lines()


def _sheet(options: argparse.Namespace) -> Iterator[Line]:
    return sheet.lines(options.rounds)


def _pipeline(options: argparse.Namespace) -> Iterator[Line]:
    with pipeline.place() as where:
        yield from pipeline.cpu_lines(where, options.images or 150, options.rounds)


def _protection(options: argparse.Namespace) -> Iterator[Line]:
    with pipeline.place() as where:
        yield from protection.lines(where, options.images or 150, options.rounds)


def _memory(options: argparse.Namespace) -> Iterator[Line]:
    with pipeline.place() as where:
        yield from pipeline.memory_lines(where)


def _batch(options: argparse.Namespace) -> Iterator[Line]:
    with pipeline.place(s3=servers.forgetful_s3) as where:
        yield from batch.cpu_lines(where, options.images or 150, options.rounds)


def _batch_memory(options: argparse.Namespace) -> Iterator[Line]:
    gateway = partial(servers.gateway, latency_seconds=batch.HASTE)
    with pipeline.place(gateway, servers.forgetful_s3) as where:
        yield from batch.memory_lines(where, options.images or 1000)


def _batch_large(options: argparse.Namespace) -> Iterator[Line]:
    gateway = partial(servers.gateway, picture_bytes=batch.LARGE_BYTES, pixels=batch.LARGE_PIXELS)
    with pipeline.place(gateway, servers.forgetful_s3) as where:
        yield from batch.large_lines(where, options.rounds)


def _scaling(options: argparse.Namespace) -> Iterator[Line]:
    return scaling.lines(options.items, options.workers, _OUTPUT)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "parsing": _parsing,
    "import": _importing,
    "sheet": _sheet,
    "memory": _memory,
    "pipeline": _pipeline,
    "journal": _protection,
    "batch": _batch,
    "batch-memory": _batch_memory,
    "batch-large": _batch_large,
    "scaling": _scaling,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART,…", help=", ".join(PARTS))
    parser.add_argument("--images", type=int, help="images in each run; 150, or 1000 for memory")
    parser.add_argument("--items", type=_numbers, default=scaling.ITEMS, metavar="N,…", help="items of scaling")
    parser.add_argument("--workers", type=_numbers, default=scaling.WORKERS, metavar="N,…", help="0 is threads")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return names


def _environment() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("prefect", "pydantic", "httpx", "orjson", "boto3"))
    return f"Python {platform.python_version()}, {packages}\n"


def _row(line: Line) -> str:
    goal = "" if line.at_most is None else f"≤ {line.at_most:g}"
    return f"{line.part:12} {line.what:70} {line.value:8.3f} {line.unit:7} {goal:8} {line.verdict:7} {line.detail}"


def _written(lines: list[Line], seconds: float) -> Path:
    _OUTPUT.mkdir(exist_ok=True)
    path = _OUTPUT / "benchmarks.json"
    report = {
        "environment": _environment().strip(),
        "seconds": round(seconds),
        "lines": [line.as_dict() for line in lines],
    }
    path.write_text(json.dumps(report, indent=2))
    return path


if __name__ == "__main__":
    sys.exit(main())
