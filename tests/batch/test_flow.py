"""The flow of a batch through Prefect's own engine: from a manifest to a bucket and a page."""

import csv
import io
import json
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter, EventResourceFilter
from prefect.exceptions import ParameterTypeError
from prefect.states import State

from n1n_prefect import BudgetExceededError, InvalidRequestError, N1nCredentials, N1nError, S3Location, UploadError
from n1n_prefect.batch import BatchReport, batch_to_s3
from n1n_prefect.batch.flow import named_after
from n1n_prefect.batch.store import BatchStore
from tests.image_files import encoded, photo

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api", "impatient")]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n1n_credentials: N1nCredentials, s3_location: S3Location):
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path, n1n_credentials, s3_location)


class Shop:
    """A manifest in the working folder, and the flow on it."""

    def __init__(self, folder: Path, credentials: N1nCredentials, destination: S3Location) -> None:
        self.name = f"week-{uuid.uuid4().hex[:8]}"
        self.manifest = folder / f"{self.name}.csv"
        self.credentials = credentials
        self.destination = destination

    def write(self, *rows: dict[str, str], **more: str) -> None:
        with self.manifest.open("w", newline="") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            table.writeheader()
            table.writerows(rows)

    def animals(self, count: int) -> None:
        self.write(*({"id": f"sku-{n}", "prompt": f"Draw animal {n}", "shelf": str(n % 3)} for n in range(count)))

    def run(self, **options: Any) -> BatchReport:
        return batch_to_s3(self.manifest.name, self.credentials, self.destination, **options)

    def state(self, **options: Any) -> "State[Any]":
        return batch_to_s3(self.manifest.name, self.credentials, self.destination, return_state=True, **options)

    @property
    def store(self) -> BatchStore:
        return BatchStore(self.destination, f"{self.destination.prefix}/{self.name}")

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.store.read("results.jsonl") or b"").splitlines()]

    def images(self) -> list[str]:
        return [name for name in self.store.names() if name.endswith((".png", ".jpg"))]


def last_run() -> Any:
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
        return run


def artifacts_of(run: Any) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    return {artifact.key: artifact for artifact in found}


def task_runs_of(run: Any) -> list[Any]:
    with get_client(sync_client=True) as client:
        return client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id])))


