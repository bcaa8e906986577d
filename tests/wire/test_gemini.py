"""Requests and replies of Gemini's native image calls, with literals and recorded bodies."""

import base64
import json
from pathlib import Path

import pytest

from n1n_prefect import catalog, errors
from n1n_prefect.images import ImageRequest
from n1n_prefect.sources import LoadedImage, LoadedRequest
from n1n_prefect.wire import gemini

SAMPLES = Path(__file__).parents[1] / "samples" / "gemini"
HEADERS = {"content-type": "application/json", "x-oneapi-request-id": "req-7"}


def loaded(prompt="a red fox", images=(), **options):
    inputs = tuple(LoadedImage(data=data, sha256="0" * 64, media_type="image/png", label="in.png") for data in images)
    return LoadedRequest(request=ImageRequest(prompt, images=images, **options), images=inputs)


def body_of(*args, **kwargs):
    return json.loads(gemini.build(loaded(*args, **kwargs)).body)


def read(name, status=200, headers=HEADERS):
    return gemini.read_reply(status, headers, (SAMPLES / name).read_bytes())


def pixel(data):
    """The colour of the one-colour PNG in a sample, to tell images apart."""
    import zlib

    start = data.index(b"IDAT") + 4
    return tuple(zlib.decompressobj().decompress(data[start:])[1:4])


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class TestBuild:
    def test_the_smallest_request_holds_nothing_that_was_not_asked(self):
        request = gemini.build(loaded())
        assert (request.method, request.path) == ("POST", "/v1beta/models/gemini-2.5-flash-image:generateContent")
        assert json.loads(request.body) == {
            "contents": [{"role": "user", "parts": [{"text": "a red fox"}]}],
            "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]},
        }
        assert not any("key" in name.lower() or "auth" in name.lower() for name in request.headers)

    def test_ratio_and_size_are_plain_strings_in_image_config(self):
        config = body_of(model="gemini-3-pro-image", aspect_ratio="16:9", image_size="2K")["generationConfig"]
        assert config["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}

    def test_inputs_are_inline_with_the_type_of_their_bytes(self):
        parts = body_of("make it blue", images=(b"abc", b"defg"))["contents"][0]["parts"]
        assert parts[0] == {"text": "make it blue"}
        assert [part["inlineData"]["data"] for part in parts[1:]] == ["YWJj", "ZGVmZw=="]
        assert parts[1]["inlineData"]["mimeType"] == "image/png"

    def test_everything_else_that_may_be_asked(self):
        body = body_of(
            model="gemini-3.1-flash-image", temperature=0, seed=0, thinking_level="high", google_search=True,
            system_instruction="Only foxes.", safety_settings={"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"},
        )  # fmt: skip
        assert body["generationConfig"] == {
            "responseModalities": ["TEXT", "IMAGE"], "thinkingConfig": {"thinkingLevel": "high"},
            "temperature": 0, "seed": 0,
        }  # fmt: skip
        assert body["tools"] == [{"googleSearch": {}}]
        assert body["systemInstruction"] == {"parts": [{"text": "Only foxes."}]}
        assert body["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]

    def test_extra_body_is_merged_last_and_deep(self):
        body = body_of(aspect_ratio="1:1", extra_body={"generationConfig": {"topP": 0.5}, "cachedContent": "c"})
        assert body["generationConfig"]["topP"] == 0.5
        assert body["generationConfig"]["imageConfig"] == {"aspectRatio": "1:1"}
        assert body["cachedContent"] == "c"

    def test_the_stream_is_another_verb_and_the_same_body(self):
        plain, stream = gemini.build(loaded()), gemini.build(loaded(stream=True))
        assert stream.path.endswith(":streamGenerateContent?alt=sse")
        assert stream.body == plain.body

    def test_a_model_name_cannot_leave_its_place_in_the_path(self):
        path = gemini.build(loaded(model="models/x/../../admin?key=1#")).path
        assert path == "/v1beta/models/x%2F..%2F..%2Fadmin%3Fkey%3D1%23:generateContent"

    def test_a_body_over_the_gateways_cap_is_refused(self):
        big = b"\0" * (6 * 1024**2)
        with pytest.raises(errors.InvalidRequestError, match=r"5 input images; gateways take at most 33554432"):
            gemini.build(loaded(images=(big,) * 5))


class TestCheck:
    @pytest.mark.parametrize("model", catalog.MODELS, ids=lambda model: model.id)
    def test_all_that_the_catalogue_lists_passes(self, model):
        for ratio in model.aspect_ratios:
            for size in (None, *model.image_sizes):
                gemini.check(loaded(model=model.id, aspect_ratio=ratio, image_size=size))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"prompt": " \n"}, "empty"),
            ({"aspect_ratio": "1:8"}, "1:1, 2:3"),
            ({"aspect_ratio": "16x9"}, "'16x9'"),
            ({"image_size": "1K"}, "leave image_size out"),
            ({"image_size": "2k", "model": "gemini-3-pro-image"}, "1K, 2K, 4K"),
            ({"image_size": "512", "model": "gemini-nano-banana-2.1"}, "1K, 2K, 4K"),
            ({"thinking_level": "high"}, "leave thinking_level out"),
            ({"temperature": 2.5}, "between 0 and 2"),
            ({"temperature": 1.0, "model": "gemini-nano-banana-2.1"}, "takes no temperature"),
            ({"seed": 0, "model": "gemini-nano-banana-2.1"}, "takes no seed"),
            ({"google_search": True}, "cannot search"),
            ({"images": (b"x",) * 15}, "15 input images"),
            ({"images": (b"x" * (7 * 1024**2 + 1),)}, "'in.png' has 7340033 bytes"),
        ],
    )
    def test_what_cannot_work_is_named_with_the_remedy(self, options, said):
        with pytest.raises(errors.InvalidRequestError) as caught:
            gemini.check(loaded(**options))
        assert said in str(caught.value)
        assert caught.value.charged == "no"

    def test_an_alias_is_checked_like_its_model(self):
        with pytest.raises(errors.InvalidRequestError):
            gemini.check(loaded(model="gemini-3-pro-image-preview", aspect_ratio="1:8"))

    def test_an_unknown_model_passes_with_what_it_was_given(self):
        gemini.check(loaded(model="gemini-9-image", aspect_ratio="7:5", image_size="16K", temperature=9, seed=1))

    def test_the_limits_themselves_pass(self):
        gemini.check(loaded(images=(b"x" * (7 * 1024**2),)))
        gemini.check(loaded(images=(b"x",) * 14))


