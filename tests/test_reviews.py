import pickle
import re
from datetime import datetime, timezone

import pytest
from pydantic import TypeAdapter, ValidationError

from n1n_prefect import ImageOutcome, ImageRequest, Review
from n1n_prefect.reviews import Question
from tests.staged_images import good, noise, object_of, refused, staged

pytestmark = pytest.mark.usefixtures("own_storage")

SOON = datetime(2026, 11, 26, 9, 30, tzinfo=timezone.utc)


def question(*outcomes: ImageOutcome, **terms) -> Question:
    return Question(
        outcomes or (good("a"), good("b", staged(noise(1)))),
        **{"may_regenerate": True, "on_timeout": "reject", **terms},
    )


def schema(**terms):
    return question(**terms).form.model_json_schema()


class TestForm:
    def test_has_the_same_few_fields_for_any_number_of_images(self):
        many = question(*(good(str(number)) for number in range(8))).form.model_json_schema()
        assert list(many["properties"]) == list(schema()["properties"]) == ["approve", "regenerate", "note", "reviewer"]
        assert many["properties"]["approve"]["items"]["enum"][-1] == "image 8"

    def test_a_single_image_is_a_list_to_choose_from_too(self):
        items = question(good()).form.model_json_schema()["properties"]["approve"]["items"]
        assert items == {"type": "string", "enum": ["image 1"]}

    def test_nothing_is_approved_beforehand(self):
        assert schema()["properties"]["approve"]["default"] == []

    def test_regenerating_is_offered_with_its_price_or_not_at_all(self):
        assert "paid for, about $0.039 each" in schema()["properties"]["regenerate"]["description"]
        assert "regenerate" not in schema(may_regenerate=False)["properties"]

    def test_other_fields_are_refused(self):
        assert schema()["additionalProperties"] is False
        with pytest.raises(ValidationError):
            question().decided({"publish": []})


class TestNumbers:
    def test_are_places_among_what_was_handed_over(self):
        asked = question(good("a"), refused(), good("c"))
        assert list(asked.candidates) == [1, 3]
        assert [row.id for row in asked.failed] == ["SKU-2"]
        assert [image.outcome.id for image in asked.decided({"approve": ["image 3"]}).approved] == ["c"]

    def test_name_these_very_images(self):
        first, second = good("a"), good("b", staged(noise(1)))
        assert question(first, second).digest == question(first, second, on_timeout="fail").digest
        assert len({question(first, second).digest, question(second, first).digest, question(first).digest}) == 3
        assert question(first, refused(), second).digest != question(first, second).digest


class TestDecided:
    def test_what_is_in_no_list_is_rejected(self):
        review = question().decided({"approve": ["image 2"]})
        assert [image.decision for image in review.images] == ["reject", "approve"]

    def test_an_image_in_both_lists_is_no_decision(self):
        with pytest.raises(ValueError, match="image 2: under both Approve and Regenerate"):
            question().decided({"approve": ["image 2"], "regenerate": ["image 2"]})

    @pytest.mark.parametrize(
        ("note", "notes"),
        [
            ("", ["", ""]),
            ("softer light", ["softer light", "softer light"]),
            ("2: at night", ["", "at night"]),
            ("Image 1 : by day\nwith a cat\n2:at night", ["by day\nwith a cat", "with a cat\nat night"]),
            ("2:1 crop, please", ["2:1 crop, please", "2:1 crop, please"]),
            ("16:9 is too wide", ["16:9 is too wide", "16:9 is too wide"]),
        ],
    )
    def test_notes_are_for_one_image_or_for_all(self, note, notes):
        assert [image.note for image in question().decided({"note": note}).images] == notes

    def test_a_note_for_an_image_that_there_is_not_is_no_decision(self):
        with pytest.raises(ValueError, match="a line for image 9, and there are images 1, 2"):
            question().decided({"approve": ["image 1"], "note": "9: at night"})

    @pytest.mark.parametrize(("on_timeout", "decision"), [("reject", "reject"), ("approve", "approve")])
    def test_the_deadline_decides_as_chosen(self, on_timeout, decision):
        images = question(on_timeout=on_timeout).undecided().images
        assert {(image.decision, image.decided_by) for image in images} == {(decision, "timeout")}


