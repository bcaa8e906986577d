import errno
import hashlib
import json
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from n1n_prefect import N1nCredentials
from n1n_prefect.batch import plan as plan_module
from n1n_prefect.batch.items import Item
from n1n_prefect.batch.ownership import claim
from n1n_prefect.batch.plan import Plan, make_plan, read_chunk, read_plan
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError, SourceError, StagingError, UploadError
from n1n_prefect.images import ImageRequest
from n1n_prefect.pricing import CostEstimate, estimate_cost
from n1n_prefect.variants import Variant

PRO, LITE = "gemini-3-pro-image", "gemini-3.1-flash-lite-image"


@pytest.fixture
def store(s3_location):
    return BatchStore(s3_location, "products/week-46")


@pytest.fixture
def plan(tmp_path, monkeypatch, store):
    """Plans a manifest of this text, or one that is at this path or in S3."""
    monkeypatch.chdir(tmp_path)

    def plan(manifest, *, name="m.csv", **options):
        if isinstance(manifest, str) and not manifest.startswith("s3://"):
            (tmp_path / name).write_text(manifest, "utf-8")
            manifest = name
        given = {"batch_id": "week-46", "store": store, "destination": store.location, **options}
        return make_plan(manifest, **given)

    return plan


def documents(store):
    client, bucket = store.location.get_client(), store.location.bucket
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted(found["Key"].removeprefix(f"{store.folder}/") for found in listed)


def csv_of(rows, *, bad=()):
    return "id,prompt\n" + "".join(f"r{row},{'' if row in bad else f'A fox number {row}'}\n" for row in range(rows))


class TestMake:
    def test_a_plan_and_its_chunks(self, plan, store):
        made = plan(csv_of(5), chunk_size=2, credentials=N1nCredentials(api_key="k" * 20, price_factor=0.5))
        requests = [ImageRequest(f"A fox number {row}") for row in range(5)]
        data = csv_of(5).encode()
        assert made == Plan(
            batch_id="week-46",
            manifest="m.csv",
            manifest_sha256=hashlib.sha256(data).hexdigest(),
            manifest_bytes=len(data),
            items=5,
            bad_rows=0,
            chunks=3,
            chunk_size=2,
            chunk_digests=made.chunk_digests,
            estimate=estimate_cost(requests, credentials=N1nCredentials(api_key="k" * 20, price_factor=0.5)),
        )
        assert read_plan(store) == made
        items = [item for number in range(3) for item in read_chunk(store, number)]
        assert items == [Item(f"r{row}", row + 2, request) for row, request in enumerate(requests)]
        assert len({*made.chunk_digests}) == 3
        with pytest.raises(InvalidRequestError, match="planned anew"):
            read_chunk(store, 0, made.chunk_digests[1])
        assert read_chunk(store, 1, made.chunk_digests[1]) == items[2:4]
        assert documents(store) == [
            "_batch/batch.json", "_batch/plan.json", *(f"_batch/plan/0000{number}.jsonl" for number in range(3)),
            "bad_rows.jsonl",
        ]  # fmt: skip
        assert store.read("bad_rows.jsonl") == b""

    def test_everything_that_a_row_can_say(self, plan, store):
        made = plan(
            "id,prompt,images,model,aspect_ratio,image_size,extra_body,key,variants,farbe,menge\n"
            f'ä-1,"Füchse\nim Schnee",https://example.com/a.png,{PRO},16:9,4K,"{{""a"": [1]}}",'
            "ein/größer.png,web,rot,5\n",
            variants=[Variant("thumb", 64), Variant("web", 64)],
        )
        request = ImageRequest(
            "Füchse\nim Schnee",
            ("https://example.com/a.png",),
            PRO,
            "16:9",
            "4K",
            extra_body={"a": [1]},
        )
        assert read_chunk(store, 0) == [
            Item(
                "ä-1",
                2,
                request,
                "ein/größer.png",
                ("web",),
                {"farbe": "rot", "menge": "5"},
                beside=hashlib.sha256(b"web=fit 64x webp").hexdigest()[:8],
            )
        ]
        assert made.carried == {"farbe": "text", "menge": "text"}

    def test_mixed_models_and_repeats(self, plan, store):
        rows = [{"prompt": "A fox", "model": model, "n": 1} for model in (PRO, LITE, PRO, "new")]
        made = plan("\n".join(map(json.dumps, rows)), name="m.jsonl")
        assert (made.items, made.repeated, made.by_model) == (4, 1, {PRO: 2, LITE: 1, "new": 1})
        assert (made.estimate.unpriced, made.carried) == (("new",), {"n": "number"})
        assert len({item.id for item in read_chunk(store, 0)}) == 4

    def test_parquet(self, plan, store, tmp_path):
        pq.write_table(pa.table({"prompt": ["A fox", "An owl"], "day": pa.array([1, 2], pa.date32())}), "m.parquet")
        assert plan(tmp_path / "m.parquet").carried == {"day": "text"}
        assert [item.carried for item in read_chunk(store, 0)] == [{"day": "1970-01-02"}, {"day": "1970-01-03"}]

    def test_a_manifest_in_the_destination_s_store(self, plan, store, moto_client):
        moto_client.put_object(Bucket=store.location.bucket, Key="in/m.csv", Body=csv_of(2).encode())
        uri = f"s3://{store.location.bucket}/in/m.csv"
        made = plan(uri)
        assert (made.manifest, made.items) == (uri, 2)

    def test_defaults(self, plan, store):
        plan("id,images\na,https://example.com/a.png\n", defaults={"prompt": "Make it winter", "model": PRO})
        assert read_chunk(store, 0)[0].request == ImageRequest(
            "Make it winter", ("https://example.com/a.png",), model=PRO
        )

    def test_a_shorter_plan_in_the_place_of_a_longer_one(self, plan, store):
        plan(csv_of(4), chunk_size=1)
        assert plan(csv_of(2), chunk_size=1).chunks == 2
        assert read_plan(store).chunks == 2
        assert "_batch/plan/00003.jsonl" in documents(store)  # left over, and not counted


