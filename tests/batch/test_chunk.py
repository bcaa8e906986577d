"""A chunk from its plan to its part: what is carried out, what stands, and what happens to what an earlier run left."""

import hashlib
import threading
from collections import Counter
from dataclasses import replace

import orjson
import pytest

from n1n_prefect import (
    BudgetExceededError,
    DerivedImage,
    InvalidRequestError,
    N1nCredentials,
    S3Location,
    Spending,
    UploadError,
    Variant,
    stopping,
)
from n1n_prefect.batch import chunk as chunk_module
from n1n_prefect.batch.chunk import REPORT, _room, is_done, report_if_any, report_name
from n1n_prefect.batch.lease import of_chunk
from n1n_prefect.batch.parts import part_name
from n1n_prefect.batch.statistics import Statistics
from n1n_prefect.budget import Allowance
from n1n_prefect.images import ImageSpec
from n1n_prefect.pools import pace_of
from tests.examples import png

pytestmark = pytest.mark.usefixtures("impatient")

ANIMALS = [f"animal {number}" for number in range(6)]


@pytest.fixture(autouse=True)
def goes_on():
    yield
    stopping.forget()


def calls_of(gateway):
    return Counter(call.prompt_excerpt.removeprefix("Draw ") for call in gateway.ledger.calls)


class TestAll:
    def test_every_item_is_drawn_checked_and_put_once(self, batch, n1n_gateway):
        batch.plan(*ANIMALS)
        report = batch.carry_out()
        assert report.by_status == {"uploaded": 6}
        assert (report.left, report.fresh, report.stopped) == (0, 6, "")
        assert report.cost_usd == pytest.approx(n1n_gateway.ledger.usd, rel=0.01)
        results, objects = batch.results(), batch.objects()
        assert list(results) == ANIMALS
        assert calls_of(n1n_gateway) == dict.fromkeys(ANIMALS, 1)
        assert {hashlib.sha256(data).hexdigest() for data in objects.values()} == {
            result.outcome.uploaded.sha256 for result in results.values()
        }
        assert all(result.seconds > 0 and result.outcome.attempts == 1 for result in results.values())

    def test_what_it_came_to_lies_beside_the_plan(self, batch):
        batch.plan(*ANIMALS[:2])
        report = batch.carry_out()
        assert report_if_any(batch.places.store, 0) == report
        assert report_if_any(batch.places.store, 1) is None
        batch.places.store.write(report_name(0), b"{")
        assert report_if_any(batch.places.store, 0) is None

    def test_at_most_so_many_calls_at_once(self, batch_of, n1n_credentials, n1n_gateway_factory):
        gateway = n1n_gateway_factory(latency_seconds=0.05)
        batch = batch_of(n1n_credentials.model_copy(update={"base_url": gateway.base_url, "max_in_flight": 3}))
        batch.plan(*ANIMALS)
        batch.carry_out()
        assert gateway.ledger.most_in_flight == 3

    def test_the_report_is_small_however_many_items(self, batch):
        batch.plan(*(f"row {number}" for number in range(40)))
        assert len(REPORT.dump_json(batch.carry_out())) < 3000

    def test_a_plan_made_anew_is_not_taken_for_the_other(self, batch):
        batch.plan(*ANIMALS)
        with pytest.raises(InvalidRequestError, match="planned anew"):
            chunk_module.carry_out_chunk.fn(
                0, "0" * 16, terms=batch.terms, credentials=batch.credentials, destination=batch.destination
            )


