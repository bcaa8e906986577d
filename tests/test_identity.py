import dataclasses
import datetime
import enum
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.identity import request_key
from n1n_prefect.images import ImageRequest

WHERE = {"base_url": "https://api.n1n.ai", "account": "default", "scope": "run-1"}
CAT = hashlib.sha256(b"cat").hexdigest()
DOG = hashlib.sha256(b"dog").hexdigest()

PLAIN = ImageRequest("a cat")
EDIT = ImageRequest(
    "Katze 🐈 \ud83d auf dem Dach",
    images=(b"cat", "https://images.example.com/dog.png?X-Amz-Date=today"),
    model="models/gemini-3-pro-image",
    aspect_ratio="16:9",
    image_size="2K",
    temperature=1,
    safety_settings={"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH", "HARM_CATEGORY_HATE_SPEECH": "OFF"},
    sample=3,
)
RAW = ImageRequest(
    "a cat", seed=7, google_search=True, stream=True, extra_body={"b": [1, 2.5, None, True], "a": {"y": "é", "x": 1e3}}
)

# A change here makes every user pay again for what they have: raise SCHEMA_VERSION and say so in the changelog.
PINNED = {
    "plain": "54e9f9bb478948de0c42f3c420d28d1648b961b73745d64d2f6cb7c583981def",
    "edit": "711af061c88e5b6977e468a117d22d08dc71eb890e1f069e7abaa4786eda7d9d",
    "raw": "f9322332addc5631c66135252a9b4a194db4d51aa74099510da5aead1e131fcd",
}


def key(request: ImageRequest = PLAIN, *hashes: str, **where: str) -> str:
    return request_key(request, hashes, **{**WHERE, **where})


def keys() -> dict[str, str]:
    return {"plain": key(), "edit": key(EDIT, CAT, DOG, account="shop"), "raw": key(RAW, scope="week-46")}


class TestPinned:
    def test_keys_are_what_they_were(self):
        assert keys() == PINNED

    def test_a_key_is_the_hash_of_canonical_json(self):
        identity = (
            '{"account":"default","base_url":"https://api.n1n.ai","images":[],"model":"gemini-2.5-flash-image",'
            '"options":{},"prompt":"a cat","sample":0,"schema":1,"scope":"run-1"}'
        )
        assert key() == hashlib.sha256(identity.encode()).hexdigest()

    def test_another_process_with_another_hash_seed_finds_the_same(self):
        root = Path(__file__).parents[1]
        code = (
            "import importlib.util, json, sys\n"
            f"spec = importlib.util.spec_from_file_location('pinned', {__file__!r})\n"
            "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
            "print(json.dumps(module.keys()))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": str(root)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert json.loads(done.stdout) == PINNED


class TestEqual:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"temperature": 1}, {"temperature": 1.0}),
            ({"temperature": 0.0}, {"temperature": -0.0}),
            ({"model": "models/gemini-3-pro-image"}, {"model": "gemini-3-pro-image"}),
            ({"stream": True}, {"stream": False}),
            ({"extra_body": {"a": 1, "b": {"d": 2, "c": 3}}}, {"extra_body": {"b": {"c": 3.0, "d": 2}, "a": 1.0}}),
            ({"extra_body": {"a": (1, 2)}}, {"extra_body": {"a": [1, 2]}}),
            ({"extra_body": {}}, {"extra_body": None}),
            ({"safety_settings": {}}, {}),
            ({"safety_settings": {"A": "1", "B": "2"}}, {"safety_settings": {"B": "2", "A": "1"}}),
            ({"aspect_ratio": None, "seed": None, "google_search": False, "sample": 0}, {}),
        ],
    )
    def test_requests_that_ask_the_same(self, one, other):
        assert key(ImageRequest("a cat", **one)) == key(ImageRequest("a cat", **other))

    @pytest.mark.parametrize(
        "base_url",
        ["https://API.n1n.ai", "HTTPS://api.n1n.ai/", "https://api.n1n.ai:443", " https://api.n1n.ai//\n",
         "https://me:secret@api.n1n.ai"],
    )  # fmt: skip
    def test_ways_to_write_one_gateway(self, base_url):
        assert key(base_url=base_url) == key()

    def test_how_an_input_is_named_does_not_matter(self):
        named = [ImageRequest("a cat", images=(source,)) for source in (b"cat", "cat.png", Path("x"), "s3://b/k?x=1")]
        assert len({key(request, CAT) for request in named}) == 1

    def test_members_of_an_enumeration_are_their_values(self):
        class Style(str, enum.Enum):
            VIVID = "vivid"

        one, other = ({"style": Style.VIVID}, {"style": "vivid"})
        assert key(ImageRequest("a cat", extra_body=one)) == key(ImageRequest("a cat", extra_body=other))


