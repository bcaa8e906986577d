import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from n1n_prefect.batch.ownership import OWNER, checked_batch_id, claim, is_claimed
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError
from tests.s3_servers import new_bucket


@pytest.fixture
def store(s3_location):
    return BatchStore(s3_location, "products/week-46")


class TestBatchId:
    @pytest.mark.parametrize("batch_id", ["a", "week-46", "2026.11_b", "x" * 100])
    def test_names_of_folders(self, batch_id):
        assert checked_batch_id(batch_id) == batch_id

    @pytest.mark.parametrize("batch_id", ["", "a/b", "..", ".a", "-a", "a b", "ä", "x" * 101, "a\n", 5, None])
    def test_others(self, batch_id):
        with pytest.raises(InvalidRequestError, match="is no name of a folder; write 1 to 100 letters"):
            checked_batch_id(batch_id)


class TestClaim:
    def test_nobody_s_becomes_ours_and_stays_ours(self, store):
        assert not is_claimed(store, "week-46")
        claim(store, "week-46")
        written = store.read(OWNER)
        document = json.loads(written)
        assert (document["batch_id"], document["schema"], sorted(document)) == (
            "week-46", 1, ["batch_id", "created", "schema"],
        )  # fmt: skip
        claim(store, "week-46")
        assert is_claimed(store, "week-46")
        assert store.read(OWNER) == written

    def test_another_s_is_named_with_what_to_do(self, store):
        claim(store, "week-45")
        for ask in (claim, is_claimed):
            with pytest.raises(
                InvalidRequestError,
                match=r"s3://.*/products/week-46 belongs to batch 'week-45', not to 'week-46'; choose another prefix",
            ):
                ask(store, "week-46")

    @pytest.mark.parametrize(
        "data", [b"", b"\xff", b"{", b"[]", b'{"batch_id": "week-46"}', b'{"batch_id": 5, "schema": 1}', b"[" * 99_999]
    )
    def test_a_document_of_something_else_is_left_alone(self, store, data):
        store.write(OWNER, data)
        with pytest.raises(InvalidRequestError, match=r"batch\.json was not written by a batch, so .* is not taken"):
            claim(store, "week-46")
        assert store.read(OWNER) == data

    def test_of_many_at_the_same_moment_one_gets_it(self, store):
        def outcome(batch_id):
            try:
                claim(store, batch_id)
            except InvalidRequestError:
                return None
            return batch_id

        with ThreadPoolExecutor(8) as pool:
            winners = [batch_id for batch_id in pool.map(outcome, [f"b{number}" for number in range(8)]) if batch_id]
        assert len(winners) == 1
        assert json.loads(store.read(OWNER))["batch_id"] == winners[0]

    def test_a_store_that_knows_no_condition(self, rclone_server, rclone_client):
        store = BatchStore(rclone_server.location(new_bucket(rclone_client), checksum="md5"), "b")
        claim(store, "b")
        claim(store, "b")
        with pytest.raises(InvalidRequestError, match="belongs to batch 'b'"):
            claim(store, "c")