class TestBadRows:
    def test_strict_lists_them_and_writes_no_plan(self, plan, store):
        with pytest.raises(InvalidRequestError) as caught:
            plan(csv_of(30, bad=range(25)))
        lines = str(caught.value).splitlines()
        assert lines[0] == (
            "m.csv has 25 bad rows of 30, and nothing was spent. Correct them, or leave them out with "
            f"on_bad_rows='skip' (--skip-bad-rows). All of them are in {store.uri_of('bad_rows.jsonl')}"
        )
        assert lines[1] == "line 2 (id 'r0'): prompt is empty; say what to draw."
        assert (len(lines), lines[-1]) == (22, "and 5 more")
        assert documents(store) == ["_batch/batch.json", "bad_rows.jsonl"]
        written = [json.loads(line) for line in store.read("bad_rows.jsonl").splitlines()]
        assert [(row["line"], row["id"]) for row in written] == [(row + 2, f"r{row}") for row in range(25)]

    def test_strict_leaves_an_earlier_plan_as_it_was(self, plan, store):
        made = plan(csv_of(3))
        with pytest.raises(InvalidRequestError, match="1 bad row of 4"):
            plan(csv_of(4, bad=[2]))
        assert read_plan(store) == made
        assert len(read_chunk(store, 0)) == 3

    def test_skip_goes_on_with_the_others(self, plan, store):
        made = plan(csv_of(5, bad=[1, 3]), on_bad_rows="skip", chunk_size=2)
        assert (made.items, made.bad_rows, made.rows, made.chunks, made.estimate.images) == (3, 2, 5, 2, 3)
        assert [item.id for number in range(2) for item in read_chunk(store, number)] == ["r0", "r2", "r4"]
        assert len(store.read("bad_rows.jsonl").splitlines()) == 2

    def test_skip_with_nothing_left(self, plan, store):
        with pytest.raises(InvalidRequestError, match=r"2 bad rows of 2, and nothing was spent\. Correct them\. All"):
            plan(csv_of(2, bad=[0, 1]), on_bad_rows="skip")
        assert read_plan(store) is None

    def test_those_of_before_are_gone_with_the_next_plan(self, plan, store):
        plan(csv_of(3, bad=[1]), on_bad_rows="skip")
        plan(csv_of(3))
        assert store.read("bad_rows.jsonl") == b""

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("id,prompt\na,A fox\na,An owl\n", r"line 3 \(id 'a'\): id='a' is also that of line 2; give every row its"),
            ("id,prompt,key\na,p,x.png\nb,q,x.png\n", r"line 3 \(id 'b'\): key='x.png' is also that of line 2"),
            ("id,prompt,images\na,p,gone.png\n", r"line 2 \(id 'a'\): 'gone.png' does not exist; correct the path"),
            ("id,prompt\na,A fox, red\n", r"line 2 \(id 'a'\): Its cells are 3 for 2 columns"),
            ("id,prompt,image_size\na,p,2K\n", r"line 2 \(id 'a'\): image_size='2K' is not something"),
        ],
    )
    def test_each_kind_is_named_with_line_and_remedy(self, plan, text, said):
        with pytest.raises(InvalidRequestError, match=said):
            plan(text)

    def test_inputs_in_s3_are_looked_for(self, plan, store, moto_client):
        bucket = store.location.bucket
        moto_client.put_object(Bucket=bucket, Key="a.png", Body=b"a cat")
        text = f"id,prompt,image\na,p,s3://{bucket}/a.png\nb,p,s3://{bucket}/gone.png\n"
        with pytest.raises(InvalidRequestError, match=r"line 3 \(id 'b'\): Could not find s3://.*gone\.png: there is"):
            plan(text)
        assert plan(text, check_inputs=False).items == 2


