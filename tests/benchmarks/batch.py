"""The batch beside a bare script on as many threads: CPU, throughput and memory; and memory over many images."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks import database, servers
from tests.benchmarks.measuring import MEGABYTE, Line, held_bytes, settled_bytes
from tests.benchmarks.pipeline import Place
from tests.benchmarks.variants import BATCH, WARM_UP, batch, counted_run, measured_at_once

AT_ONCE = (8, 64)
CPU_AT_MOST = 1.2  # times the bare script
SECONDS_AT_MOST = 1 / 0.9  # times the bare script's: nine tenths of its throughput
MORE_MEMORY_AT_MOST = 80  # megabytes over the bare script's, at 8 in flight
MEMORY_AT_MOST = 1.2  # times the bare script's, at 64
GROWTH_AT_MOST = 1.0  # megabytes for 1,000 images, of the client and of the database
REPLY_AT_MOST = 3.25  # times a reply, for each call under way
LARGE = {"model": "gemini-3-pro-image", "aspect_ratio": "16:9", "image_size": "4K"}
LARGE_BYTES = 15_000_000  # of the image, which makes a reply of 20 MB
LARGE_PIXELS = (5504, 3072)
HASTE = (0.0, 0.05)  # seconds that an image takes, where memory is looked at
_STEADY = 500  # images until memory has settled
_BARE_IMAGES = 1000  # of the bare script, whose peak only grows with more
_LOOK_SECONDS = 0.1

Run = dict[str, float]


# ── CPU and throughput ───────────────────────────────────────────────────────


def cpu_lines(where: Place, images: int, rounds: int) -> Iterator[Line]:
    """CPU an image, plan and tables included, and how long all of them take."""
    for number in (images, 4 * images):
        for at_once in AT_ONCE:
            yield from _compared(number, at_once, _in_turns(where, number, at_once, rounds))


def _in_turns(where: Place, images: int, at_once: int, rounds: int) -> dict[str, list[Run]]:
    taken: dict[str, list[Run]] = {"bare": [], "batch": []}
    for number in range(rounds):
        for variant in taken if number % 2 == 0 else reversed(taken):
            taken[variant].append(where.measure(measured_at_once, variant, at_once, images=images))
    return taken


def _compared(images: int, at_once: int, taken: dict[str, list[Run]]) -> Iterator[Line]:
    for figure, (what, unit, goal) in _FIGURES.items():
        ours, theirs = ([run[figure] for run in taken[variant]] for variant in ("batch", "bare"))
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        medians = f"{statistics.median(ours):.1f} {unit} beside {statistics.median(theirs):.1f} {unit}"
        detail = f"{medians}; {' '.join(f'{ratio:.2f}' for ratio in ratios)}"
        yield Line(
            "batch", f"{what}, {at_once} in flight, {images} images", statistics.median(ratios), "x bare", goal, detail
        )


_FIGURES = {
    "cpu_ms": ("CPU an image", "ms", CPU_AT_MOST),
    "seconds": ("time of the run", "s", SECONDS_AT_MOST),
    "peak_mb": ("peak memory", "MB", None),
}


# ── memory and the server's database ─────────────────────────────────────────


def memory_lines(where: Place, images: int) -> Iterator[Line]:
    """Peak memory beside the bare script's, what grows with the number of images, and one call and row an image."""
    for at_once in AT_ONCE:
        bare = where.measure(measured_at_once, "bare", at_once, images=min(images, _BARE_IMAGES))
        ours = long_run(where, images, at_once)
        yield from _long_run_lines(ours, bare["peak_mb"], f"{at_once} in flight, {images} images", at_once)