class TestReadReply:
    def test_thoughts_are_skipped_and_the_last_image_taken(self):
        reply = read("pro-thinking.json")
        assert pixel(reply.data) == BLUE
        assert reply.text == "Here is your fox."
        assert (reply.finish_reason, reply.model_version, reply.response_id) == ("STOP", "gemini-3-pro-image", "resp-1")
        assert reply.request_id == "req-7"

    def test_usage_is_told_by_kind_and_the_unexplained_rest_is_text(self):
        usage = read("pro-thinking.json").usage
        assert (usage.input_text_tokens, usage.output_image_tokens) == (14, 1120)
        assert (usage.output_text_tokens, usage.thinking_tokens, usage.total_tokens) == (163, 174, 1471)

    def test_no_thought_signature_leaves_the_parser(self):
        assert "QQQQ" not in repr(read("pro-thinking.json"))

    @pytest.mark.parametrize(
        "name",
        ["drafts-unmarked.json", "snake-case.json", "nulls.json", "markdown-data-uri.json", "openai-b64.json",
         "unknown-reason-with-image.json", "stream.sse", "stream-array.json"],
    )  # fmt: skip
    def test_the_image_is_found_wherever_gateways_put_it(self, name):
        assert pixel(read(name).data) == BLUE

    def test_a_lone_draft_is_better_than_nothing(self):
        assert pixel(read("only-draft.json").data) == RED

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("markdown-url.json", "https://img.example.com/a/fox?sig=1"),
            ("bare-url.json", "https://img.example.com/a/1234"),
            ("url-in-words.json", "https://img.example.com/fox.png"),
            ("parts-url.json", "https://img.example.com/fox.webp"),
            ("file-uri.json", "https://img.example.com/f"),
            ("openai-url.json", "https://img.example.com/o.png"),
        ],
    )
    def test_an_address_in_place_of_bytes_is_given_as_such(self, name, url):
        reply = read(name)
        assert (reply.url, reply.data) == (url, b"")

    def test_markdown_does_not_stay_in_the_text(self):
        assert read("markdown-data-uri.json").text == "Here you go"

    def test_a_stream_gathers_text_and_takes_the_last_usage(self):
        reply = read("stream.sse", headers={"content-type": "text/event-stream"})
        assert reply.text == "Here it is."
        assert (reply.usage.output_image_tokens, reply.response_id) == (1290, "s1")

    def test_missing_usage_never_fails_a_paid_image(self):
        assert read("nulls.json").usage.total_tokens == 0

    def test_usage_without_details_counts_as_image(self):
        assert read("snake-case.json").usage.output_image_tokens == 1290

    def test_a_stream_line_of_tens_of_megabytes(self):
        image = base64.b64encode(b"\x89PNG" + bytes(24_000_000)).decode()
        line = json.dumps({"candidates": [{"content": {"parts": [{"inlineData": {"data": image}}]}}]})
        reply = gemini.read_reply(200, {}, f": ping\n\nevent: message\ndata: {line}\n\ndata: [DONE]\n\n".encode())
        assert len(reply.data) == 24_000_004

    def test_a_body_may_be_a_memoryview(self):
        body = (SAMPLES / "stream.sse").read_bytes()
        assert pixel(gemini.read_reply(200, {}, memoryview(body + b"trailer")[: len(body)]).data) == BLUE

    @pytest.mark.parametrize("sloppy", ["{}", "{}=", "\n{}\n"])
    def test_base64_with_missing_padding_newlines_or_url_alphabet(self, sloppy):
        data = b"\xfb\xff\xfe" * 40 + b"\x01"
        text = sloppy.format(base64.urlsafe_b64encode(data).decode().rstrip("="))
        body = json.dumps({"candidates": [{"content": {"parts": [{"inlineData": {"data": text}}]}}]}).encode()
        assert gemini.read_reply(200, {}, body).data == data