class TestBadManifest:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", r"m\.csv is empty"),
            ("id,prompt\n", r"m\.csv has no rows"),
            ("a,A fox\nb,An owl\n", r"m\.csv, line 1: it is to name the columns and has 'a', 'A fox', none of which"),
            ("id,promt\na,A fox\n", r"m\.csv, line 1: column 'promt' is most likely 'prompt'"),
            ("id,prompt,status\na,A fox,new\n", r"m\.csv, line 1: column 'status' .* rename it"),
            (csv_of(11), r"m\.csv has more than 10 rows; split it into several batches"),
        ],
    )
    def test_it_is_named_and_nothing_is_written(self, plan, store, text, said):
        with pytest.raises(InvalidRequestError, match=said):
            plan(text, reserved=["status"], max_items=10)
        assert documents(store) == ["_batch/batch.json"]

    def test_as_many_rows_as_are_taken(self, plan):
        assert plan(csv_of(10), max_items=10).items == 10

    def test_the_columns_of_a_parquet(self, plan, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pq.write_table(pa.table({"promt": ["A fox"]}), "m.parquet")
        with pytest.raises(InvalidRequestError, match=r"m\.parquet, columns: column 'promt' is most likely"):
            plan(tmp_path / "m.parquet")

    def test_none_there(self, plan, tmp_path):
        with pytest.raises(SourceError, match="does not exist"):
            plan(tmp_path / "gone.csv")


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"chunk_size": 0}, "chunk_size=0 must be a whole number of at least 1"),
            ({"max_items": 1.5}, "max_items=1.5 must be"),
            ({"chunk_size": True}, "chunk_size=True must be"),
            ({"on_bad_rows": "ignore"}, "on_bad_rows='ignore' is neither"),
            ({"batch_id": "a/b"}, "is no name of a folder"),
            ({"defaults": {"ratio": "1:1"}}, "there is no field 'ratio'"),
            ({"credentials": "key"}, "credentials must be an N1nCredentials block"),
        ],
    )
    def test_wrong_ones_are_refused(self, plan, options, said):
        with pytest.raises(InvalidRequestError, match=said):
            plan(csv_of(1), **options)

    def test_another_batch_s_folder(self, plan, store):
        claim(store, "week-45")
        for dry_run in (True, False):
            with pytest.raises(InvalidRequestError, match="belongs to batch 'week-45'"):
                plan(csv_of(1), dry_run=dry_run)
        assert documents(store) == ["_batch/batch.json"]

    def test_more_chunks_than_have_names(self, plan, monkeypatch):
        monkeypatch.setattr(plan_module, "_MAX_CHUNKS", 2)
        with pytest.raises(
            InvalidRequestError, match="3 items make 3 chunks, and at most 2 are kept; raise chunk_size=1"
        ):
            plan(csv_of(3), chunk_size=1)