class TestWhole:
    def test_from_a_table_to_a_bucket(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", match="animal 3")
        shop.animals(12)
        state = shop.state(chunk_size=5)
        report = state.result()
        assert state.name == "Completed"
        assert report.by_status == {"uploaded": 11, "refused": 1}
        assert (report.batch_id, report.items, report.left, report.stopped) == (shop.name, 12, 0, "")
        rows = shop.rows()
        assert [row["id"] for row in rows] == [f"sku-{n}" for n in range(12)]
        assert Counter(row["status"] for row in rows) == report.by_status
        assert {row["shelf"] for row in rows} == {"0", "1", "2"}
        where = f"s3://{shop.destination.bucket}/products/{shop.name}/"
        assert [row["uri"] is None or row["uri"].startswith(where) for row in rows] == [True] * 12
        assert len(shop.images()) == 11
        assert len(n1n_gateway.ledger.calls) == 12
        stats = json.loads(shop.store.read("_stats.json") or b"{}")
        assert stats["by_status"] == report.by_status
        assert stats["spent_usd"] == pytest.approx(report.estimated_cost_usd)

        run = last_run()
        artifacts = artifacts_of(run)
        assert {*artifacts} == {f"batch-{shop.name}", f"batch-{shop.name}-progress"}
        page = artifacts[f"batch-{shop.name}"].data
        assert "refused" in page
        assert page.count("](data:image/webp") == 11
        assert "Draw animal" not in artifacts[f"batch-{shop.name}"].description
        assert artifacts[f"batch-{shop.name}-progress"].data == 100
        assert run.labels["n1n.batch"] == shop.name
        assert run.labels["n1n.failed"] == 1

    def test_a_few_task_runs_however_many_images(self, shop):
        shop.animals(12)
        shop.run(chunk_size=6)
        runs = task_runs_of(last_run())
        assert len(runs) <= 2  # the server may not know of the last one yet
        assert all(run.name.startswith("chunk 0000") for run in runs)

    def test_again_it_does_nothing_and_says_the_same(self, shop, n1n_gateway):
        shop.animals(7)
        first = shop.run(chunk_size=3)
        rows = shop.rows()
        again = shop.run(chunk_size=3)
        assert (again, shop.rows()) == (first, rows)
        assert task_runs_of(last_run()) == []
        assert len(n1n_gateway.ledger.calls) == 7

    def test_the_table_is_there_as_parquet(self, shop):
        parquet = pytest.importorskip("pyarrow.parquet")
        shop.animals(3)
        report = shop.run()
        table = parquet.read_table(io.BytesIO(shop.store.read("results.parquet") or b""))
        assert report.results_parquet == shop.store.uri_of("results.parquet")
        assert table.column("id").to_pylist() == ["sku-0", "sku-1", "sku-2"]
        assert table.column("shelf").to_pylist() == ["0", "1", "2"]


class TestInputs:
    def test_in_s3_are_read_as_the_destination_is_written(self, shop):
        shop.destination.get_client().put_object(
            Bucket=shop.destination.bucket, Key="in/fox.png", Body=encoded(photo(), "PNG")
        )
        shop.write({"id": "fox", "prompt": "Make it winter", "images": f"s3://{shop.destination.bucket}/in/fox.png"})
        assert shop.run().by_status == {"uploaded": 1}


class TestEvents:
    def test_tell_of_chunks_and_tables_and_of_no_single_image(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", match="animal 1")
        shop.animals(4)
        shop.run(chunk_size=2)
        resource = f"n1n.batch.{shop.name}"
        chunks = stored("n1n.batch.chunk", resource, 2)
        told = {event.payload["number"]: event.payload for event in chunks}
        assert told[0]["by_status"] == {"uploaded": 1, "refused": 1}
        assert [failure["id"] for failure in told[0]["first_failures"]] == ["sku-1"]
        assert told[1]["first_failures"] == []
        assert all(len(json.dumps(event.payload)) < 2000 for event in chunks)
        (ended,) = stored("n1n.batch.finished", resource, 1)
        assert (ended.payload["items"], ended.payload["failed"], ended.payload["left"]) == (4, 1, 0)
        (made,) = stored("prefect.asset.materialization.succeeded", shop.store.uri_of("results.jsonl"), 1)
        assert made.payload["items"] == 4
        with get_client(sync_client=True) as client:
            run = last_run()
            mine = EventFilter(related=EventRelatedFilter(id=[f"prefect.flow-run.{run.id}"]))
            names = {event.event for event in client.read_events(filter=mine, limit=50).events}
        assert not [name for name in names if name.startswith("n1n.image.")]


def stored(name: str, resource_id: str, count: int) -> list[Any]:
    """The events of a name about a resource, once there are so many."""
    wanted = EventFilter(event=EventNameFilter(name=[name]), resource=EventResourceFilter(id=[resource_id]))
    with get_client(sync_client=True) as client:
        for _ in range(240):
            found = client.read_events(filter=wanted, limit=50).events
            if len(found) >= count:
                return found
            time.sleep(0.25)
    pytest.fail(f"not {count} events {name} about {resource_id} within 60 s")


class TestDryRun:
    def test_says_what_it_would_cost_and_calls_and_writes_nothing(self, shop, n1n_gateway):
        shop.animals(100)
        state = shop.state(dry_run=True)
        report = state.result()
        assert "100 images" in state.message
        assert "$3.8" in state.message
        assert (report.is_dry_run, report.items, report.results) == (True, 100, "")
        assert report.estimated_cost_usd == pytest.approx(3.87, abs=0.1)
        assert n1n_gateway.ledger.calls == []
        assert [*shop.store.names()] == []

    def test_of_a_batch_that_has_begun_says_what_is_done(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", match="animal 1")
        shop.animals(3)
        shop.run()
        state = shop.state(dry_run=True)
        assert "Begun already: 2 uploaded, 1 refused; what was paid for is not paid again." in state.message
        assert state.result().by_status == {"uploaded": 2, "refused": 1}
        assert len(n1n_gateway.ledger.calls) == 3


class TestBadRows:
    def test_end_it_before_the_first_call_and_are_named_with_their_lines(self, shop, n1n_gateway):
        shop.write(
            {"id": "a", "prompt": "A fox", "aspect_ratio": "1:1"},
            {"id": "b", "prompt": "A cat", "aspect_ratio": "7:5"},
            {"id": "a", "prompt": "A dog", "aspect_ratio": ""},
        )
        with pytest.raises(InvalidRequestError) as caught:
            shop.run()
        assert "line 3" in str(caught.value)
        assert "line 4" in str(caught.value)
        assert n1n_gateway.ledger.calls == []

    def test_or_are_left_out(self, shop):
        shop.write({"id": "a", "prompt": "A fox"}, {"id": "b", "prompt": ""})
        report = shop.run(on_bad_rows="skip")
        assert (report.items, report.bad_rows, report.by_status) == (1, 1, {"uploaded": 1})


class TestRules:
    def test_hold_for_every_image(self, shop, n1n_gateway):
        shop.animals(2)
        with pytest.raises(N1nError, match="No image arrived"):
            shop.run(spec={"min_edge": 3000})
        assert {row["status"] for row in shop.rows()} == {"invalid"}
        assert shop.run(spec={"min_edge": 300}, only_failed=True).by_status == {"uploaded": 2}
        assert len(n1n_gateway.ledger.calls) == 2, "what was paid is looked at again before another is"

    def test_that_nothing_can_keep_are_refused_at_once(self, shop, n1n_gateway):
        shop.animals(2)
        with pytest.raises((InvalidRequestError, ParameterTypeError), match="min_edge"):
            shop.run(spec={"min_edge": 300, "max_edge": 200})
        assert n1n_gateway.ledger.calls == []


class TestRepair:
    def test_only_failed_asks_anew_for_what_was_refused_and_leaves_the_rest(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", 1, match="animal 2")
        shop.animals(6)
        assert shop.run(chunk_size=4).by_status == {"uploaded": 5, "refused": 1}
        assert shop.run(chunk_size=4).by_status == {"uploaded": 5, "refused": 1}
        assert len(n1n_gateway.ledger.calls) == 6
        assert shop.run(chunk_size=4, only_failed=True).by_status == {"uploaded": 6}
        assert len(n1n_gateway.ledger.calls) == 7

    def test_of_a_batch_that_never_ran_is_refused(self, shop, n1n_gateway):
        shop.animals(3)
        with pytest.raises(InvalidRequestError, match="has no results"):
            shop.run(only_failed=True)
        with pytest.raises(InvalidRequestError, match="without only_failed"):
            shop.run(only_statuses=["refused"])
        assert n1n_gateway.ledger.calls == []


class TestCeiling:
    def test_ends_it_cleanly_and_more_money_goes_on(self, shop, n1n_gateway):
        shop.animals(10)
        state = shop.state(max_usd=0.2, chunk_size=4)
        assert (state.name, state.type.value) == ("OverBudget", "FAILED")
        with pytest.raises(BudgetExceededError, match=r"are left.*run batch"):
            state.result()
        assert n1n_gateway.ledger.usd <= 0.2
        paid = len(n1n_gateway.ledger.calls)
        assert paid == 5
        assert Counter(row["status"] for row in shop.rows())["uploaded"] == paid
        assert len(shop.rows()) == 10
        assert shop.state(max_usd=0.2, chunk_size=4).name == "OverBudget"
        assert len(n1n_gateway.ledger.calls) == paid, "it counts what earlier runs have spent"
        assert shop.run(max_usd=1.0, chunk_size=4).by_status.keys() <= {"uploaded", "already_there"}
        assert len(n1n_gateway.ledger.calls) == 10

    def test_holds_over_all_runs_whatever_becomes_of_the_table(self, shop, n1n_gateway):
        shop.animals(4)
        shop.run(max_usd=1)
        spent = n1n_gateway.ledger.usd
        shop.write(*({"id": f"new-{n}", "prompt": f"Draw another {n}"} for n in range(6)))
        for _ in range(2):
            state = shop.state(max_usd=spent + 0.09, chunk_size=3)
            assert state.name == "OverBudget"
            assert n1n_gateway.ledger.usd <= spent + 0.09

    def test_is_not_counted_twice_once_chunks_are_larger(self, shop, n1n_gateway):
        shop.animals(4)
        done = shop.run(max_usd=1, chunk_size=1)
        for _ in range(2):
            assert shop.run(max_usd=done.estimated_cost_usd + 0.15, chunk_size=4).left == 0
        shop.animals(6)
        assert shop.run(max_usd=done.estimated_cost_usd + 0.15, chunk_size=4).left == 0
        assert len(n1n_gateway.ledger.calls) == 6

    def test_a_repair_without_money_has_repaired_nothing(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", match="animal 1")
        shop.animals(3)
        done = shop.run(max_usd=1)
        state = shop.state(only_failed=True, max_usd=done.estimated_cost_usd)
        assert state.name == "OverBudget"
        assert "1 chunk was not carried out. The next call would pass max_usd=" in state.message
        assert len(n1n_gateway.ledger.calls) == 3


class TestEnds:
    def test_a_wrong_key_fails_it_and_says_how_to_go_on(self, shop, n1n_gateway):
        shop.animals(5)
        right, shop.credentials = shop.credentials, N1nCredentials(api_key="sk-wrong", base_url=n1n_gateway.base_url)
        state = shop.state()
        assert state.name == "Failed"
        assert "5 are left" in state.message
        assert f"run batch '{shop.name}' once more" in state.message
        shop.credentials = right
        assert shop.run().by_status == {"uploaded": 5}

    def test_no_image_at_all_is_a_failure(self, shop, n1n_gateway):
        n1n_gateway.faults.add("safety", None)
        shop.animals(2)
        with pytest.raises(N1nError, match="No image arrived"):
            shop.run()

    def test_a_bucket_that_is_not_there_has_cost_nothing(self, shop, n1n_gateway):
        shop.animals(2)
        shop.destination = shop.destination.model_copy(update={"bucket": "no-such-bucket"})
        with pytest.raises(UploadError, match=r"there is no bucket 'no-such-bucket'.* Not charged\.$") as caught:
            shop.run()
        assert caught.value.charged == "no"
        assert n1n_gateway.ledger.calls == []

    def test_another_manifest_of_the_same_name_is_refused(self, shop, n1n_gateway):
        shop.animals(1)
        shop.run()
        other = shop.manifest.parent / "tuesday"
        other.mkdir()
        (other / shop.manifest.name).write_text("prompt\nDraw an owl\n")
        given = (f"tuesday/{shop.manifest.name}", shop.credentials, shop.destination)
        with pytest.raises(InvalidRequestError, match=r"was made of .* Give it a batch_id of its own"):
            batch_to_s3(*given)
        assert len(n1n_gateway.ledger.calls) == 1
        assert batch_to_s3(*given, batch_id=shop.name).by_status == {"uploaded": 1}

    def test_another_batch_s_folder_is_refused(self, shop, n1n_gateway):
        shop.animals(2)
        shop.run(prefix="autumn")
        with pytest.raises(InvalidRequestError, match="belongs to batch"):
            shop.run(batch_id="other", prefix="autumn")
        assert len(n1n_gateway.ledger.calls) == 2


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("week-46.csv", "week-46"),
        ("s3://bucket/in/Week 46 (final).parquet", "Week-46-final"),
        ("a/b/prompts.jsonl.gz", "prompts"),
        ("Füchse.csv", "F-chse"),
    ],
)
def test_a_batch_without_a_name_has_that_of_its_manifest(manifest, name):
    assert named_after(manifest) == name


def test_a_manifest_whose_name_cannot_be_a_batch_s_asks_for_one():
    with pytest.raises(
        InvalidRequestError, match=r"No batch can be called '日本' after its manifest; name it by batch_"
    ):
        named_after("日本.csv")
