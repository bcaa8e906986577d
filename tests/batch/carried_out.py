"""A batch that is carried out by a process of its own, which a test stops as it likes.

`python -m tests.batch.carried_out JOB.json` runs the flow as the file says.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prefect.settings import PREFECT_API_URL

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.batch.parts import read_part
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.testing import LocalGateway

PATIENCE_SECONDS = 180
_HERE = "tests.batch.carried_out"


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds at last."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not seen within {PATIENCE_SECONDS} s")


@dataclass
class Process:
    """A run of the batch under way."""

    child: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """Ends it and what it started, as a machine that is lost would."""
        with suppress(psutil.NoSuchProcess):
            for below in psutil.Process(self.child.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    below.kill()
        self.child.kill()
        self.child.wait()

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)

    def ends(self) -> int:
        """Its return code, once it has ended by itself."""
        try:
            return self.child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"It does not end:\n{self.output}") from None


@dataclass
class Job:
    """One batch, and the processes that carry it out one after the other."""

    folder: Path
    gateway: LocalGateway
    destination: S3Location
    rows: int
    options: dict[str, Any] = field(default_factory=dict)
    """Of the flow."""
    key: dict[str, Any] = field(default_factory=dict)
    """Fields of the credentials."""
    runner: dict[str, Any] = field(default_factory=dict)
    """Arguments of a DaskTaskRunner; threads if empty."""
    batch_id: str = "week-46"
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = [f"fox-{row},A red fox number {row}\n" for row in range(self.rows)]
        (self.folder / f"{self.batch_id}.csv").write_text("id,prompt\n" + "".join(lines), "utf-8")

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def start(self, **options: Any) -> Process:
        """Runs the batch in a process of its own."""
        number = len(self.processes)
        file, log = self.folder / f"job-{number}.json", self.folder / f"job-{number}.log"
        file.write_text(json.dumps(self._described(options)), "utf-8")
        env = {
            **os.environ,
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            "PREFECT_LOCAL_STORAGE_PATH": str(self.storage),
            "PREFECT_INTEGRATIONS_N1N_UNKNOWN_RETRIES": "9",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", _HERE, str(file)], env=env, cwd=self.folder, stdout=output, stderr=output
            )
        self.processes.append(Process(child, log))
        return self.processes[-1]

    def _described(self, options: dict[str, Any]) -> dict[str, Any]:
        where = self.destination
        return {
            "credentials": {"api_key": self.gateway.api_key, "base_url": self.gateway.base_url, **self.key},
            "destination": {
                "bucket": where.bucket,
                "prefix": where.prefix,
                "endpoint_url": where.endpoint_url,
                "region_name": where.region_name,
                "aws_access_key_id": where.aws_access_key_id,
                "aws_secret_access_key": where.aws_secret_access_key.get_secret_value(),
            },
            "options": {"manifest": f"{self.batch_id}.csv", **self.options, **options},
            "runner": self.runner,
        }

    def end(self) -> None:
        """Leaves no process behind."""
        for process in self.processes:
            if process.child.poll() is None:
                process.kill()

    # ── what came of it ──────────────────────────────────────────────────────

    @property
    def folder_key(self) -> str:
        return f"{self.destination.prefix}/{self.batch_id}"

    def document(self, name: str) -> bytes:
        client = self.destination.get_client()
        return client.get_object(Bucket=self.destination.bucket, Key=f"{self.folder_key}/{name}")["Body"].read()

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.document("results.jsonl").splitlines()]

    def part_results(self) -> list[ItemResult]:
        """What the parts hold so far."""
        store = BatchStore(self.destination, self.folder_key)
        return [result for number in range(self.rows) for result in read_part(store, number) or ()]

    def stats(self) -> dict[str, Any]:
        return json.loads(self.document("_stats.json"))

    def objects(self) -> list[str]:
        """The keys of its images."""
        client = self.destination.get_client()
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.destination.bucket, Prefix=f"{self.folder_key}/"
        )
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return [key for key in keys if key.endswith((".png", ".jpg"))]

    def billed(self) -> "Counter[str]":
        """How often each prompt was charged."""
        return Counter(call.prompt_excerpt for call in self.gateway.ledger.billed)

    def calls(self, number: int) -> None:
        """Waits until the gateway has ended so many calls."""
        wait_for(lambda: len(self.gateway.ledger.calls) >= number, f"{number} calls")

    def is_whole(self) -> None:
        """Every row has its image, once; whatever was paid twice is told."""
        rows = self.results()
        assert [row["id"] for row in rows] == [f"fox-{row}" for row in range(self.rows)]
        assert {row["status"] for row in rows} <= {"uploaded", "already_there"}
        assert {row["uri"].rpartition(f"{self.destination.bucket}/")[2] for row in rows} == set(self.objects())
        assert len(self.objects()) == self.rows
        billed = self.billed()
        assert len(billed) == self.rows
        told = {f"A red fox number {number}": row["possible_duplicates"] for number, row in enumerate(rows)}
        for prompt, times in billed.items():
            assert times <= 1 + told[prompt], f"{prompt!r} was billed {times} times, {told[prompt]} are told of"
        assert self.stats()["possible_duplicates"] == sum(told.values())


def main(file: str) -> None:
    """Runs the flow as the file says."""
    from n1n_prefect.batch import batch_to_s3

    job = json.loads(Path(file).read_text("utf-8"))
    flow = batch_to_s3
    if job["runner"]:
        from prefect_dask import DaskTaskRunner

        flow = batch_to_s3.with_options(task_runner=DaskTaskRunner(**job["runner"]))
    report = flow(
        credentials=N1nCredentials(**job["credentials"]),
        destination=S3Location(**job["destination"]),
        **job["options"],
    )
    print(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