class TestNoImage:
    @pytest.mark.parametrize(
        ("name", "kind", "reason", "words"),
        [
            ("refused-image-safety.json", errors.RefusedError, "IMAGE_SAFETY", "Unable to show"),
            ("refused-prohibited-role-only.json", errors.RefusedError, "IMAGE_PROHIBITED_CONTENT", "39322892"),
            ("blocked-prompt.json", errors.RefusedError, "PROHIBITED_CONTENT", "not allowed"),
            ("blocked-message-only.json", errors.RefusedError, "no reason given", "Not this."),
            ("moderated-silently.json", errors.RefusedError, "", ""),
            ("no-image.json", errors.NoImageError, "NO_IMAGE", ""),
            ("unknown-reason.json", errors.NoImageError, "COSMIC_RAYS", ""),
            ("text-only.json", errors.NoImageError, "STOP", "describe a fox"),
            ("policy-link.json", errors.NoImageError, "STOP", "cannot draw"),
            ("openai-empty.json", errors.NoImageError, "", ""),
            ("nothing-at-all.json", errors.NoImageError, "", ""),
        ],
    )
    def test_why_no_image_came(self, name, kind, reason, words):
        with pytest.raises(kind) as caught:
            read(name)
        assert caught.value.finish_reason == reason
        assert words in caught.value.model_text
        assert words in str(caught.value)
        assert caught.value.request_id == "req-7"

    @pytest.mark.parametrize(
        "reason",
        ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "IMAGE_SAFETY",
         "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"],
    )  # fmt: skip
    def test_every_content_refusal_is_final_but_the_flaky_one(self, reason):
        body = json.dumps({"candidates": [{"finishReason": reason}]}).encode()
        with pytest.raises(errors.RefusedError) as caught:
            gemini.read_reply(200, {}, body)
        assert caught.value.is_transient is (reason == "IMAGE_SAFETY")

    @pytest.mark.parametrize(
        "reason", ["NO_IMAGE", "IMAGE_OTHER", "OTHER", "MALFORMED_FUNCTION_CALL", "MAX_TOKENS", "LANGUAGE"]
    )
    def test_every_failure_of_the_model_may_be_tried_once_more(self, reason):
        body = json.dumps({"candidates": [{"finishReason": reason, "content": {"parts": []}}]}).encode()
        with pytest.raises(errors.NoImageError) as caught:
            gemini.read_reply(200, {}, body)
        assert caught.value.is_transient

    @pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "IMAGE_SAFETY", "JAILBREAK", "NEW_ONE"])
    def test_every_block_of_a_prompt_is_a_refusal(self, reason):
        with pytest.raises(errors.RefusedError, match=reason):
            gemini.read_reply(
                200, {}, json.dumps({"candidates": [], "promptFeedback": {"blockReason": reason}}).encode()
            )

    def test_words_that_were_billed_are_said_to_be(self):
        with pytest.raises(errors.NoImageError) as caught:
            read("text-only.json")
        assert caught.value.charged == "yes"