class TestReview:
    def test_rows_say_who_set_an_image_aside_and_why(self):
        said = question().decided({"regenerate": ["image 2"], "note": "1: too dark", "reviewer": "Ann"})
        assert [row.reason for row in said.set_aside] == [
            "Rejected by Ann: too dark",
            "Sent back to be drawn anew by Ann.",
        ]
        assert {(row.status, row.uploaded) for row in said.set_aside} == {("rejected", None)}
        assert [row.image for row in said.set_aside] == [image.outcome.image for image in said.images]
        assert question().undecided().set_aside[0].reason == "Rejected since nobody decided in time."

    def test_adds_up_over_rounds(self):
        both = Review() + question().decided({"approve": ["image 1"]}) + question(good(), refused()).undecided()
        assert (len(both.images), len(both.approved), len(both.failed)) == (3, 1, 1)

    def test_travels_as_every_value_does(self):
        review = question(good(), refused()).decided({"approve": ["image 1"], "reviewer": "Ann"})
        adapter = TypeAdapter(Review)
        assert adapter.validate_json(adapter.dump_json(review)) == review == pickle.loads(pickle.dumps(review))

    def test_draws_anew_with_the_note_and_never_the_same_again(self):
        requests = [ImageRequest("a fox", aspect_ratio="16:9", sample=sample) for sample in (0, 5)]
        again = (
            question().decided({"regenerate": ["image 1", "image 2"], "note": "1: at night"}).next_requests(requests)
        )
        assert [(request.prompt, request.sample, request.aspect_ratio) for request in again] == [
            ("a fox\n\nat night", 6, "16:9"),
            ("a fox", 7, "16:9"),
        ]
        assert question().decided({}).next_requests(requests) == []


class TestDialog:
    def test_says_what_the_button_does_and_shows_the_images_by_number(self):
        text = question().description(SOON)
        assert text.startswith(
            "This publishes the images under **Approve**, draws those under **Regenerate** anew and pays for them, and "
            "rejects the rest.\n\nNobody by 2026-11-26 09:30 UTC: all of them are rejected."
        )
        assert re.findall(r"\*\*(Image \d)\*\*<br><img src=\"data:image/webp;base64,[^\"]+\" width=\"190\">", text) == [
            "Image 1",
            "Image 2",
        ]
        assert "s3://" not in text

    def test_is_small_whatever_the_images_are(self):
        text = question(*(good(str(n), staged(noise(n, 600))) for n in range(8))).description(SOON)
        assert text.count("<img") == 8
        assert len(text) < 260_000

    def test_lists_what_did_not_come(self):
        text = question(good(), refused(reason="The prompt was refused (<b>SAFETY</b>).")).description(SOON)
        assert "- Image 2: refused. The prompt was refused" in text
        assert "<b>" not in text

    def test_shows_prompts_only_where_they_may_be_seen(self):
        assert "A red mug on a table" in question().description(SOON)
        assert "A red mug" not in question().description(SOON, show_prompts=False)
        other = good("b", staged(noise(1), prompt_excerpt="A blue mug on a very long table by the sea"))
        mixed = question(
            good("a"), ImageOutcome(**{**vars(other), "prompt_excerpt": "A blue mug on a very long table"})
        )
        assert "A blue mug on a very long t…" in mixed.description(SOON)

    def test_says_why_it_asks_again(self):
        assert question().description(SOON, objection="Why.").startswith("**Asked again.** Why.\n\nThis publishes")

    def test_an_image_without_its_original_has_a_number(self):
        bare = ImageOutcome("a", "uploaded", uploaded=object_of(staged(), original=None))
        assert "**Image 1**<br>64x48" in question(bare).description(SOON)