class TestDryRun:
    def test_the_same_plan_and_nothing_written(self, plan, store):
        dry = plan(csv_of(5, bad=[1]), on_bad_rows="skip", dry_run=True)
        assert documents(store) == []
        assert dry == plan(csv_of(5, bad=[1]), on_bad_rows="skip")

    def test_bad_rows_are_said(self, plan, store):
        with pytest.raises(
            InvalidRequestError, match=r"1 bad row of 5, .* on_bad_rows='skip' \(--skip-bad-rows\)\.\nline 3"
        ):
            plan(csv_of(5, bad=[1]), dry_run=True)
        assert documents(store) == []


class TestKilled:
    def test_half_a_plan_is_none(self, plan, store, monkeypatch):
        plan(csv_of(4), chunk_size=1)
        write = BatchStore.write

        def breaks_off(self, name, data, media_type="application/json"):
            if name == "_batch/plan/00002.jsonl":
                raise UploadError("The store is gone.")
            write(self, name, data, media_type)

        monkeypatch.setattr(BatchStore, "write", breaks_off)
        with pytest.raises(UploadError):
            plan(csv_of(6), chunk_size=1)
        assert read_plan(store) is None
        monkeypatch.undo()

    @pytest.mark.parametrize(
        "full", [OSError(errno.ENOSPC, "No space"), sqlite3.OperationalError("database or disk is full")]
    )
    def test_a_full_disk_is_said(self, plan, monkeypatch, full):
        def add(self, row):
            raise full

        monkeypatch.setattr("n1n_prefect.batch.drafting.Draft.add", add)
        with pytest.raises(StagingError, match=r"no room left .* point TMPDIR to a larger disk") as caught:
            plan(csv_of(1))
        assert not caught.value.is_transient


class TestRead:
    def test_none(self, store):
        assert read_plan(store) is None

    @pytest.mark.parametrize("data", [b"{}", b"", b"{", b'{"batch_id": 5}'])
    def test_one_of_another_release(self, store, data):
        store.write("_batch/plan.json", data)
        with pytest.raises(InvalidRequestError, match=r"plan\.json is no plan that this release reads; go on with"):
            read_plan(store)

    @pytest.mark.parametrize("data", [None, b"", b'{"id": "a"}', b"\xff"])
    def test_a_chunk_that_is_gone_or_damaged(self, plan, store, data):
        plan(csv_of(1))
        if data is not None:
            store.write("_batch/plan/00001.jsonl", data)
        with pytest.raises(
            InvalidRequestError, match=r"_batch/plan/00001\.jsonl is missing or damaged; delete s3://.*plan\.json"
        ):
            read_chunk(store, 1)


def planned(**fields):
    by_model = {PRO: CostEstimate(1000, 134.4, 403.2, 20), "new": CostEstimate(200, 0, 0, 0, ("new",))}
    estimate = CostEstimate(1200, 134.4, 403.2, 20, ("new",), by_model)
    return Plan(**{
        "batch_id": "b", "manifest": "in/m.csv", "manifest_sha256": "0" * 64, "manifest_bytes": 1, "items": 1220,
        "bad_rows": 3, "chunks": 13, "chunk_size": 100, "chunk_digests": (), "estimate": estimate, **fields,
    })  # fmt: skip


class TestPlan:
    def test_hours_of_known_and_unknown_models(self):
        assert planned().hours(1) == pytest.approx((1000 * 23 + 200 * 20) / 3600)
        assert planned().hours(10) == pytest.approx(planned().hours(1) / 10)
        assert planned(estimate=CostEstimate()).hours(8) == 0

    def test_in_words(self):
        assert planned().summary(in_flight=4) == (
            f"1,220 images from in/m.csv (1,020 of {PRO}, 200 of new): about $134.40 and 1.9 hours with 4 calls at "
            "once. At most $403.20, if every call were lost or imageless as often as allowed. The dollars leave out "
            "new, whose price is not known. Equal to an earlier row, and so sharing its image: 20; another sample "
            "draws anew. Left out: 3 bad rows; bad_rows.jsonl says why."
        )
        assert str(planned()).startswith("1,220 images")

    @pytest.mark.parametrize(
        ("images", "words"), [(1, "less than a minute"), (100, "5 minutes"), (10_000, "8.0 hours")]
    )
    def test_time_in_words(self, images, words):
        estimate = CostEstimate(images, 1, 1, by_model={PRO: CostEstimate(images, 1, 1)})
        assert f"$1.00 and {words} with 8 calls" in str(planned(estimate=estimate, bad_rows=0))