class TestBadItems:
    def test_one_refused_hides_nothing(self, batch, n1n_gateway):
        n1n_gateway.faults.add("safety", match="animal 2")
        batch.plan(*ANIMALS)
        assert batch.carry_out().by_status == {"uploaded": 5, "refused": 1}
        assert batch.statuses()["animal 2"] == "refused"

    @pytest.mark.parametrize("fault", ["bad_gateway", "overloaded", "truncated_json", "reset_before_reply"])
    def test_what_may_pass_is_tried_again_here(self, batch, n1n_gateway, fault):
        n1n_gateway.faults.add(fault, 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert batch.results()["animal 0"].outcome.attempts == 2

    def test_not_for_ever(self, batch, n1n_gateway):
        n1n_gateway.faults.add("bad_gateway", None, match="animal 0")
        batch.plan(*ANIMALS[:2])
        assert batch.carry_out().by_status == {"failed": 1, "uploaded": 1}
        failed = batch.results()["animal 0"].outcome
        assert (failed.attempts, failed.charged) == (5, "no")

    def test_a_wrong_key_ends_it_and_nothing_is_failed(self, batch_of, n1n_credentials, n1n_gateway):
        wrong = type(n1n_credentials)(api_key="sk-wrong-key", base_url=n1n_gateway.base_url, max_in_flight=1)
        batch = batch_of(wrong)
        batch.plan(*ANIMALS)
        report = batch.carry_out()
        assert report.by_status == {"pending": 6}
        assert (report.stopped_by, report.left) == ("AuthenticationError", 6)
        assert len(n1n_gateway.ledger.calls) == 1, "the next would meet the same"

    @pytest.mark.parametrize(("fault", "kind"), [("quota_exhausted", "QuotaError"), ("payment_required", "QuotaError")])
    def test_an_empty_balance_ends_it(self, batch_of, n1n_credentials, n1n_gateway, fault, kind):
        batch = batch_of(n1n_credentials.model_copy(update={"max_in_flight": 1}))
        n1n_gateway.faults.add(fault, None, after=2)
        batch.plan(*ANIMALS)
        report = batch.carry_out()
        assert report.by_status == {"pending": 4, "uploaded": 2}
        assert report.stopped_by == kind
        assert len(n1n_gateway.ledger.calls) == 3

    def test_a_model_that_is_not_there_ends_its_own_rows(self, batch_of, n1n_credentials, n1n_gateway):
        batch = batch_of(n1n_credentials.model_copy(update={"max_in_flight": 1}))
        n1n_gateway.faults.add("no_channel", None, match="rare")
        rows = [{"id": f"rare {n}", "prompt": f"rare {n}", "model": "gemini-3-pro-image"} for n in range(3)]
        batch.plan(*rows, "animal 0")
        assert batch.carry_out().by_status == {"pending": 2, "failed": 1, "uploaded": 1}
        assert "Not tried: " in batch.results()["rare 1"].outcome.reason
        assert len(n1n_gateway.ledger.calls) == 2

    def test_a_gateway_that_is_down_ends_it(self, batch_of, n1n_credentials, n1n_gateway):
        batch = batch_of(n1n_credentials.model_copy(update={"max_in_flight": 1}))
        n1n_gateway.faults.add("bad_gateway", None)
        batch.plan(*(f"animal {number}" for number in range(25)))
        report = batch.carry_out()
        assert report.by_status == {"failed": 20, "pending": 5}
        assert "20 images in a row failed" in report.stopped
        assert report.left == 25, "nothing was paid, so the next run tries all of them"

    def test_an_error_without_a_class_is_a_row_like_any_other(self, batch, monkeypatch):
        whole = chunk_module.Worker.result_of

        def broken(self, item):
            if item.id == "animal 1":
                raise ZeroDivisionError("a defect of ours")
            return whole(self, item)

        monkeypatch.setattr(chunk_module.Worker, "result_of", broken)
        batch.plan(*ANIMALS[:3])
        assert batch.carry_out().by_status == {"uploaded": 2, "failed": 1}
        outcome = batch.results()["animal 1"].outcome
        assert "a defect of ours" in outcome.reason
        assert outcome.charged == "unknown"


class TestSlowedDown:
    def test_all_wait_together_and_each_arrives(self, batch, n1n_gateway):
        n1n_gateway.faults.add("rate_limited", 8, seconds=1)
        batch.plan(*(f"animal {number}" for number in range(12)))
        assert batch.carry_out().by_status == {"uploaded": 12}
        assert len(n1n_gateway.ledger.calls) == 20
        assert pace_of(batch.credentials).limit < 8, "it has not wholly recovered yet"
        assert sum(result.waited_seconds for result in batch.results().values()) > 1

    def test_being_told_to_wait_is_no_failed_attempt(self, batch_of, n1n_credentials, n1n_gateway):
        batch = batch_of(n1n_credentials.model_copy(update={"max_in_flight": 1}))
        n1n_gateway.faults.add("rate_limited", 8, seconds=0)
        batch.plan("animal 0")
        assert batch.carry_out().by_status == {"uploaded": 1}
        assert batch.results()["animal 0"].outcome.attempts == 9


class TestSlowStore:
    def test_no_image_is_paid_for_that_nobody_can_take(self, batch_of, n1n_credentials, n1n_gateway, monkeypatch):
        """Whoever draws an image also puts it into the store, so that a slow one holds up the drawing."""
        batch = batch_of(n1n_credentials.model_copy(update={"max_in_flight": 3}))
        batch.plan(*(f"animal {number}" for number in range(12)))
        put, is_slow, waiting = S3Location.put_image, threading.Event(), threading.Semaphore(0)

        def slow(self, *args, **kwargs):
            waiting.release()
            assert is_slow.wait(60)
            return put(self, *args, **kwargs)

        monkeypatch.setattr(S3Location, "put_image", slow)
        ended = []
        work = threading.Thread(target=lambda: ended.append(batch.carry_out()))
        work.start()
        for _ in range(3):
            assert waiting.acquire(timeout=60)
        assert not waiting.acquire(timeout=0.5), "three are drawn, and no fourth"
        assert len(n1n_gateway.ledger.calls) == 3
        is_slow.set()
        work.join(60)
        assert ended[0].by_status == {"uploaded": 12}


class TestAgain:
    def test_what_is_done_stands(self, batch, n1n_gateway):
        batch.plan(*ANIMALS)
        first = batch.carry_out()
        before = batch.results()
        assert is_done(first, batch.terms)
        again = batch.carry_out()
        assert (again.by_status, again.fresh) == ({"uploaded": 6}, 0)
        assert batch.results() == before
        assert len(n1n_gateway.ledger.calls) == 6

    def test_a_run_that_left_no_part_pays_nothing_again(self, batch, n1n_gateway):
        batch.plan(*ANIMALS)
        batch.carry_out()
        batch.places.store.delete("_batch/parts/00000.jsonl")
        assert sum(batch.carry_out().by_status.values()) == 6
        assert len(n1n_gateway.ledger.calls) == 6
        assert len(batch.objects()) == 6

    def test_what_failed_for_nothing_is_tried_again(self, batch, n1n_gateway):
        n1n_gateway.faults.add("bad_gateway", 5, match="animal 0")
        batch.plan(*ANIMALS[:2])
        first = batch.carry_out()
        assert (first.by_status, first.left) == ({"failed": 1, "uploaded": 1}, 1)
        assert not is_done(first, batch.terms)
        assert batch.carry_out().by_status == {"uploaded": 2}

    def test_what_was_paid_and_never_arrived_is_uploaded_by_the_next_run(self, batch, n1n_gateway, monkeypatch):
        def is_down(self, *args, **kwargs):
            raise UploadError("The store is down; try again later.")

        batch.plan(*ANIMALS[:2])
        with monkeypatch.context() as patched:
            patched.setattr(S3Location, "put_image", is_down)
            first = batch.carry_out()
        assert (first.by_status, first.left) == ({"failed": 2}, 2)
        cost = batch.results()["animal 0"].outcome.estimated_cost_usd
        assert batch.results()["animal 0"].outcome.charged == "yes"
        assert batch.carry_out().by_status == {"uploaded": 2}
        result = batch.results()["animal 0"]
        assert (result.outcome.reason, result.outcome.estimated_cost_usd) == ("", cost)
        assert len(n1n_gateway.ledger.calls) == 2

    def test_calls_whose_answers_were_lost_are_made_again_once_somebody_says_so(self, batch, n1n_gateway):
        n1n_gateway.faults.add("reset_before_reply", 2, match="animal 0")
        batch.plan(*ANIMALS[:2])
        assert batch.carry_out().by_status == {"unknown_outcome": 1, "uploaded": 1}
        assert batch.carry_out().by_status == {"unknown_outcome": 1, "uploaded": 1}, "nobody has said so"
        assert calls_of(n1n_gateway)["animal 0"] == 2
        batch.terms = replace(batch.terms, redo=("unknown_outcome",))
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert calls_of(n1n_gateway)["animal 0"] == 3
        assert batch.results()["animal 0"].outcome.possible_duplicates == 2

    def test_a_repair_forgets_nothing_of_a_row_that_has_changed(self, batch, n1n_gateway):
        n1n_gateway.faults.add("safety", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        before = batch.results()["animal 1"].outcome
        batch.terms = replace(batch.terms, redo=("refused",), variants=(Variant.parse("thumb=fit 64"),))
        batch.plan(*ANIMALS[:2])
        report = batch.carry_out()
        assert (report.by_status, report.left) == ({"uploaded": 2}, 1)
        assert batch.results()["animal 1"].outcome == before
        batch.terms = replace(batch.terms, redo=())
        assert batch.carry_out().left == 0
        assert len(batch.results()["animal 1"].variants) == 1
        assert calls_of(n1n_gateway) == {"animal 0": 2, "animal 1": 1}

    def test_an_image_that_is_good_by_no_rule_is_not_put_there(self, batch, n1n_gateway):
        """Its redrawing failed, so that it is `failed` and has an image."""
        batch.terms = replace(batch.terms, spec=ImageSpec(min_edge=4000), on_invalid="regenerate", regenerations=1)
        n1n_gateway.faults.add("ok", 1)
        n1n_gateway.faults.add("bad_gateway", 5)
        batch.plan("animal 0")
        assert batch.carry_out().by_status == {"failed": 1}
        assert batch.results()["animal 0"].outcome.image is not None
        assert batch.carry_out().by_status == {"invalid": 1}
        assert batch.objects() == {}
        assert len(n1n_gateway.ledger.billed) == 2

    def test_a_refusal_stands_and_is_not_asked_again(self, batch, n1n_gateway):
        n1n_gateway.faults.add("safety", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        assert batch.carry_out().by_status == {"refused": 1, "uploaded": 1}
        assert len(n1n_gateway.ledger.calls) == 2

    def test_until_somebody_says_so(self, batch, n1n_gateway):
        n1n_gateway.faults.add("safety", 2, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.terms = replace(batch.terms, redo=("refused",))
        assert batch.carry_out().by_status == {"refused": 1, "uploaded": 1}
        assert batch.results()["animal 0"].take == 1
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert batch.results()["animal 0"].take == 2
        assert calls_of(n1n_gateway) == {"animal 0": 3, "animal 1": 1}

    def test_a_repair_that_was_cut_off_pays_for_nothing_twice(self, batch, n1n_gateway):
        n1n_gateway.faults.add("safety", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        kept = batch.places.store.read("_batch/parts/00000.jsonl")
        batch.terms = replace(batch.terms, redo=("refused",))
        batch.carry_out()
        batch.places.store.write("_batch/parts/00000.jsonl", kept)  # as if it had been killed before it wrote
        batch.carry_out()
        assert calls_of(n1n_gateway) == {"animal 0": 2, "animal 1": 1}

    def test_a_repair_leaves_what_was_never_tried_to_another_run(self, batch, n1n_gateway):
        batch.plan(*ANIMALS[:2])
        batch.terms = replace(batch.terms, redo=("refused",))
        assert batch.carry_out().by_status == {"pending": 2}
        assert n1n_gateway.ledger.calls == []

    def test_a_row_that_was_changed_is_carried_out(self, batch, n1n_gateway):
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.plan({"id": "animal 0", "prompt": "Draw a cat", "note": "mended"}, "animal 1")
        batch.carry_out()
        assert calls_of(n1n_gateway) == {"animal 0": 1, "animal 1": 1, "a cat": 1}

    def test_a_row_that_only_moved_keeps_its_image_and_has_its_new_line(self, batch, n1n_gateway):
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.plan("animal 2", {"id": "animal 0", "prompt": "Draw animal 0", "note": "moved"}, "animal 1")
        batch.carry_out()
        result = batch.results()["animal 0"]
        assert (result.line, result.carried) == (2, {"note": "moved"})
        assert len(n1n_gateway.ledger.calls) == 3

    def test_equal_rows_share_their_image(self, batch, n1n_gateway):
        batch.plan({"id": "a", "prompt": "one fox"}, {"id": "b", "prompt": "one fox"})
        assert sum(batch.carry_out().by_status.values()) == 2
        assert len(n1n_gateway.ledger.calls) == 1
        assert len({result.outcome.uploaded.sha256 for result in batch.results().values()}) == 1
        statistics = Statistics(batch.terms.batch_id, has_repeats=True)
        for result in batch.results().values():
            statistics.add(result)
        assert statistics.total.spent_usd == pytest.approx(n1n_gateway.ledger.usd, rel=0.01)
        assert report_if_any(batch.places.store, 0).cost_usd == statistics.total.spent_usd


class TestCeiling:
    def test_the_call_that_would_pass_it_is_not_made(self, batch_of, n1n_credentials, n1n_gateway):
        batch = batch_of(
            n1n_credentials.model_copy(update={"max_in_flight": 1}), spending=Spending(max_usd_per_run=1.0)
        )
        batch.plan(*ANIMALS)
        report = batch.carry_out(allowance=Allowance.take("test", 0.1, ceiling=0.1))
        assert report.by_status == {"pending": 3, "uploaded": 2, "over_budget": 1}
        assert report.stopped_by == BudgetExceededError.__name__
        assert report.spent_usd == pytest.approx(n1n_gateway.ledger.usd, rel=0.01)
        assert len(n1n_gateway.ledger.calls) == 2

    def test_with_more_it_goes_on(self, batch_of, n1n_credentials, n1n_gateway):
        batch = batch_of(
            n1n_credentials.model_copy(update={"max_in_flight": 1}), spending=Spending(max_usd_per_run=1.0)
        )
        batch.plan(*ANIMALS)
        batch.carry_out(allowance=Allowance.take("test-2", 0.1, ceiling=0.1))
        report = batch.carry_out(allowance=Allowance.take("test-3", 1.0, ceiling=1.0))
        assert report.by_status == {"uploaded": 6}
        assert len(n1n_gateway.ledger.calls) == 6

    def test_what_an_attempt_paid_that_was_killed_is_counted_when_it_is_found(
        self, batch_of, n1n_credentials, n1n_gateway
    ):
        batch = batch_of(
            n1n_credentials.model_copy(update={"max_in_flight": 1}), spending=Spending(max_usd_per_run=1.0)
        )
        batch.plan(*ANIMALS)
        batch.carry_out(allowance=Allowance.take("test-4", 0.1, ceiling=0.1))
        store = batch.places.store
        store.delete(part_name(0))
        store.write(of_chunk(0), b"left behind")
        report = batch.carry_out(allowance=Allowance.take("test-5", 0.2, ceiling=0.2))
        assert report.by_status == {"uploaded": 3, "already_there": 2, "over_budget": 1}
        assert report.spent_usd == pytest.approx(n1n_gateway.ledger.usd, rel=0.01)

    def test_what_is_known_is_not_counted_again(self, batch_of, n1n_credentials):
        batch = batch_of(spending=Spending(max_usd_per_run=1.0))
        batch.plan(*ANIMALS)
        batch.carry_out(allowance=Allowance.take("test-6", 0.5, ceiling=0.5))
        batch.places.store.write(of_chunk(0), b"left behind")
        report = batch.carry_out(allowance=Allowance.take("test-7", 0.5, ceiling=0.5))
        assert report.spent_usd == 0


class TestRules:
    def test_an_image_that_breaks_one_is_drawn_again(self, batch_of, n1n_gateway):
        batch = batch_of(on_invalid="regenerate", regenerations=1, spec=ImageSpec(min_edge=500))
        n1n_gateway.faults.add("blank_image", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert calls_of(n1n_gateway) == {"animal 0": 2, "animal 1": 1}

    def test_or_invalid_and_paid(self, batch, n1n_gateway):
        n1n_gateway.faults.add("blank_image", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        assert batch.carry_out().by_status == {"invalid": 1, "uploaded": 1}
        assert batch.results()["animal 0"].outcome.charged == "yes"

    def test_an_invalid_one_is_looked_at_again_before_another_is_paid(self, batch, n1n_gateway):
        n1n_gateway.faults.add("blank_image", 2, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.terms = replace(batch.terms, redo=("invalid",))
        batch.carry_out()  # blank again
        assert calls_of(n1n_gateway)["animal 0"] == 2
        batch.terms = replace(batch.terms, spec=ImageSpec(reject_blank=False))
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert calls_of(n1n_gateway)["animal 0"] == 2
        assert batch.results()["animal 0"].outcome.estimated_cost_usd == pytest.approx(0.078, rel=0.02)

    def test_what_was_given_up_is_not_forgotten(self, batch, n1n_gateway):
        n1n_gateway.faults.add("blank_image", 2, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.terms = replace(batch.terms, redo=("invalid",))
        batch.carry_out()
        report = batch.carry_out()
        assert report.by_status == {"uploaded": 2}
        assert len(n1n_gateway.ledger.calls) == 4
        assert report.cost_usd == pytest.approx(n1n_gateway.ledger.usd, rel=0.02)
        assert batch.results()["animal 0"].outcome.estimated_cost_usd == pytest.approx(3 * 0.039, rel=0.02)
        assert batch.carry_out().cost_usd == report.cost_usd, "and not counted twice"

    def test_and_another_is_drawn_where_it_is_still_invalid(self, batch, n1n_gateway):
        n1n_gateway.faults.add("blank_image", 1, match="animal 0")
        batch.plan(*ANIMALS[:2])
        batch.carry_out()
        batch.terms = replace(batch.terms, redo=("invalid",))
        assert batch.carry_out().by_status == {"uploaded": 2}
        assert calls_of(n1n_gateway)["animal 0"] == 2
        outcome = batch.results()["animal 0"].outcome
        assert outcome.estimated_cost_usd == pytest.approx(0.078, rel=0.02), "both were paid"


class TestBeside:
    def test_variants_lie_beside_their_image(self, batch_of):
        batch = batch_of(variants=(Variant.parse("thumb=fit 64 webp"), Variant.parse("web=jpeg")))
        batch.plan({"id": "a", "prompt": "a fox", "variants": "thumb"}, {"id": "b", "prompt": "b", "variants": "none"})
        batch.carry_out()
        (made,) = batch.results()["a"].variants
        assert isinstance(made, DerivedImage)
        assert (made.name, made.media_type, max(made.width, made.height)) == ("thumb", "image/webp", 64)
        key = made.key.removeprefix(f"{batch.places.destination.prefix}/")
        assert hashlib.sha256(batch.objects()[key]).hexdigest() == made.sha256
        assert batch.results()["b"].variants == ()

    def test_variants_and_documents_are_made_anew_once_they_are_others(self, batch_of, n1n_gateway):
        n1n_gateway.faults.add("safety", 1, match="a fox")
        batch = batch_of(variants=(Variant.parse("thumb=fit 64 webp"),), redo=("refused", "pending"))
        batch.plan({"id": "a", "prompt": "a fox"})
        batch.carry_out()
        batch.carry_out()
        assert batch.results()["a"].take == 1
        batch.terms = replace(batch.terms, variants=(Variant.parse("thumb=fit 32 webp"),), sidecars=True, redo=())
        batch.plan({"id": "a", "prompt": "a fox"})
        batch.carry_out()
        result = batch.results()["a"]
        assert (result.take, result.outcome.status) == (1, "uploaded")
        assert max(result.variants[0].width, result.variants[0].height) == 32
        assert any(name.endswith(".json") for name in batch.objects())
        assert len(n1n_gateway.ledger.calls) == 2

    def test_nothing_of_it_lies_beside_another_object_that_was_kept(self, batch_of):
        batch = batch_of(variants=(Variant.parse("thumb=fit 64 webp"),), sidecars=True, if_exists="keep")
        key = f"{batch.places.destination.prefix}/fox.png"
        client = batch.destination.get_client()
        client.put_object(Bucket=batch.destination.bucket, Key=key, Body=png(64, 64))
        batch.plan({"id": "a", "prompt": "a fox", "key": key})
        assert batch.carry_out().by_status == {"already_there": 1}
        assert [*batch.objects()] == ["fox.png"]
        assert batch.results()["a"].variants == ()

    def test_a_document_says_how_the_image_came_about(self, batch_of):
        batch = batch_of(sidecars=True)
        batch.plan({"id": "a", "prompt": "a fox in the snow"})
        batch.carry_out()
        (document,) = [orjson.loads(data) for key, data in batch.objects().items() if key.endswith(".json")]
        assert document["request"]["prompt"] == "a fox in the snow"
        assert document["batch"] == batch.terms.batch_id
        assert document["image"]["sha256"] == batch.results()["a"].outcome.uploaded.sha256

    def test_what_cannot_be_put_beside_it_fails_the_item_and_not_the_image(self, batch_of, monkeypatch):
        from n1n_prefect import UploadError
        from n1n_prefect.batch import work

        def refuses(*args, **kwargs):
            raise UploadError("The store is full; free some room.")

        monkeypatch.setattr(work, "derived_objects", refuses)
        batch = batch_of(variants=(Variant.parse("thumb=fit 64 webp"),))
        batch.plan({"id": "a", "prompt": "a fox"})
        assert batch.carry_out().by_status == {"failed": 1}
        outcome = batch.results()["a"].outcome
        assert outcome.reason.startswith("The image is uploaded; ")
        assert outcome.uploaded is not None
        assert outcome.charged == "yes"


class TestToldToEnd:
    def test_nothing_is_begun(self, batch, n1n_gateway):
        batch.plan(*ANIMALS)
        stopping.ask(20)
        report = batch.carry_out()
        assert report.by_status == {"pending": 6}
        assert "told to end" in report.stopped
        assert n1n_gateway.ledger.calls == []

    def test_what_is_under_way_ends(self, batch_of, n1n_credentials, n1n_gateway_factory):
        gateway = n1n_gateway_factory(latency_seconds=0.5)
        batch = batch_of(n1n_credentials.model_copy(update={"base_url": gateway.base_url, "max_in_flight": 2}))
        batch.plan(*ANIMALS)
        stop = threading.Timer(0.25, stopping.ask, (20,))
        stop.start()
        report = batch.carry_out()
        stop.join()
        assert report.by_status["uploaded"] == len(gateway.ledger.calls)
        assert report.by_status["pending"] == 6 - len(gateway.ledger.calls)

    def test_what_takes_longer_than_there_is_time_is_left(self, batch_of, n1n_credentials, n1n_gateway_factory):
        gateway = n1n_gateway_factory(latency_seconds=3)
        batch = batch_of(n1n_credentials.model_copy(update={"base_url": gateway.base_url, "max_in_flight": 2}))
        batch.plan(*ANIMALS[:4])
        stop = threading.Timer(1, stopping.ask, (0,))
        stop.start()
        report = batch.carry_out()
        stop.join()
        assert report.by_status == {"pending": 4}
        reasons = [result.outcome.reason for result in batch.results().values()]
        assert sum("whether it was paid is in the journal" in reason for reason in reasons) == 4


class TestRoom:
    def test_is_shared_by_the_chunks_of_a_key(self):
        credentials = N1nCredentials(api_key="sk-room", max_in_flight=8)
        assert _room(credentials) is _room(credentials.model_copy())
        assert _room(credentials).limit == 10

    def test_of_one_call_at_a_time_is_one_image(self):
        assert _room(N1nCredentials(api_key="sk-room", max_in_flight=1)).limit == 1