def _long_run_lines(ours: Run, bare_mb: float, what: str, at_once: int) -> Iterator[Line]:
    peaks = f"{ours['peak_mb']:.0f} MB beside {bare_mb:.0f} MB"
    if at_once == AT_ONCE[0]:
        yield Line("batch-memory", f"peak, {what}", ours["peak_mb"] - bare_mb, "MB more", MORE_MEMORY_AT_MOST, peaks)
    else:
        yield Line("batch-memory", f"peak, {what}", ours["peak_mb"] / bare_mb, "x bare", MEMORY_AT_MOST, peaks)
    looks = f"{ours['looks']:.0f} looks; {ours['images_a_second']:.1f} images/s"
    yield Line("batch-memory", f"growth, {what}", ours["growth_mb"], "MB/1000", GROWTH_AT_MOST, looks)
    artifacts = f"and {ours['artifact_mb']:.2f} MB of artifacts"
    yield Line("batch-memory", f"database, {what}", ours["database_mb"], "MB/1000", GROWTH_AT_MOST, artifacts)
    calls = f"{ours['calls']:.0f} calls; a row for each image, or this would have ended"
    yield Line("batch-memory", f"calls lost or twice, {what}", ours["wrong"], "", 0, calls)


def long_run(where: Place, images: int, at_once: int) -> Run:
    """A batch of many images: its memory, the growth of the server's database, and calls that are wrong in number."""
    calls_before, stored = len(servers.ledger(where.gateway)["calls"]), database.settled(where.database)
    told = where.measure(watched, at_once, images=images)
    calls, now = servers.ledger(where.gateway)["calls"][calls_before:], database.settled(where.database)
    asked = {call["request_sha256"] for call in calls}
    return {
        **told,
        "images_a_second": images / told["seconds"],
        "calls": len(calls) - WARM_UP,
        "wrong": abs(len(asked) - WARM_UP - images) + len(calls) - len(asked),
        "database_mb": (now.without_artifacts - stored.without_artifacts) / MEGABYTE / images * 1000,
        "artifact_mb": now.artifacts / MEGABYTE,
    }


def watched(at_once: int, images: int, gateway: str, endpoint_url: str) -> Run:
    """What `counted_run` tells of a batch, and how its memory grew; for a fresh process."""
    looks: list[tuple[int, int]] = []
    with batch(gateway, endpoint_url, at_once) as run, _looking(looks):
        told = counted_run(run, images)
    return {**told, "looks": len(looks), "growth_mb": growth(looks) / MEGABYTE * 1000}


@contextmanager
def _looking(looks: list[tuple[int, int]]) -> Iterator[None]:
    """Notes how many images have ended and how much memory is held, ten times a second."""
    from n1n_prefect.batch.tally import tally_of

    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            looks.append((tally_of(BATCH).fresh, held_bytes()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def growth(looks: list[tuple[int, int]]) -> float:
    """Bytes an image, by the line that fits best through what was held once memory had settled."""
    steady = [(ended, held) for ended, held in looks if ended > min(_STEADY, looks[-1][0] / 2)]
    ended, held = zip(*steady, strict=True)
    return statistics.linear_regression(ended, held).slope


# ── large replies ────────────────────────────────────────────────────────────


def large_lines(where: Place, rounds: int) -> Iterator[Line]:
    """What each call under way adds to the memory, where replies have 20 MB."""
    for at_once, chunk_size in ((1, 200), (8, 200), (8, 8)):
        options = {**LARGE, "chunk_size": chunk_size}
        added = [where.measure(large, at_once, options, images=4 * at_once)["added_mb"] for _ in range(rounds)]
        reply_mb = LARGE_BYTES * 4 / 3 / MEGABYTE
        chunks = "two chunks at once" if chunk_size < 4 * at_once else "one chunk"
        detail = f"{statistics.median(added):.0f} MB for replies of {reply_mb:.0f} MB"
        each = statistics.median(added) / at_once / reply_mb
        yield Line(
            "batch-large", f"memory a call, {at_once} in flight, {chunks}", each, "x reply", REPLY_AT_MOST, detail
        )


def large(at_once: int, options: dict[str, Any], images: int, gateway: str, endpoint_url: str) -> Run:
    """What `counted_run` tells of a batch, and the megabytes that it adds at most; for a fresh process."""
    before: list[int] = []
    with batch(gateway, endpoint_url, at_once, **options) as run:
        told = counted_run(run, images, lambda: before.append(settled_bytes()))
    return {**told, "added_mb": told["peak_mb"] - before[0] / MEGABYTE}