class TestDifferent:
    def test_every_field_that_changes_the_answer_changes_the_key(self):
        changed = {
            "prompt": "a dog", "model": "gemini-3-pro-image", "aspect_ratio": "1:1", "image_size": "1K",
            "temperature": 0, "seed": 0, "thinking_level": "high", "system_instruction": "be brief",
            "safety_settings": {"A": "B"}, "google_search": True, "extra_body": {"a": 1}, "sample": 1,
        }  # fmt: skip
        requests = [ImageRequest(**{"prompt": "a cat", name: value}) for name, value in changed.items()]
        assert len({key(), *map(key, requests)}) == len(changed) + 1
        assert set(changed) == {field.name for field in dataclasses.fields(ImageRequest)} - {"images", "stream"}

    @pytest.mark.parametrize(
        "where",
        [{"account": "tenant-2"}, {"scope": "run-2"}, {"base_url": "https://api.other.ai"},
         {"base_url": "http://api.n1n.ai"}, {"base_url": "https://api.n1n.ai:8443"},
         {"base_url": "https://api.n1n.ai/Proxy"}],
    )  # fmt: skip
    def test_accounts_scopes_and_gateways(self, where):
        assert key(**where) != key()

    def test_inputs_by_content_order_and_number(self):
        one, two = (ImageRequest("a cat", images=(b"x",) * number) for number in (1, 2))
        found = {key(one, CAT), key(one, DOG), key(two, CAT, DOG), key(two, DOG, CAT), key(two, CAT, CAT), key()}
        assert len(found) == 6

    def test_an_option_is_not_mistaken_for_another(self):
        assert key(ImageRequest("a cat", aspect_ratio="1K")) != key(ImageRequest("a cat", image_size="1K"))

    def test_true_is_not_one_and_text_is_no_number(self):
        bodies = [{"a": value} for value in (True, 1, "1", 1.5, None, [], {}, "", False, 0)]
        assert len({key(ImageRequest("a cat", extra_body=body)) for body in bodies}) == len(bodies)

    def test_large_whole_numbers_keep_their_last_digit(self):
        bodies = [{"a": 10**16 + last} for last in (0, 1)]
        assert len({key(ImageRequest("a cat", extra_body=body)) for body in bodies}) == 2


class TestRefused:
    @pytest.mark.parametrize(
        "value",
        [b"bytes", {1, 2}, object(), datetime.date(2026, 1, 1), float("nan"), float("inf"), 1j, 2**64, -(2**63) - 1,
         {1: "a"}, {None: "a"}, [{"deep": {("a",): 1}}]],
    )  # fmt: skip
    def test_what_json_does_not_have(self, value):
        with pytest.raises(InvalidRequestError, match="JSON"):
            key(ImageRequest("a cat", extra_body={"a": value}))

    def test_a_temperature_that_is_no_number(self):
        with pytest.raises(InvalidRequestError, match="nan"):
            key(ImageRequest("a cat", temperature=float("nan")))

    def test_a_body_that_holds_itself(self):
        body: dict[str, object] = {}
        body["a"] = [body]
        with pytest.raises(InvalidRequestError, match="holds itself"):
            key(ImageRequest("a cat", extra_body=body))

    @pytest.mark.parametrize("hashes", [(), (CAT,), (CAT, DOG, CAT)])
    def test_another_number_of_hashes_than_of_inputs(self, hashes):
        with pytest.raises(InvalidRequestError, match=f"{len(hashes)} hashes for 2"):
            key(EDIT, *hashes)

    @pytest.mark.parametrize("base_url", ["", "api.n1n.ai", "ftp://api.n1n.ai", "https://", "https://sk-x:y@h:port/"])
    def test_a_gateway_without_an_address(self, base_url):
        with pytest.raises(InvalidRequestError, match="base_url") as caught:
            key(base_url=base_url)
        assert "sk-" not in str(caught.value)

    def test_a_number_too_long_to_print(self):
        with pytest.raises(InvalidRequestError, match="64 bits"):
            key(ImageRequest("a cat", extra_body={"a": 10**5000}))
