"""What one reply costs: CPU beside the standard library's obvious code, and peak memory in a fresh process."""

import hashlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import replies
from tests.benchmarks.measuring import Line, fresh, in_turns, median_ratio, peak_bytes, settled_bytes
from tests.benchmarks.servers import scripted_gateway

CPU_AT_MOST = 1.0  # times json.loads + b64decode + sha256 on the same body
MEMORY_AT_MOST = 3.25  # times the body, body included
_TURNS = 15
_TINY = replies.reply(replies.png(3_000), "image/png", 300)


def lines(rounds: int) -> Iterator[Line]:
    """CPU and memory for both kinds of replies, whole and as a stream."""
    yield from cpu_lines(_TURNS * rounds)
    with tempfile.TemporaryDirectory() as folder:
        for what, document in replies.bodies().items():
            yield from _memory(Path(folder), what, document, rounds)


# ── CPU ──────────────────────────────────────────────────────────────────────


def cpu_lines(turns: int, share: float = 1.0) -> Iterator[Line]:
    """Parsing, decoding and hashing beside the same with the standard library."""
    for what, document in replies.bodies(share).items():
        yield _compared(what, replies.as_json(document), replies.sha256_by_json, turns)
        yield _compared(f"{what}, SSE", replies.as_sse(document), replies.sha256_by_lines, turns)


def _compared(what: str, body: bytes, plain: Any, turns: int) -> Line:
    assert sha256_by_us(body) == plain(body)
    taken = in_turns(turns, ours=lambda: sha256_by_us(body), plain=lambda: plain(body))
    ours, theirs = (statistics.median(taken[name]) * 1000 for name in ("ours", "plain"))
    detail = f"{ours:.1f} ms beside {theirs:.1f} ms for {len(body) / 1e6:.2f} MB"
    return Line("parsing", f"CPU, {what}", median_ratio(taken["ours"], taken["plain"]), "x json", CPU_AT_MOST, detail)


def sha256_by_us(body: bytes) -> str:
    """The image's SHA-256, as `read_reply` finds it."""
    from n1n_prefect.wire import gemini

    return hashlib.sha256(gemini.read_reply(200, {}, body).data).hexdigest()


# ── memory ───────────────────────────────────────────────────────────────────


def _memory(folder: Path, what: str, document: dict[str, Any], rounds: int) -> Iterator[Line]:
    for form, body in (("", replies.as_json(document)), (", SSE", replies.as_sse(document))):
        path = folder / "body"
        path.write_bytes(body)
        parsed = [fresh(parsed_memory, str(path)).told for _ in range(rounds)]
        yield _peak(f"memory of read_reply, {what}{form}", parsed, len(body))
        paid = [_paid_memory(body, form, Path(folder, f"home{number}")) for number in range(rounds)]
        yield _peak(f"memory of a whole paid call, {what}{form}", paid, len(body))


def _peak(what: str, peaks: list[int], length: int) -> Line:
    peak = statistics.median(peaks)
    return Line("parsing", what, peak / length, "x body", MEMORY_AT_MOST, f"{peak / 1e6:.1f} MB")


def parsed_memory(path: str) -> int:
    """Peak bytes that reading a reply adds; runs in a fresh process."""
    sha256_by_us(replies.as_json(_TINY))
    before = settled_bytes()
    sha256_by_us(Path(path).read_bytes())
    return peak_bytes() - before


def _paid_memory(body: bytes, form: str, home: Path) -> int:
    tiny = replies.as_sse(_TINY) if form else replies.as_json(_TINY)
    with scripted_gateway([tiny, body], "text/event-stream" if form else "application/json") as base_url:
        env = {"PREFECT_LOCAL_STORAGE_PATH": str(home), "PREFECT_HOME": str(home)}
        return fresh(paid_memory, base_url, bool(form), env=env).told


def paid_memory(base_url: str, stream: bool) -> int:
    """Peak bytes that a whole paid call adds, from the socket to the staged original; runs in a fresh process."""
    from n1n_prefect import N1nCredentials, generate_image

    credentials = N1nCredentials(api_key="sk-benchmark", base_url=base_url)
    generate_image.fn("warm up", credentials=credentials, stream=stream)
    before = settled_bytes()
    image = generate_image.fn("a red fox", credentials=credentials, stream=stream)
    added = peak_bytes() - before
    assert hashlib.sha256(image.read_bytes()).hexdigest() == image.sha256
    return added
