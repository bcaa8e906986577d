"""Documents whose long base64 is left out of the parsing: the same values come out."""

import base64
import json
import random

import orjson
import pytest

from n1n_prefect.errors import MalformedReplyError
from n1n_prefect.wire import gemini
from n1n_prefect.wire.long_values import parse

NOISE = random.Random(7)
LONG = base64.b64encode(NOISE.randbytes(90_000)).decode()
PNG = b"\x89PNG\r\n\x1a\n" + NOISE.randbytes(120_000)


def parsed(document, **options):
    body = json.dumps(document, **options).encode()
    values = {}
    return parse(body, 0, len(body), values), values


def restored(found, values):
    """The document with the values back in their places."""
    if isinstance(found, dict):
        return {name: restored(value, values) for name, value in found.items()}
    if isinstance(found, list):
        return [restored(value, values) for value in found]
    return orjson.loads(b'"%b"' % values[found]) if isinstance(found, str) and found in values else found


def answer(image, **part):
    parts = [{"text": "Here."}, {"inlineData": {"mimeType": "image/png", "data": image}, **part}]
    return {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}


class TestParse:
    def test_an_image_is_left_out_and_named(self):
        found, values = parsed({"inlineData": {"data": LONG}})
        (name,) = values
        assert found == {"inlineData": {"data": name}}
        assert bytes(values[name]) == LONG.encode()

    @pytest.mark.parametrize("key", ["thoughtSignature", "thought_signature"])
    def test_a_signature_is_left_empty(self, key):
        assert parsed({"text": "a", key: LONG, "b": 1}) == ({"text": "a", key: "", "b": 1}, {})

    def test_several_values_have_names_of_their_own(self):
        document = {"data": [{"b64_json": LONG}, {"b64_json": LONG[::-1]}], "thoughtSignature": LONG, "n": [1, None]}
        found, values = parsed(document)
        assert len(values) == 2
        assert restored(found, values) == {**document, "thoughtSignature": ""}

    @pytest.mark.parametrize(
        "options", [{}, {"indent": 4}, {"separators": (",", ":")}, {"separators": (" , ", "  :\n")}]
    )
    def test_white_space_between_key_and_value_does_not_matter(self, options):
        found, values = parsed({"a": {"data": LONG, "b": True}}, **options)
        assert values
        assert restored(found, values) == {"a": {"data": LONG, "b": True}}

    @pytest.mark.parametrize(
        "document",
        [
            {"text": LONG},
            {"data": "data:image/png;base64," + LONG},
            {"data": LONG + '"' + LONG},
            {"data": LONG + "\\"},
            {"text": f'"data": "{LONG}'},
            {"text": f'\\"data":"{LONG}"'},
            {"data": [LONG]},
            {"other": {"metadata": LONG}},
            {"data": list(range(30_000))},
            {"data": "short"},
            {"text": "say \"data\": " + " " * 70_000 + '"'},
        ],
    )  # fmt: skip
    def test_what_is_no_plain_base64_is_parsed_as_ever(self, document):
        assert parsed(document) == (document, {})

    def test_an_escaped_value_comes_back_whole(self):
        body = b'{"data":"%b"}' % (b"A\\/" * 40_000)
        values = {}
        found = parse(body, 0, len(body), values)
        assert restored(found, values) == {"data": "A/" * 40_000}

    def test_only_what_lies_between_the_offsets_is_read(self):
        body = b'"data":"' + json.dumps({"data": LONG}).encode() + b'"'
        values = {}
        found = parse(body, 8, len(body) - 1, values)
        assert restored(found, values) == {"data": LONG}

    def test_random_documents_come_back_whole(self):
        for _ in range(60):
            document = random_value(3)
            found, values = parsed(document)
            assert restored(found, values) == document

    def test_many_short_strings_are_no_work(self):
        assert parsed(['"', "data", ""] * 200_000) == (['"', "data", ""] * 200_000, {})

    @pytest.mark.parametrize("end", [-1, -3, -100, 20])
    def test_an_error_tells_its_place_in_the_whole_document(self, end):
        body = json.dumps({"data": LONG, "b": [1, 2]}).encode()[:end]
        with pytest.raises(orjson.JSONDecodeError) as theirs:
            orjson.loads(body)
        with pytest.raises(orjson.JSONDecodeError) as ours:
            parse(body, 0, len(body), {})
        assert ours.value.pos == theirs.value.pos


def random_value(depth):
    kind = NOISE.choice(["text", "long", "number", "list", "object"] if depth else ["text", "number"])
    if kind == "text":
        return "".join(NOISE.choices('ab"\\:{}[], \n/é', k=NOISE.randrange(12)))
    if kind == "number":
        return NOISE.choice([None, True, 1, -2.5])
    if kind == "list":
        return [random_value(depth - 1) for _ in range(NOISE.randrange(4))]
    if kind == "long":
        return NOISE.choice([LONG, LONG + "\n", LONG + '"', LONG + "\\", '"' + LONG, "data:" + LONG])
    keys = ["data", "b64_json", "text", 'a"data', 'data":"']
    return {NOISE.choice(keys): random_value(depth - 1) for _ in range(NOISE.randrange(4))}


class TestReadReply:
    """Images that are long enough to be left out, in the forms that gateways give them."""

    @pytest.mark.parametrize(
        "encoded",
        [
            base64.b64encode(PNG).decode(),
            base64.urlsafe_b64encode(PNG).decode(),
            base64.b64encode(PNG).decode().rstrip("="),
            base64.encodebytes(PNG).decode(),
            "data:image/png;base64," + base64.b64encode(PNG).decode(),
        ],
        ids=["plain", "url-safe", "without padding", "in lines", "data URI"],
    )
    def test_a_long_image_is_decoded(self, encoded):
        assert gemini.read_reply(200, {}, json.dumps(answer(encoded)).encode()).data == PNG

    def test_slashes_may_be_escaped(self):
        body = json.dumps(answer(base64.b64encode(PNG).decode())).replace("/", "\\/").encode()
        assert gemini.read_reply(200, {}, body).data == PNG

    def test_a_stream_keeps_the_values_of_its_chunks_apart(self):
        draft, final = (answer(base64.b64encode(data).decode()) for data in (PNG[::-1], PNG))
        draft["candidates"][0]["content"]["parts"][1]["thought"] = True
        body = b"".join(b"data: %s\r\n\r\n" % json.dumps(chunk).encode() for chunk in (draft, final, answer("")))
        assert gemini.read_reply(200, {}, body).data == PNG

    @pytest.mark.parametrize("stray", ["\x00", "é", "!", "\\u0041", "AAA"])
    def test_a_long_image_in_bad_base64_is_refused(self, stray):
        body = json.dumps(answer("@")).replace("@", base64.b64encode(PNG).decode() + stray).encode()
        with pytest.raises(MalformedReplyError, match="bad base64"):
            gemini.read_reply(200, {}, body)

    def test_a_cut_reply_says_where_it_ends(self):
        body = json.dumps(answer(base64.b64encode(PNG).decode())).encode()[:100_000]
        with pytest.raises(MalformedReplyError, match=r"ends or breaks at character \d+ of 100000 bytes"):
            gemini.read_reply(200, {}, body)
