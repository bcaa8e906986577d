from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from n1n_prefect.batch.results import (
    COLUMNS,
    ItemResult,
    dumped,
    row_of,
)
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.blocks import S3Location
from n1n_prefect.images import ImageOutcome
from tests.batch.ended_items import AT, PROMPT, THUMB, ended, failed, image, item, upload, uploaded


@pytest.fixture
def store(s3_location: S3Location) -> BatchStore:
    return BatchStore(s3_location, "products/week-46")


class TestItemResult:
    def test_says_what_was_asked_and_when_it_ended(self):
        of = item("fox", 7, image_size="2K", take=1, carried={"shop": "Köln"})
        result = ItemResult.of(of, uploaded(), seconds=2.0, waited_seconds=0.0, variants=[THUMB])
        assert (result.id, result.line, result.take) == ("fox", 7, 1)
        assert (result.model, result.aspect_ratio, result.image_size) == ("gemini-3-pro-image", "3:2", "2K")
        assert (result.prompt_excerpt, len(result.prompt_sha256)) == (PROMPT, 64)
        assert (result.variants, result.carried) == ((THUMB,), {"shop": "Köln"})
        assert result.finished_at
        assert result.finished_at.utcoffset() == timedelta()

    def test_holds_the_image_once(self):
        outcome = replace(uploaded(), image=None)
        result = ended(outcome)
        assert result.outcome.image == image()
        assert result.outcome.uploaded == upload(image(), original=None)

    def test_a_huge_reason_is_cut(self):
        reason = ended(failed(reason="ü" * 1_000_000)).outcome.reason
        assert reason == "ü" * 1000

    def test_a_key_in_a_reason_is_masked(self):
        assert "AIza" not in ended(failed(reason="The key AIzaSyA-1234567890 is refused.")).outcome.reason

    def test_pending(self):
        result = ItemResult.pending(item("fox", 7))
        assert (result.outcome.status, result.outcome.charged, result.outcome.attempts) == ("pending", "no", 0)
        assert (result.seconds, result.waited_seconds, result.finished_at) == (None, None, None)
        assert result.outcome.reason

    def test_a_prompt_with_half_a_surrogate_pair(self):
        assert len(ended(of=item(prompt="a\ud800b")).prompt_sha256) == 64


class TestRow:
    def test_has_the_columns_in_their_order(self):
        rows = [
            row_of(result) for result in (ended(), ended(failed()), ItemResult.pending(item()), ended(variants=[THUMB]))
        ]
        assert [list(row) for row in rows] == [list(COLUMNS)] * 4

    def test_of_an_uploaded_image(self):
        row = row_of(ended(of=item(line=7, image_size="2K", take=1), variants=[THUMB]))
        assert row == {
            "id": "fox",
            "line": 7,
            "status": "uploaded",
            "reason": None,
            "charged": "yes",
            "uri": "s3://shop/week/fox.png",
            "model": "gemini-3-pro-image",
            "aspect_ratio": "3:2",
            "image_size": "2K",
            "asked_width": 2528,
            "asked_height": 1696,
            "take": 1,
            "prompt_sha256": row["prompt_sha256"],
            "prompt_excerpt": PROMPT,
            "width": 1264,
            "height": 848,
            "media_type": "image/png",
            "size_bytes": 1_500_000,
            "sha256": "a" * 64,
            "version_id": "v1",
            "etag": "e1",
            "original_uri": "s3://staging/n1n/originals/a.png",
            "model_version": "gemini-3-pro-image-0925",
            "finish_reason": "STOP",
            "text": "Here it is.",
            "request_key": "b" * 64,
            "request_id": "req-1",
            "response_id": "resp-1",
            "estimated_cost_usd": 0.134,
            "attempts": 1,
            "possible_duplicates": 0,
            "reused": False,
            "input_text_tokens": 12,
            "input_image_tokens": 0,
            "output_text_tokens": 3,
            "output_image_tokens": 1120,
            "thinking_tokens": 200,
            "total_tokens": 1335,
            "seconds": 4.25,
            "waited_seconds": 0.5,
            "finished_at": "2026-11-25T07:10:00.123+00:00",
            "variants": [
                {
                    "name": "thumb",
                    "key": "week/a-thumb.webp",
                    "uri": "s3://shop/week/a-thumb.webp",
                    "sha256": "c" * 64,
                    "media_type": "image/webp",
                    "width": 96,
                    "height": 64,
                    "size_bytes": 900,
                }
            ],
        }

    def test_what_a_failure_does_not_know_is_null(self):
        row = row_of(ended(failed(reason="Refused.", status="refused", charged="unknown", attempts=2)))
        known = {name: value for name, value in row.items() if value is not None}
        assert (known["status"], known["reason"], known["charged"], known["attempts"]) == (
            "refused", "Refused.", "unknown", 2,
        )  # fmt: skip
        assert not {"uri", "sha256", "width", "total_tokens", "estimated_cost_usd", "original_uri"} & known.keys()

    def test_an_invalid_image_is_known_without_an_upload(self):
        row = row_of(ended(ImageOutcome("fox", "invalid", "Blank.", image=image(width=10))))
        assert (row["width"], row["uri"], row["original_uri"]) == (10, None, "s3://staging/n1n/originals/a.png")

    def test_the_object_counts_where_another_one_was_kept(self):
        outcome = replace(uploaded(), uploaded=upload(image(), sha256="d" * 64, size_bytes=5))
        row = row_of(ended(outcome))
        assert (row["sha256"], row["size_bytes"]) == ("d" * 64, 5)

    @pytest.mark.parametrize("asked", [{"aspect_ratio": None}, {"model": "new-model"}, {"aspect_ratio": "7:5"}])
    def test_nothing_is_promised_without_a_table(self, asked: Any):
        row = row_of(ended(of=item(**asked)))
        assert (row["asked_width"], row["asked_height"]) == (None, None)

    @pytest.mark.parametrize("cost", [float("nan"), float("inf"), None])
    def test_a_cost_that_does_not_exist_is_null(self, cost: Any):
        assert row_of(ended(uploaded(estimated_cost_usd=cost)))["estimated_cost_usd"] is None

    def test_carried_columns_follow(self):
        result = ended(of=item(carried={"shop": "Köln", "stock": 3}))
        assert [*row_of(result).items()][-2:] == [("shop", "Köln"), ("stock", 3)]

    def test_carried_columns_by_name_are_all_there(self):
        result = ended(of=item(carried={"stock": 3, "other": 1}))
        assert [*row_of(result, ["shop", "stock"]).items()][-2:] == [("shop", None), ("stock", 3)]
        assert "other" not in row_of(result, ["shop", "stock"])


class TestDumped:
    def test_one_line_whatever_is_in_it(self):
        row = {"id": "椅子\n\r\u2028", "reason": 'a\n"b"'}
        assert dumped(row).count(b"\n") == 0
        assert orjson.loads(dumped(row)) == row

    def test_half_a_surrogate_pair_is_replaced(self):
        assert orjson.loads(dumped({"a\ud800": ["b\udfff", {"c": "ü"}]})) == {"a?": ["b?", {"c": "ü"}]}

    def test_what_json_has_no_number_for_is_text(self):
        assert orjson.loads(dumped({"big": 1 << 70, "fits": (1 << 64) - 1, "at": AT, "no": None})) == {
            "big": str(1 << 70),
            "fits": (1 << 64) - 1,
            "at": AT.isoformat(),
            "no": None,
        }

    def test_what_is_no_number_is_null(self):
        assert dumped({"a": float("nan"), "b": 1 << 70}) == b'{"a":null,"b":"%d"}' % (1 << 70)
