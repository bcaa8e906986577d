import hashlib
from dataclasses import replace
from typing import Any

import orjson
import pytest

from n1n_prefect.batch.items import Item
from n1n_prefect.batch.provenance import sidecar, sidecar_key
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.errors import InvalidRequestError
from tests.batch.ended_items import PROMPT, THUMB, ended, failed, image, item, upload, uploaded
from tests.image_files import chunk, png_with

SOURCES = ("s3://shop/in/a.png", "https://shop.example/b.jpg?signature=secret-1234567890", "local/c.png")


def written(of: Item | None = None, result: ItemResult | None = None, **options: Any) -> dict[str, Any]:
    of = of or item()
    return orjson.loads(sidecar(of, result or ended(of=of), **{"batch": "week-46", **options}))


class TestSidecar:
    def test_tells_all_that_is_known(self):
        of = item("fox", 7, image_size="2K", seed=5, extra_body={"a": [1]}, take=1)
        found = written(of, ended(of=of, variants=[THUMB]), data=png_with(chunk(b"caBX", b"jumb")))
        assert found.pop("versions").keys() == {"python", "prefect", "n1n_prefect"}
        assert found.pop("variants")[0]["uri"] == THUMB.uri
        assert found == {
            "schema": 1,
            "batch": "week-46",
            "id": "fox",
            "line": 7,
            "take": 1,
            "image": {
                "bucket": "shop",
                "key": "week/fox.png",
                "uri": "s3://shop/week/fox.png",
                "version_id": "v1",
                "etag": "e1",
                "sha256": "a" * 64,
                "media_type": "image/png",
                "width": 1264,
                "height": 848,
                "size_bytes": 1_500_000,
            },
            "request": {
                "prompt": PROMPT,
                "prompt_sha256": hashlib.sha256(PROMPT.encode()).hexdigest(),
                "model": "gemini-3-pro-image",
                "parameters": {"aspect_ratio": "3:2", "image_size": "2K", "seed": 5, "extra_body": {"a": [1]}},
                "sources": [],
            },
            "answer": {
                "model_version": "gemini-3-pro-image-0925",
                "finish_reason": "STOP",
                "text": "Here it is.",
                "request_key": "b" * 64,
                "request_id": "req-1",
                "response_id": "resp-1",
                "usage": {
                    "input_text_tokens": 12,
                    "input_image_tokens": 0,
                    "output_text_tokens": 3,
                    "output_image_tokens": 1120,
                    "thinking_tokens": 200,
                    "total_tokens": 1335,
                },
            },
            "cost": {"estimated_cost_usd": 0.134, "attempts": 1, "possible_duplicates": 0, "reused": False},
            "marks": ["C2PA"],
            "times": {"finished_at": "2026-11-25T07:10:00.123+00:00", "seconds": 4.25, "waited_seconds": 0.5},
            "original_uri": "s3://staging/n1n/originals/a.png",
        }

    def test_every_field_is_documented(self):
        from n1n_prefect.batch import provenance

        assert [name for name in written() if f"`{name}`" not in (provenance.__doc__ or "")] == []

    def test_is_the_same_for_the_same_arguments(self):
        made = {sidecar(item(), ended(), batch="week-46", data=png_with()) for _ in range(3)}
        assert len(made) == 1

    def test_the_whole_prompt_whatever_it_is(self):
        prompt = "Füchse\n" * 5_000 + "\ud800"
        assert written(item(prompt=prompt))["request"]["prompt"] == prompt[:-1] + "?"

    def test_bytes_that_were_not_looked_at(self):
        assert written()["marks"] is None

    def test_bytes_without_marks(self):
        assert written(data=png_with())["marks"] == []

    def test_bytes_that_are_no_image(self):
        assert written(data=b"<html>")["marks"] is None

    def test_an_item_without_an_image_has_none(self):
        with pytest.raises(InvalidRequestError, match=r"'fox' has no image in S3 \(refused\)"):
            sidecar(item(), ended(failed(status="refused")), batch="week-46")

    def test_an_object_that_nobody_knows_the_original_of(self):
        outcome = replace(uploaded(), image=None, uploaded=upload(image(), original=None))
        found = written(result=ended(outcome))
        assert (found["image"]["key"], found["original_uri"]) == ("week/fox.png", None)
        assert set(found["answer"]["usage"].values()) == {None}


class TestSources:
    def test_files_by_their_hash_and_others_by_their_address(self):
        made_of = ("s3://shop/in/a.png", "https://shop.example/b.jpg", f"sha256:{'c' * 64}")
        of = item(images=SOURCES)
        found = written(of, ended(uploaded(of=image(inputs=made_of)), of=of))["request"]["sources"]
        assert found == [
            {"label": "s3://shop/in/a.png", "address": "s3://shop/in/a.png", "sha256": None},
            {"label": "shop.example/b.jpg", "address": "https://shop.example/b.jpg", "sha256": None},
            {"label": "c.png", "address": None, "sha256": "c" * 64},
        ]

    def test_by_address_alone_where_nothing_came(self):
        found = written(item(images=SOURCES))["request"]["sources"]
        assert [(source["label"], source["address"], source["sha256"]) for source in found] == [
            ("s3://shop/in/a.png", "s3://shop/in/a.png", None),
            ("shop.example/b.jpg", "https://shop.example/b.jpg", None),
            ("c.png", None, None),
        ]

    def test_nothing_secret_and_no_bytes(self):
        of = item(images=(*SOURCES, b"\x89PNG bytes", "data:image/png;base64,iVBORw0KGgo="))
        text = sidecar(of, ended(of=of), batch="week-46")
        assert b"signature" not in text
        assert b"iVBOR" not in text
        found = orjson.loads(text)["request"]["sources"][3:]
        assert [source["sha256"] for source in found] == [
            hashlib.sha256(data).hexdigest() for data in (b"\x89PNG bytes", b"\x89PNG\r\n\x1a\n")
        ]


class TestKey:
    def test_is_beside_the_image(self):
        assert sidecar_key("images/椅子 fox.png") == "images/椅子 fox.png.json"

    def test_room_is_counted_in_bytes(self):
        assert len(sidecar_key("x" * 1019)) == 1024
        with pytest.raises(InvalidRequestError, match="shorten it to 1,019 bytes"):
            sidecar_key("ü" * 510)

    @pytest.mark.parametrize("key", ["", "/a.png", "a/../b.png", "a\nb.png"])
    def test_of_what_is_no_key(self, key: str):
        with pytest.raises(InvalidRequestError):
            sidecar_key(key)
