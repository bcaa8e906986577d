from n1n_prefect.batch.items import Item
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.batch.tally import Tally, new_tally, tally_of
from n1n_prefect.images import ImageOutcome, ImageRequest


def result(status="uploaded", usd=0.04):
    item = Item("fox", 2, ImageRequest("A fox"))
    outcome = ImageOutcome("fox", status, estimated_cost_usd=usd)
    return ItemResult.of(item, outcome, seconds=1.0, waited_seconds=0.0)


def test_counts_items_as_they_end():
    tally = Tally()
    tally.add(0, result())
    tally.add(1, result("refused", None))
    tally.add(1, ItemResult.pending(Item("cat", 3, ImageRequest("A cat"))))
    assert tally.sums() == ({"uploaded": 1, "refused": 1}, 0.04)
    assert tally.fresh == 2


def test_a_chunk_that_ended_is_counted_once():
    tally = Tally()
    tally.add(0, result())
    tally.close(0, {"uploaded": 2, "pending": 3}, 0.08)
    assert tally.sums() == ({"uploaded": 2}, 0.08)
    assert tally.fresh == 1


def test_a_chunk_that_is_carried_out_once_more_is_not_counted_twice():
    tally = Tally()
    tally.close(0, {"uploaded": 2, "over_budget": 1}, 0.08)
    tally.reopen({"uploaded": 2, "over_budget": 1}, 0.08)
    tally.close(0, {"uploaded": 3}, 0.12)
    by_status, usd = tally.sums()
    assert (+by_status, round(usd, 6)) == ({"uploaded": 3}, 0.12)


def test_says_where_the_batch_stands():
    tally = Tally()
    tally.started -= 100
    tally.close(0, {"uploaded": 400, "no_image": 100}, 15.6, fresh=500)
    assert tally.sentence(10_000) == (
        "500 of 10,000 images have ended: 400 uploaded, 100 no image. $15.60 so far. 5.0 images/s; about 32 min left."
    )


def test_says_nothing_of_speed_before_there_is_one():
    assert Tally().sentence(10) == "0 of 10 images have ended."


def test_each_run_of_a_batch_begins_at_nothing():
    tally_of("week-46").add(0, result())
    assert new_tally("week-46").sums() == ({}, 0)
    assert tally_of("week-46").sums() == ({}, 0)


def test_says_nothing_of_time_left_once_all_have_ended():
    tally = Tally()
    tally.started -= 100
    tally.close(0, {"uploaded": 500}, 0, fresh=500)
    assert tally.sentence(500) == "500 of 500 images have ended: 500 uploaded. 5.0 images/s."
