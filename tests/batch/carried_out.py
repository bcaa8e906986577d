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
from pydantic import SecretStr

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.batch.chunk import ChunkReport, report_if_any
from n1n_prefect.batch.lease import Holder, holder_of, of_chunk
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
    server: dict[str, str] = field(default_factory=dict)
    """The environment of a process that talks to a Prefect server of one's own; the harness's if empty."""
    saved_as: str = ""
    """The name under which the blocks are saved; they are not if empty."""
    batch_id: str = "week-46"
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = [f"fox-{row},A red fox number {row}\n" for row in range(self.rows)]
        (self.folder / f"{self.batch_id}.csv").write_text("id,prompt\n" + "".join(lines), "utf-8")

    @property
    def credentials(self) -> N1nCredentials:
        return N1nCredentials(api_key=SecretStr(self.gateway.api_key), base_url=self.gateway.base_url, **self.key)

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def start(self, **options: Any) -> Process:
        """Runs the batch in a process of its own."""
        number = len(self.processes)
        file, log = self.folder / f"job-{number}.json", self.folder / f"job-{number}.log"
        file.write_text(json.dumps(self._described(options)), "utf-8")
        env = {
            **(self.server or {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}),
            **({} if self.server else {"PREFECT_LOCAL_STORAGE_PATH": str(self.storage)}),
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
            "credentials": {
                **self.credentials.model_dump(mode="json", include={"base_url", "max_in_flight", "concurrency_limit"}),
                "api_key": self.gateway.api_key,
            },
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
            "saved_as": self.saved_as,
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

    @property
    def store(self) -> BatchStore:
        return BatchStore(self.destination, self.folder_key)

    def document(self, name: str) -> bytes:
        data = self.store.read(name)
        assert data is not None, f"there is no {name}"
        return data

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.document("results.jsonl").splitlines()]

    def part_results(self) -> list[ItemResult]:
        """What the parts hold so far."""
        return [result for number in range(self.rows) for result in read_part(self.store, number) or ()]

    def reports(self) -> list[ChunkReport]:
        """What the chunks came to so far."""
        return [report for number in range(self.rows) if (report := report_if_any(self.store, number))]

    def recorded(self) -> set[str]:
        """The prompts whose image stands in a part."""
        return {result.prompt_excerpt for result in self.part_results() if result.outcome.ok}

    def holder(self, chunk: int) -> Holder:
        """Who carries out a chunk at the moment."""
        return wait_for(lambda: holder_of(self.store, of_chunk(chunk)), f"somebody who carries out chunk {chunk}")

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

    def called(self, rows: range) -> None:
        """Waits until one of some rows was answered, so that another is under way."""
        prompts = {f"A red fox number {row}" for row in rows}
        wait_for(lambda: prompts & {*self.billed()}, f"a call for one of rows {rows}")

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
        # Its profiler can hang a worker that starts threads, see docs/batch.md; read when Dask is imported.
        os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "false"
        from prefect_dask import DaskTaskRunner

        flow = batch_to_s3.with_options(task_runner=DaskTaskRunner(**job["runner"]))
    credentials, destination = N1nCredentials(**job["credentials"]), S3Location(**job["destination"])
    if job["saved_as"]:
        credentials.save(job["saved_as"], overwrite=True)
        destination.save(job["saved_as"], overwrite=True)
    report = flow(credentials=credentials, destination=destination, **job["options"])
    print(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
