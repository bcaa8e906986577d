import gzip
import hashlib
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from n1n_prefect.batch.manifest import open_manifest
from n1n_prefect.batch.text_rows import RawRow
from n1n_prefect.errors import InvalidRequestError, SourceError
from n1n_prefect.sources import SourceRules
from tests.s3_servers import Answer

CSV = b"id,prompt\na,A fox\n"
FOX = {"id": "a", "prompt": "A fox"}


@pytest.fixture
def put(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return name

    return put


def rows_of(uri, **options):
    with open_manifest(uri, **options) as manifest:
        return list(manifest.rows)


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "data", "line"),
        [
            ("m.csv", CSV, 2),
            ("M.CSV", CSV, 2),
            ("m.tsv", CSV.replace(b",", b"\t"), 2),
            ("m.jsonl", b'{"id": "a", "prompt": "A fox"}', 1),
            ("m.ndjson", b'{"id": "a", "prompt": "A fox"}\n', 1),
            ("m.csv.gz", gzip.compress(CSV), 2),
            ("m.tsv.gz", gzip.compress(CSV.replace(b",", b"\t")), 2),
            ("m.jsonl.gz", gzip.compress(b'{"id": "a", "prompt": "A fox"}'), 1),
        ],
    )
    def test_by_the_end_of_the_name(self, put, name, data, line):
        assert rows_of(put(name, data)) == [RawRow(line, FOX)]

    def test_parquet(self, put, tmp_path):
        pq.write_table(pa.table({"id": ["a"], "prompt": ["A fox"]}), tmp_path / "m.parquet")
        assert rows_of("m.parquet") == [RawRow(1, FOX)]

    @pytest.mark.parametrize("name", ["m.txt", "m", "m.xlsx", "m.csv.zip", "m.parquet.gz", "m.json", "csv"])
    def test_another_name_is_refused_with_those_that_are_taken(self, name):
        with pytest.raises(InvalidRequestError, match=r"no manifest by its name; give one that ends in \.csv, \.tsv"):
            rows_of(name)


class TestManifest:
    def test_what_it_says_of_the_file(self, put):
        with open_manifest(put("m.csv", CSV)) as manifest:
            assert (manifest.uri, manifest.format, manifest.columns) == ("m.csv", ".csv", ("id", "prompt"))
            assert (manifest.sha256, manifest.size_bytes) == (hashlib.sha256(CSV).hexdigest(), len(CSV))

    def test_json_lines_have_no_columns_of_their_own(self, put):
        with open_manifest(put("m.jsonl", b'"A fox"')) as manifest:
            assert manifest.columns is None

    @pytest.mark.parametrize(("name", "data"), [("m.csv", b"id,prompt\n"), ("m.jsonl", b""), ("m.jsonl", b"\n\n")])
    def test_no_rows(self, put, name, data):
        with pytest.raises(InvalidRequestError, match=rf"{name} has no rows; write one for each image"):
            rows_of(put(name, data))

    def test_one_that_grows_while_it_is_read(self, put, tmp_path):
        with open_manifest(put("m.csv", CSV)) as manifest:
            next(manifest.rows)
            with (tmp_path / "m.csv").open("ab") as file:
                file.write(b"b,An owl\n")
            with pytest.raises(InvalidRequestError, match=r"m\.csv was changed while it was read"):
                list(manifest.rows)


class TestPlaces:
    def test_a_path_below_a_root(self, tmp_path):
        (tmp_path / "m.csv").write_bytes(CSV)
        assert rows_of(tmp_path / "m.csv", rules=SourceRules(roots=(tmp_path,))) == [RawRow(2, FOX)]

    def test_a_path_elsewhere(self, tmp_path):
        (tmp_path / "m.csv").write_bytes(CSV)
        with pytest.raises(SourceError, match="outside"):
            rows_of(tmp_path / "m.csv", rules=SourceRules(roots=(tmp_path / "in",)))

    @pytest.mark.parametrize("uri", ["https://example.com/m.csv", "gs://bucket/m.csv", "file:///tmp/m.csv"])
    def test_other_addresses(self, uri):
        with pytest.raises(InvalidRequestError, match=r"is not read; give a local path .* or s3://bucket/key"):
            rows_of(uri)

    def test_s3_without_a_location(self):
        with pytest.raises(InvalidRequestError, match="pass source= an S3Location"):
            rows_of("s3://bucket/m.csv")


class TestS3:
    def test_any_bucket_of_the_location(self, s3_location, moto_client):
        moto_client.put_object(Bucket=s3_location.bucket, Key="ein/größer.csv", Body=CSV)
        uri = f"s3://{s3_location.bucket}/ein/größer.csv"
        with open_manifest(uri, source=s3_location) as manifest:
            assert (manifest.uri, manifest.sha256) == (uri, hashlib.sha256(CSV).hexdigest())
            assert list(manifest.rows) == [RawRow(2, FOX)]

    def test_it_is_fetched_whole_and_nothing_is_left_behind(self, s3_location, moto_client, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        data = b"prompt\n" + (b"A fox " * 200 + b"\n") * 9_000  # boto3 fetches more than 8 MB in parts
        moto_client.put_object(Bucket=s3_location.bucket, Key="m.csv", Body=data)
        with open_manifest(f"s3://{s3_location.bucket}/m.csv", source=s3_location) as manifest:
            moto_client.delete_object(Bucket=s3_location.bucket, Key="m.csv")
            assert sum(1 for _ in manifest.rows) == 9_000
        assert list(Path(tmp_path).iterdir()) == []

    def test_none_there(self, s3_location):
        with pytest.raises(SourceError, match=rf"Could not read s3://{s3_location.bucket}/m\.csv: there is no such"):
            rows_of(f"s3://{s3_location.bucket}/m.csv", source=s3_location)

    def test_no_address_of_an_object(self, s3_location):
        with pytest.raises(SourceError, match="needs a bucket and a key"):
            rows_of("s3://m.csv", source=s3_location)

    def test_one_that_is_far_too_long_is_not_fetched(self, scripted_store):
        scripted_store.says(Answer(headers={"Content-Length": str(17 * 1024**3)}))
        with pytest.raises(InvalidRequestError, match="18,253,611,008 bytes, and at most 17,179,869,184 are read"):
            rows_of("s3://bucket/m.csv", source=scripted_store.server.location("bucket"))
        assert scripted_store.methods == ["HEAD"]

    def test_one_that_keeps_breaking_off_is_worth_another_try(self, scripted_store):
        broken = Answer(headers={"Content-Length": "1000", "ETag": '"e"'}, body=b"id,prompt\n", breaks_off=True)
        scripted_store.says(*[broken] * 8)
        with pytest.raises(SourceError, match="broke off several times while it was read") as caught:
            rows_of("s3://bucket/m.csv", source=scripted_store.server.location("bucket"))
        assert caught.value.is_transient