class TestMalformed:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "an empty body"),
            (b"  \n", "an empty body"),
            (b"<!DOCTYPE html><html>oops", "an HTML page"),
            (b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"iVBOR', "ends or breaks"),
            (b'data: {"candidates":[{"conte', "ends or breaks"),
            (b"pong", "no JSON"),
            (b"42", "no object"),
            (b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"a*b*"}}]}}]}', "bad base64"),
            (b'{"candidates":[{"content":{"parts":[{"inlineData":{"data":"!!!!"}}]}}]}', "bad base64"),
        ],
    )
    def test_success_that_is_none_may_have_been_charged(self, body, said):
        with pytest.raises(errors.MalformedReplyError) as caught:
            gemini.read_reply(200, HEADERS, body)
        assert said in str(caught.value)
        assert (caught.value.charged, caught.value.request_id) == ("unknown", "req-7")

    @pytest.mark.parametrize(
        "body",
        [
            {"candidates": "x"}, {"candidates": [None, 3]}, {"candidates": [{"content": {"parts": "x"}}]},
            {"candidates": [{"content": None}]}, {"data": {"b64_json": 1}}, {"usageMetadata": {"totalTokenCount": "9"}},
            {"candidates": [{"content": {"parts": [{"inlineData": {"data": 5}}]}}]}, [],
        ],
    )  # fmt: skip
    def test_nonsense_is_an_answer_without_an_image(self, body):
        with pytest.raises(errors.NoImageError):
            gemini.read_reply(200, {}, json.dumps(body).encode())

    def test_an_error_inside_a_success_is_the_error(self):
        with pytest.raises(errors.GatewayError, match="overloaded") as caught:
            read("error-in-200.json")
        assert caught.value.request_id == "20261101abc"

    def test_an_error_in_the_middle_of_a_stream(self):
        with pytest.raises(errors.OutcomeUnknownError, match="cancelled"):
            read("stream-error.sse", headers={})


class TestStreamsThatEndBadly:
    IMAGE = (SAMPLES / "stream.sse").read_bytes()

    @pytest.mark.parametrize(
        "behind",
        [
            b'data: {"error": {"code": 500, "message": "lost"}}\n\n',
            b'{"error": {"code": 500, "message": "lost"}}\n',
            b'data: {"candidates": [{"content": {"parts": [{"thoughtSignature": "QQ',
        ],
    )
    def test_an_image_that_came_whole_is_kept(self, behind):
        assert pixel(gemini.read_reply(200, {}, self.IMAGE + behind).data) == BLUE

    def test_without_an_image_the_first_error_counts(self):
        with pytest.raises(errors.GatewayError, match="lost"):
            gemini.read_reply(200, {}, b'data: {"error": {"code": 500, "message": "lost"}}\n\ndata: {"cut')


class TestOddShapes:
    PART = json.loads((SAMPLES / "unknown-reason-with-image.json").read_text())["candidates"][0]["content"]["parts"][0]

    @pytest.mark.parametrize(
        "around",
        [
            {"responseId": 7, "modelVersion": ["x"]},
            {"promptFeedback": "none", "usageMetadata": "none"},
            {"usageMetadata": {"totalTokenCount": 1e300, "candidatesTokensDetails": "x"}},
            {"data": [{"url": 5}, {"b64_json": 5}]},
        ],
    )
    def test_nonsense_around_an_image_does_not_cost_it(self, around):
        body = {"candidates": [{"finishReason": 1, "finishMessage": {}, "content": {"parts": [self.PART]}}], **around}
        assert pixel(gemini.read_reply(200, {}, json.dumps(body).encode()).data) == BLUE

    @pytest.mark.parametrize("uri", ["gs://bucket/a.png", "files/abc"])
    def test_an_address_that_cannot_be_fetched_does_not_hide_the_image(self, uri):
        parts = [self.PART, {"fileData": {"fileUri": uri}}]
        body = {"candidates": [{"content": {"parts": parts}}]}
        assert pixel(gemini.read_reply(200, {}, json.dumps(body).encode()).data) == BLUE

    def test_a_blocked_prompt_is_final_whatever_the_reason(self):
        with pytest.raises(errors.RefusedError) as caught:
            gemini.read_reply(200, {}, b'{"promptFeedback": {"blockReason": "IMAGE_SAFETY"}}')
        assert not caught.value.is_transient


class TestWhatIsNoRequest:
    @pytest.mark.parametrize("model", ["", " ", "../../v1/x", "a b", "m\ud800", "x/../y", "m?key=1"])
    def test_a_model_that_is_none(self, model):
        with pytest.raises(errors.InvalidRequestError, match="no model's id"):
            gemini.check(loaded(model=model))

    @pytest.mark.parametrize("options", [{"prompt": "fox \ud800"}, {"extra_body": {"a": b"x"}}])
    def test_what_json_cannot_hold(self, options):
        with pytest.raises(errors.InvalidRequestError, match="cannot be written as JSON"):
            gemini.build(loaded(**options))
