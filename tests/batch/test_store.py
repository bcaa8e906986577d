"""A batch's documents in a bucket, on a real S3 server."""

from pathlib import Path
from typing import Any

import pytest

from n1n_prefect import UploadError
from n1n_prefect.batch.store import BatchStore
from tests.s3_servers import S3Server, new_bucket


@pytest.fixture
def store(moto_server: S3Server, moto_client: Any) -> BatchStore:
    return BatchStore(moto_server.location(new_bucket(moto_client)), "products/week-46")


def test_a_document_comes_back(store: BatchStore) -> None:
    store.write("plan.json", b"{}")
    assert store.read("plan.json") == b"{}"
    assert store.uri_of("plan.json") == f"s3://{store.location.bucket}/products/week-46/plan.json"
    assert store.uri_of() == f"s3://{store.location.bucket}/products/week-46"


def test_absence_is_no_error(store: BatchStore) -> None:
    assert store.read("plan.json") is None
    store.delete("plan.json")


def test_its_age_is_by_the_store_s_clock(store: BatchStore) -> None:
    assert store.age("plan.json") is None
    store.write("plan.json", b"{}")
    age = store.age("plan.json")
    assert age is not None
    assert 0 <= age < 600


def test_a_bucket_that_is_not_there_is_one(moto_server: S3Server) -> None:
    nowhere = BatchStore(moto_server.location("no-such-bucket-of-ours"), "x")
    with pytest.raises(UploadError, match="no-such-bucket-of-ours"):
        nowhere.read("plan.json")
    with pytest.raises(UploadError, match="no-such-bucket-of-ours"):
        nowhere.write("plan.json", b"")


def test_a_later_document_takes_the_place_of_an_earlier(store: BatchStore) -> None:
    store.write("plan.json", b"one")
    store.write("plan.json", b"two")
    assert store.read("plan.json") == b"two"
    store.delete("plan.json")
    assert store.read("plan.json") is None


def test_a_file_is_put_with_its_type_and_what_the_location_says(
    moto_server: S3Server, moto_client: Any, tmp_path: Path
) -> None:
    bucket = new_bucket(moto_client)
    store = BatchStore(moto_server.location(bucket, storage_class="STANDARD_IA", tags={"team": "shop"}), "b")
    path = tmp_path / "table"
    path.write_bytes(b"x" * 9_000_000)  # long enough to go in pieces
    store.write_file("results.jsonl", path, "application/x-ndjson")
    store.write("_stats.json", b"{}")
    for name, kind in (("results.jsonl", "application/x-ndjson"), ("_stats.json", "application/json")):
        head = moto_client.head_object(Bucket=bucket, Key=f"b/{name}")
        assert (head["ContentType"], head["StorageClass"]) == (kind, "STANDARD_IA")
        tags = moto_client.get_object_tagging(Bucket=bucket, Key=f"b/{name}")["TagSet"]
        assert tags == [{"Key": "team", "Value": "shop"}]
    assert moto_client.head_object(Bucket=bucket, Key="b/results.jsonl")["ContentLength"] == 9_000_000


def test_a_file_that_the_store_refuses_is_an_error_of_ours(moto_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"x")
    with pytest.raises(UploadError, match="no-such-bucket-of-ours"):
        BatchStore(moto_server.location("no-such-bucket-of-ours"), "x").write_file(
            "t", tmp_path / "table", "text/plain"
        )
