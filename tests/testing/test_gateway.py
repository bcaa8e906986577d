import gzip
import http.client
import io
import json
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from n1n_prefect import catalog
from n1n_prefect.testing import Call, LocalGateway
from tests.testing.asking import Ask, asking, body, image_of, image_part, parts_of, png

PRO = "gemini-3-pro-image"
FLASH = "gemini-3.1-flash-image"
LITE = "gemini-3.1-flash-lite-image"
NEWEST = "gemini-nano-banana-2.1"
FIRST = "gemini-2.5-flash-image"


def refusal(response: httpx.Response) -> str:
    """The message of a Google 400, which names what is wrong."""
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    return error["message"]


class TestAnswer:
    def test_has_words_and_an_image_of_the_asked_shape(self, ask: Ask) -> None:
        response = ask(body("a lighthouse", imageConfig={"aspectRatio": "16:9"}))
        words, picture = parts_of(response)
        assert words["text"].startswith("Here is your picture: a lighthouse")
        assert picture["inlineData"]["mimeType"] == "image/png"
        assert (image_of(response).format, image_of(response).size) == ("PNG", (1344, 768))

    def test_images_alone_when_only_they_are_asked_for(self, ask: Ask) -> None:
        response = ask(body(responseModalities=["Image"]))
        assert [list(part) for part in parts_of(response)] == [["inlineData"]]

    @pytest.mark.parametrize(
        ("model", "size", "shape"),
        [
            (FIRST, None, (1024, 1024)),
            (PRO, None, (1408, 768)),
            (FLASH, "512", (704, 384)),
            (NEWEST, "2K", (2816, 1536)),
        ],
    )
    def test_shape_without_a_ratio(self, ask: Ask, model: str, size: str | None, shape: tuple[int, int]) -> None:
        response = ask(body(imageConfig={"imageSize": size}), model)
        assert image_of(response).size == shape

    @pytest.mark.parametrize(("width", "height", "ratio"), [(400, 300, "4:3"), (100, 180, "9:16"), (90, 95, "1:1")])
    def test_an_edit_takes_the_shape_of_its_last_input(self, ask: Ask, width: int, height: int, ratio: str) -> None:
        response = ask(body("make it blue", png(300, 100), png(width, height)), FLASH)
        assert image_of(response).size == catalog.find(FLASH).pixels(ratio)

    def test_newer_models_sign_and_draw_jpeg(self, ask: Ask, gateway: LocalGateway) -> None:
        response = ask(model=PRO)
        assert {len(part["thoughtSignature"]) for part in parts_of(response)} == {gateway.signature_chars}
        assert parts_of(response)[-1]["inlineData"]["mimeType"] == "image/jpeg"
        assert image_of(response).format == "JPEG"

    def test_thoughts_come_first_and_are_marked(self, ask: Ask) -> None:
        parts = parts_of(ask(body(thinkingConfig={"includeThoughts": True}), PRO))
        assert [part.get("thought", False) for part in parts] == [True, True, False, False]
        assert "inlineData" in parts[1]

    def test_usage_adds_up_and_exceeds_its_details(self, ask: Ask) -> None:
        usage = ask(body("make it blue", png(), imageConfig={"imageSize": "4K"}), NEWEST).json()["usageMetadata"]
        assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 3780}]
        assert usage["candidatesTokenCount"] > 3780
        assert usage["promptTokensDetails"][1] == {"modality": "IMAGE", "tokenCount": 1120}
        counts = [usage[f"{kind}TokenCount"] for kind in ("prompt", "candidates", "thoughts")]
        assert usage["totalTokenCount"] == sum(counts)

    def test_names_model_response_and_request(self, ask: Ask) -> None:
        response = ask(model="gemini-3-pro-image-preview")
        assert response.json()["modelVersion"] == PRO
        assert response.json()["responseId"]
        assert response.headers["X-Oneapi-Request-Id"]

    def test_search_is_grounded(self, ask: Ask) -> None:
        asked = body() | {"tools": [{"google_search": {"search_types": {"webSearch": {}}}}]}
        assert "groundingMetadata" in ask(asked, PRO).json()["candidates"][0]

    def test_two_answers_differ_unless_told_otherwise(self, ask: Ask, gateway: LocalGateway) -> None:
        assert parts_of(ask())[-1] != parts_of(ask())[-1]
        gateway.vary = False
        assert ask().json() == ask().json()

    def test_a_multi_turn_edit_needs_the_signatures_back(self, ask: Ask) -> None:
        drawn = parts_of(ask(model=PRO))
        user, model = body()["contents"][0], {"role": "model", "parts": drawn}
        assert ask({"contents": [user, model, user]}, PRO).status_code == 200
        bare = {"role": "model", "parts": [{"text": "Here"}, {"inlineData": drawn[-1]["inlineData"]}]}
        assert "Text part is missing a thought_signature in content position 2, part position 1" in refusal(
            ask({"contents": [user, bare, user]}, PRO)
        )
        forged = {"role": "model", "parts": [{**drawn[-1], "thoughtSignature": "Zm9yZ2Vk"}]}
        assert "Invalid thought signature for content at index 1" in refusal(
            ask({"contents": [user, forged, user]}, PRO)
        )
        foreign = {"role": "model", "parts": [{**drawn[-1], "thoughtSignature": "skip_thought_signature_validator"}]}
        assert ask({"contents": [user, foreign, user]}, PRO).status_code == 200

    def test_the_first_generation_needs_no_signature(self, ask: Ask) -> None:
        user = body()["contents"][0]
        assert ask({"contents": [user, {"role": "model", "parts": [image_part(png())]}, user]}).status_code == 200


class TestStream:
    @staticmethod
    def events(response: httpx.Response) -> list[dict]:
        lines = [line for line in response.text.splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def test_sse_gives_words_first_and_the_image_whole_in_the_last_event(self, ask: Ask) -> None:
        response = ask(action="streamGenerateContent?alt=sse")
        assert response.headers["content-type"] == "text/event-stream"
        first, empty, last = self.events(response)
        assert "text" in first["candidates"][0]["content"]["parts"][0]
        assert "candidatesTokensDetails" not in first["usageMetadata"]
        assert empty["candidates"][0]["content"] == {"role": "model"}
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert "inlineData" in last["candidates"][0]["content"]["parts"][0]
        assert last["usageMetadata"]["candidatesTokensDetails"]
        assert {event["responseId"] for event in (first, empty, last)} == {last["responseId"]}

    def test_without_alt_it_is_a_json_array(self, ask: Ask) -> None:
        chunks = ask(action="streamGenerateContent").json()
        assert [chunk["modelVersion"] for chunk in chunks] == [FIRST] * 3

    def test_a_refusal_is_one_event(self, ask: Ask, gateway: LocalGateway) -> None:
        gateway.faults.add("image_safety")
        (only,) = self.events(ask(action="streamGenerateContent?alt=sse"))
        assert only["candidates"][0]["finishReason"] == "IMAGE_SAFETY"

    def test_a_bad_request_is_no_stream(self, ask: Ask) -> None:
        assert "contents" in refusal(ask({"contents": []}, action="streamGenerateContent?alt=sse"))


class TestKey:
    @pytest.mark.parametrize("key", ["", "sk-wrong", "local", "sk-local-gateway-2"])
    def test_a_wrong_one_is_the_gateways_own_401(self, gateway: LocalGateway, key: str) -> None:
        response = httpx.post(
            f"{gateway.base_url}/v1beta/models/{FIRST}:generateContent",
            json=body(),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "new_api_error"
        assert response.json()["error"]["message"].endswith(f"(request id: {response.headers['x-oneapi-request-id']})")
        assert [(call.status, call.billed) for call in gateway.ledger.calls] == [(401, False)]

    @pytest.mark.parametrize(
        ("headers", "query", "passes"),
        [
            ({"Authorization": "Bearer local-gateway"}, "", True),
            ({"Authorization": "sk-local-gateway"}, "", True),
            ({"x-goog-api-key": "sk-local-gateway"}, "", True),
            ({}, "?key=sk-local-gateway", True),
            ({"Authorization": "Bearer sk-local-gateway"}, "?key=", True),
            ({"Authorization": "Bearer sk-local-gateway"}, "?key=sk-other", False),
            ({"Authorization": "Bearer sk-local-gateway", "x-goog-api-key": "other"}, "", False),
            ({"Authorization": "Bearer sk-other"}, "?key=sk-local-gateway", True),
        ],
    )
    def test_where_it_is_looked_for(self, gateway: LocalGateway, headers: dict, query: str, passes: bool) -> None:
        response = httpx.get(f"{gateway.base_url}/v1/models{query}", headers=headers)
        assert response.status_code == (200 if passes else 401)


class TestFields:
    """A field that is misspelt or of another type is refused by its path."""

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"prompt": "a cat"}, 'Unknown name "prompt": Cannot find field'),
            ({"generationConfig": {"aspectRatio": "1:1"}}, "Unknown name \"aspectRatio\" at 'generation_config'"),
            (
                {"generationConfig": {"imageConfig": {"imageOutputOptions": {}}}},
                "Unknown name \"imageOutputOptions\" at 'generation_config.image_config'",
            ),
            (
                {"generationConfig": {"imageConfig": {"aspectRatio": 16}}},
                "'generation_config.image_config.aspect_ratio'",
            ),
            ({"generationConfig": {"imageConfig": "16:9"}}, "'generation_config.image_config' (TYPE_MESSAGE)"),
            ({"generationConfig": {"temperature": "1"}}, "'generation_config.temperature' (TYPE_FLOAT)"),
            ({"generationConfig": {"temperature": True}}, "'generation_config.temperature' (TYPE_FLOAT)"),
            ({"generationConfig": {"seed": 2**31}}, "'generation_config.seed' (TYPE_INT32)"),
            ({"generationConfig": {"seed": 1.5}}, "'generation_config.seed' (TYPE_INT32)"),
            (
                {"generationConfig": {"responseModalities": "IMAGE"}},
                "'generation_config.response_modalities' (TYPE_LIST)",
            ),
            ({"contents": {"parts": []}}, "'contents' (TYPE_LIST)"),
            ({"contents": [{"parts": [{"txt": "a cat"}]}]}, "Unknown name \"txt\" at 'contents[0].parts[0]'"),
            ({"contents": [{"parts": [{"text": ["a cat"]}]}]}, "'contents[0].parts[0].text' (TYPE_STRING)"),
            (
                {"contents": [{"parts": [{"text": "a"}, {"inlineData": {"mime": "image/png"}}]}]},
                "Unknown name \"mime\" at 'contents[0].parts[1].inline_data'",
            ),
            (
                {"safetySettings": [{"category": "HARM_CATEGORY_FUN", "threshold": "OFF"}]},
                "'safety_settings[0].category'",
            ),
            (
                {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK"}]},
                "'safety_settings[0].threshold'",
            ),
            (
                {"tools": [{"googleSearch": {"searchTypes": {"webSearch": True}}}]},
                "'tools[0].google_search.search_types",
            ),
            ({"cachedContent": "cachedContents/1"}, "'cached_content'"),
        ],
    )
    def test_is_named(self, ask: Ask, more: dict, said: str) -> None:
        assert said in refusal(ask(body() | more, FLASH))

    def test_a_null_is_as_good_as_nothing(self, ask: Ask) -> None:
        asked = body() | {"safetySettings": None, "generationConfig": {"imageConfig": {"aspectRatio": None}}}
        assert ask(asked).status_code == 200

    def test_a_missing_role_is_tolerated_and_a_wrong_one_is_not(self, ask: Ask) -> None:
        assert ask({"contents": [{"parts": [{"text": "a cat"}]}]}).status_code == 200
        assert "valid role" in refusal(ask({"contents": [{"role": "system", "parts": [{"text": "a cat"}]}]}))

    @pytest.mark.parametrize("raw", [b"", b"{", b"[1,", b"\xff\xfe", b'{"contents": NaN}'])
    def test_a_body_that_is_not_json_is_the_gateways_own_400(self, ask: Ask, raw: bytes) -> None:
        response = ask(content=raw)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")

    @pytest.mark.parametrize("raw", [b"[]", b'"a cat"', b"null", b"7"])
    def test_a_body_that_is_no_object_is_refused(self, ask: Ask, raw: bytes) -> None:
        assert "TYPE_MESSAGE" in refusal(ask(content=raw))

    def test_nesting_without_end_is_refused_and_not_fatal(self, ask: Ask) -> None:
        deep: dict = {}
        for _ in range(400):
            deep = {"a": deep}
        assert "too deeply" in refusal(ask(body() | {"toolConfig": deep}))


class TestSpelling:
    """Which snake_case the gateway understands, and which it drops without a word."""

    def test_understood(self, ask: Ask, gateway: LocalGateway) -> None:
        blob = {"mime_type": "image/png", "data": b64encode(png(200, 100)).decode()}
        asked = {
            "contents": [{"parts": [{"text": "make it blue"}, {"inline_data": blob}]}],
            "system_instruction": {"parts": [{"text": "You paint."}]},
            "generationConfig": {
                "image_config": {"aspect_ratio": "9:16", "image_size": "512"},
                "response_modalities": ["IMAGE"],
            },
        }
        assert image_of(ask(asked, FLASH)).size == (384, 688)
        assert gateway.ledger.calls[0].dropped == ()

    def test_dropped_and_noted_in_the_ledger(self, ask: Ask, gateway: LocalGateway) -> None:
        asked = body() | {
            "generation_config": {"image_config": {"aspect_ratio": "9:16"}},
            "safety_settings": [{"category": "NONSENSE"}],
            "generationConfig": {"responseFormat": {"image": {"aspectRatio": "9:16"}}},
        }
        asked["contents"][0]["parts"].append({"text": "more", "thought_signature": "x"})
        assert image_of(ask(asked)).size == (1024, 1024)
        assert set(gateway.ledger.calls[0].dropped) == {
            "generation_config", "safety_settings", "generation_config.responseFormat",
            "contents[0].parts[1].thought_signature",
        }  # fmt: skip

    def test_a_part_with_nothing_but_a_dropped_field_is_empty(self, ask: Ask) -> None:
        asked = {"contents": [{"parts": [{"text": "a"}, {"file_data": {"file_uri": "https://example.com/a.png"}}]}]}
        assert "contents[0].parts[1].data: required oneof" in refusal(ask(asked))


class TestModelRules:
    @pytest.mark.parametrize(
        ("model", "config", "said"),
        [
            (FIRST, {"imageConfig": {"aspectRatio": "1:4"}}, "image_config.aspect_ratio"),
            (PRO, {"imageConfig": {"aspectRatio": "8:1"}}, "image_config.aspect_ratio"),
            (FLASH, {"imageConfig": {"aspectRatio": "auto"}}, "image_config.aspect_ratio"),
            (FLASH, {"imageConfig": {"aspectRatio": "9:21"}}, "image_config.aspect_ratio"),
            (FLASH, {"imageConfig": {"aspectRatio": "16x9"}}, "image_config.aspect_ratio"),
            (FIRST, {"imageConfig": {"imageSize": "1K"}}, "image_config.image_size"),
            (LITE, {"imageConfig": {"imageSize": "2K"}}, "image_config.image_size"),
            (PRO, {"imageConfig": {"imageSize": "512"}}, "image_config.image_size"),
            (NEWEST, {"imageConfig": {"imageSize": "512"}}, "image_config.image_size"),
            (FLASH, {"imageConfig": {"imageSize": "2k"}}, "image_config.image_size"),
            (FLASH, {"imageConfig": {"imageSize": "0.5K"}}, "image_config.image_size"),
            (NEWEST, {"temperature": 1}, "generation_config.temperature"),
            (NEWEST, {"seed": 1}, "generation_config.seed"),
            (NEWEST, {"topK": 64}, "generation_config.top_k"),
            (FLASH, {"temperature": 2.1}, "generation_config.temperature"),
            (FLASH, {"topP": -0.1}, "generation_config.top_p"),
            (FLASH, {"maxOutputTokens": 0}, "generation_config.max_output_tokens"),
            (FLASH, {"candidateCount": 2}, "candidate_count"),
            (FLASH, {"responseMimeType": "application/json"}, "response_mime_type"),
            (FLASH, {"responseModalities": ["TEXT"]}, "response modalities: text"),
            (FLASH, {"responseModalities": ["IMAGE", "AUDIO"]}, "response modalities: image,audio"),
            (FLASH, {"responseModalities": ["PICTURE"]}, "response_modalities[0]"),
            (FIRST, {"thinkingConfig": {"includeThoughts": True}}, "thinking is not supported"),
            (FLASH, {"thinkingConfig": {"thinkingLevel": "medium"}}, "thinking_level"),
            (NEWEST, {"thinkingConfig": {"thinkingLevel": "low"}}, "thinking_level"),
            (NEWEST, {"thinkingConfig": {"thinkingBudget": 100}}, "thinking_budget"),
            (PRO, {"thinkingConfig": {"thinkingBudget": 100, "thinkingLevel": "high"}}, "only one of"),
        ],
    )
    def test_broken_is_a_400_that_names_it(self, ask: Ask, model: str, config: dict, said: str) -> None:
        assert said in refusal(ask(body(**config), model))

    @pytest.mark.parametrize(
        ("model", "config"),
        [
            (FIRST, {"temperature": 0, "topP": 1, "topK": 64, "seed": -5, "candidateCount": 1}),
            (PRO, {"thinkingConfig": {"thinkingLevel": "LOW"}}),
            (FLASH, {"thinkingConfig": {"thinkingLevel": "HIGH"}, "imageConfig": {"imageSize": "512"}}),
            (NEWEST, {"thinkingConfig": {"thinkingLevel": "medium"}, "maxOutputTokens": 32768}),
            (LITE, {"imageConfig": {"imageSize": "1K", "aspectRatio": "8:1"}}),
        ],
    )
    def test_kept_is_an_image(self, ask: Ask, model: str, config: dict) -> None:
        assert image_of(ask(body(**config), model))

    def test_search_is_for_those_that_can(self, ask: Ask) -> None:
        assert "tools[0].google_search" in refusal(ask(body() | {"tools": [{"googleSearch": {}}]}, FIRST))
        pictures = {"googleSearch": {"searchTypes": {"imageSearch": {}}}}
        assert "web search alone" in refusal(ask(body() | {"tools": [pictures]}, PRO))
        assert ask(body() | {"tools": [pictures]}, FLASH).status_code == 200
        assert "tools[0].function_declarations" in refusal(ask(body() | {"tools": [{"functionDeclarations": []}]}, PRO))

    @pytest.mark.parametrize(
        "content",
        [
            {},
            {"contents": []},
            {"contents": [{"role": "user"}]},
            {"contents": [{"parts": []}]},
            {"contents": [{"parts": [{"text": ""}]}]},
            {"contents": [{"parts": [{}]}]},
            {"contents": [{"parts": [{"text": "a", "inlineData": {"mimeType": "image/png", "data": ""}}]}]},
        ],
    )
    def test_nothing_to_draw_is_a_400_that_says_where(self, ask: Ask, content: dict) -> None:
        assert "contents" in refusal(ask(content))

    def test_an_unknown_model_has_no_channel(self, ask: Ask) -> None:
        response = ask(model="gemini-9-flash-image")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "model_not_found")
        assert error["message"].startswith("No available channel for model gemini-9-flash-image under group default")

    def test_a_model_of_the_users_own_takes_every_size(self, n1n_gateway_factory) -> None:
        own = n1n_gateway_factory(models=["my-model"], grain=False)
        with asking(own) as client:
            asked = body(imageConfig={"aspectRatio": "8:1", "imageSize": "512"})
            response = client.post("/v1beta/models/my-model:generateContent", json=asked)
            assert image_of(response).size == (1456, 176)
            assert client.post(f"/v1beta/models/{FIRST}:generateContent", json=asked).status_code == 503


class TestInputs:
    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ("not base64!", "contents[0].parts[1].inline_data.data"),
            ("data:image/png;base64,AAAA", "contents[0].parts[1].inline_data.data"),
            ("", "Source image 0 too short"),
            (b64encode(b"<html>not found</html>").decode(), "Source image 0 too short"),
            (b64encode(png(1, 1)).decode(), "Source image 0 too short"),
            (b64encode(png()[:20]).decode(), "Source image 0 too short"),
            (b64encode(png(10_000, 9_000)).decode(), "Unable to process input image 0"),
        ],
    )
    def test_broken_ones_are_refused(self, ask: Ask, data: str, said: str) -> None:
        part = {"inlineData": {"mimeType": "image/png", "data": data}}
        assert said in refusal(ask({"contents": [{"parts": [{"text": "make it blue"}, part]}]}))

    def test_one_that_ends_early_is_found_when_it_is_drawn(self, n1n_gateway: LocalGateway) -> None:
        with asking(n1n_gateway) as client:
            cut = _photo("PNG")[:2000]
            response = client.post(f"/v1beta/models/{FIRST}:generateContent", json=body("blue", png(), cut))
            assert "input image 1" in refusal(response)
        assert n1n_gateway.ledger.usd == 0

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_real_photographs_are_taken(self, ask: Ask, kind: str) -> None:
        asked = body("make it blue")
        asked["contents"][0]["parts"].append(image_part(_photo(kind), f"image/{kind.lower()}"))
        assert ask(asked).status_code == 200

    def test_heic_is_taken_unopened(self, n1n_gateway: LocalGateway) -> None:
        asked = body("make it blue")
        heic = b"\0\0\0\x18ftypheic" + bytes(100)
        asked["contents"][0]["parts"].append(image_part(heic, "image/heic"))
        with asking(n1n_gateway) as client:
            response = client.post(f"/v1beta/models/{FLASH}:generateContent", json=asked)
        assert image_of(response).size == (1408, 768)

    @pytest.mark.parametrize("media_type", ["image/jpg", "image/gif", "", "text/html"])
    def test_media_types_that_the_model_does_not_take(self, ask: Ask, media_type: str) -> None:
        asked = {"contents": [{"parts": [{"text": "blue"}, image_part(png(), media_type)]}]}
        assert "contents[0].parts[1].inline_data.mime_type" in refusal(ask(asked))

    def test_url_safe_base64_without_padding_is_taken(self, ask: Ask) -> None:
        data = b64encode(png(70, 70)).decode().rstrip("=").replace("+", "-").replace("/", "_")
        part = {"inlineData": {"mimeType": "image/png", "data": data}}
        assert ask({"contents": [{"parts": [{"text": "blue"}, part]}]}).status_code == 200

    def test_fourteen_and_no_more(self, ask: Ask) -> None:
        assert ask(body("blue", *[png()] * 14)).status_code == 200
        assert "more than 14" in refusal(ask(body("blue", *[png()] * 15)))

    def test_a_file_of_seven_megabytes_and_no_more(self, ask: Ask) -> None:
        padded = png() + bytes(catalog.MAX_INPUT_BYTES - len(png()))
        assert ask(body("blue", padded)).status_code == 200
        assert "7 MB" in refusal(ask(body("blue", padded + b"\0")))

    def test_a_body_over_the_cap_is_413(self, ask: Ask) -> None:
        response = ask(content=b'{"contents":"' + b"x" * catalog.MAX_BODY_BYTES + b'"}')
        assert (response.status_code, response.json()["error"]["code"]) == (413, "read_request_body_failed")
        assert ask().status_code == 200


class TestTransport:
    def test_a_gzipped_request_is_read(self, ask: Ask) -> None:
        raw = gzip.compress(json.dumps(body()).encode())
        assert ask(content=raw, headers={"Content-Encoding": "gzip"}).status_code == 200

    def test_a_small_bomb_counts_at_its_full_size(self, ask: Ask) -> None:
        bomb = gzip.compress(bytes(100 * 1024**2), 1)
        assert ask(content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413

    def test_a_body_that_is_not_gzip_after_all_is_400(self, ask: Ask) -> None:
        assert ask(content=b"{}", headers={"Content-Encoding": "gzip"}).status_code == 400

    def test_a_chunked_request_is_read(self, ask: Ask) -> None:
        raw = json.dumps(body()).encode()
        assert ask(content=iter([raw[:20], raw[20:]])).status_code == 200

    def test_one_connection_serves_many_calls(self, gateway: LocalGateway) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1]))
        connection.connect()
        only = connection.sock
        for path in ("/v1/models", "/nowhere", "/", "/ledger"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is only
        connection.close()

    @pytest.mark.parametrize("length", ["many", "-5", "10"])
    def test_a_request_with_a_wrong_length_harms_no_one(self, ask: Ask, gateway: LocalGateway, length: str) -> None:
        port = int(gateway.base_url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(f"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}".encode())
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
        assert ask().status_code == 200

    def test_a_caller_that_hangs_up_is_billed_all_the_same(self, gateway: LocalGateway) -> None:
        gateway.latency_seconds = 0.3
        impatient = httpx.Timeout(30, read=0.1)
        with asking(gateway) as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"/v1beta/models/{FIRST}:generateContent", json=body(), timeout=impatient)
        (call,) = _wait_for_calls(gateway, lambda calls: calls and not calls[0].delivered)
        assert (call.billed, call.delivered, call.outcome, call.status) == (True, False, "image", 200)


class TestAddresses:
    def test_models_in_both_families(self, gateway: LocalGateway) -> None:
        with asking(gateway) as client:
            listed = client.get("/v1beta/models").json()
            assert [model["name"] for model in listed["models"]] == [f"models/{name}" for name in gateway.models]
            assert "nextPageToken" not in listed
            assert "generateContent" in listed["models"][0]["supportedGenerationMethods"]
            ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
            assert ids == list(gateway.models)

    def test_models_by_the_page(self, gateway: LocalGateway) -> None:
        names, token = [], ""
        with asking(gateway) as client:
            while True:
                page = client.get("/v1beta/models", params={"pageSize": 3, "pageToken": token or "0"}).json()
                assert len(page["models"]) <= 3
                names += [model["name"].removeprefix("models/") for model in page["models"]]
                token = page.get("nextPageToken", "")
                if not token:
                    break
            assert names == list(gateway.models)
            assert "page" in refusal(client.get("/v1beta/models?pageToken=../x"))

    def test_usage_follows_the_bill(self, ask: Ask, gateway: LocalGateway) -> None:
        ask()
        with asking(gateway) as client:
            token = client.get("/api/usage/token").json()["data"]
            assert (token["total_used"], token["unlimited_quota"]) == (19_500, True)
            assert client.get("/v1/dashboard/billing/usage").json() == {"object": "list", "total_usage": 3.9}
            assert client.get("/v1/dashboard/billing/subscription").json()["hard_limit_usd"] == 100_000_000

    def test_a_key_may_have_a_limit(self, n1n_gateway_factory: Callable[..., LocalGateway]) -> None:
        with asking(n1n_gateway_factory(granted_usd=2.5)) as client:
            token = client.get("/api/usage/token").json()["data"]
            assert (token["total_available"], token["unlimited_quota"]) == (1_250_000, False)
            assert client.get("/v1/dashboard/billing/subscription").json()["hard_limit_usd"] == 2.5

    def test_a_front_page_and_the_ledger_need_no_key(self, ask: Ask, gateway: LocalGateway) -> None:
        ask(body("<script>a cat</script>"))
        page = httpx.get(gateway.base_url)
        assert page.headers["content-type"] == "text/html"
        assert "1 call, 1 billed: $0.0390" in page.text
        ledger = httpx.get(f"{gateway.base_url}/ledger").json()
        assert ledger["usd"] == 0.039
        assert ledger["calls"][0]["prompt_excerpt"] == "<script>a cat</script>"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v1/images/generations", 404),
            ("GET", "/v1beta", 404),
            ("POST", f"/v1beta/models/{FIRST}:predict", 404),
            ("GET", f"/v1beta/models/{FIRST}:generateContent", 405),
            ("DELETE", "/v1/models", 405),
            ("PUT", "/", 405),
            ("GET", "/images/../../etc/passwd", 404),
            ("GET", f"/images/{'0' * 64}.png", 404),
        ],
    )
    def test_wrong_ones_are_said_in_the_familys_way(
        self, gateway: LocalGateway, method: str, path: str, status: int
    ) -> None:
        with asking(gateway) as client:
            response = client.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert (status == 405) == ("allow" in response.headers)

    def test_head_has_no_body(self, gateway: LocalGateway) -> None:
        assert httpx.head(gateway.base_url).content == b""


class TestLife:
    def test_the_address_is_known_only_while_it_runs(self) -> None:
        gateway = LocalGateway()
        with pytest.raises(RuntimeError, match="not running"):
            _ = gateway.base_url
        gateway.start()
        assert gateway.start().base_url.startswith("http://127.0.0.1:")
        gateway.close()
        gateway.close()
        with pytest.raises(RuntimeError, match="not running"):
            _ = gateway.base_url

    def test_it_can_be_started_again_on_the_same_port(self) -> None:
        with LocalGateway() as first:
            port = int(first.base_url.rsplit(":", 1)[1])
        for _ in range(2):
            with LocalGateway(port) as again:
                assert httpx.get(again.base_url).status_code == 200

    def test_a_taken_port_is_an_error_and_not_another_port(self, gateway: LocalGateway) -> None:
        with pytest.raises(OSError, match="in use"):
            LocalGateway(int(gateway.base_url.rsplit(":", 1)[1])).start()

    def test_closing_ends_calls_in_flight_and_idle_connections(self) -> None:
        before = threading.active_count()
        gateway = LocalGateway(latency_seconds=60, canned=True, grain=False).start()
        address = ("127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1]))
        with ThreadPoolExecutor(1) as pool, asking(gateway) as client, socket.create_connection(address) as idle:
            call = pool.submit(client.post, f"/v1beta/models/{FIRST}:generateContent", json=body())
            _until(lambda: gateway.ledger.most_in_flight == 1)
            gateway.close()
            with pytest.raises(httpx.TransportError):
                call.result()
            assert idle.recv(1) == b""
        assert gateway.ledger.calls == []
        _until(lambda: threading.active_count() <= before)

    def test_reset_restores_what_was_asked_for(self, n1n_gateway_factory) -> None:
        gateway = n1n_gateway_factory(faults=["internal"], canned=True, grain=False)
        gateway.faults.clear()
        gateway.faults.add("slow")
        gateway.latency_seconds, gateway.vary, gateway.models = 5, False, ()
        gateway.reset()
        assert (gateway.faults.pending, gateway.latency_seconds, gateway.ledger.calls) == (["internal"], 0, [])
        assert gateway.vary
        assert gateway.models

    def test_one_text_in_place_of_several_is_one(self) -> None:
        gateway = LocalGateway(api_keys="sk-own", models="my-model", faults="internal")
        assert (gateway.api_keys, gateway.models) == (("sk-own",), ("my-model",))
        assert gateway.faults.pending == ["internal"]

    def test_a_call_of_the_last_test_does_not_reach_the_next_ones_ledger(self, gateway: LocalGateway) -> None:
        gateway.latency_seconds = 0.8
        old = gateway.ledger
        with ThreadPoolExecutor(1) as pool, asking(gateway) as client:
            call = pool.submit(client.post, f"/v1beta/models/{FIRST}:generateContent", json=body())
            _until(lambda: old.most_in_flight == 1)
            gateway.reset()
            assert call.result().status_code == 200
        assert (len(old.calls), len(gateway.ledger.calls)) == (1, 0)

    def test_many_callers_at_once_are_each_counted_once(self, gateway: LocalGateway) -> None:
        gateway.latency_seconds = 0.05
        with ThreadPoolExecutor(24) as pool, asking(gateway) as client:
            sent = [
                pool.submit(client.post, f"/v1beta/models/{LITE}:generateContent", json=body(f"cat {number}"))
                for number in range(72)
            ]
            pictures = {parts_of(call.result())[-1]["inlineData"]["data"] for call in sent}
        assert len(pictures) == 72
        assert sorted(call.number for call in gateway.ledger.calls) == list(range(1, 73))
        assert 1 < gateway.ledger.most_in_flight <= 24

    def test_on_call_hears_of_every_call(self, n1n_gateway_factory) -> None:
        heard: list[Call] = []
        gateway = n1n_gateway_factory(faults=["close_idle", "ok"], canned=True, grain=False, on_call=heard.append)
        with asking(gateway) as client:
            with pytest.raises(httpx.TransportError):
                client.post(f"/v1beta/models/{FIRST}:generateContent", json=body())
            client.post(f"/v1beta/models/{FIRST}:generateContent", json=body())
        _until(lambda: len(heard) == 2)
        assert [call.fault for call in heard] == ["close_idle", "ok"]


def _photo(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((120, 80), 60).convert("RGB").save(file, kind)
    return file.getvalue()


def _until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


def _wait_for_calls(gateway: LocalGateway, fits) -> list[Call]:
    _until(lambda: fits(gateway.ledger.calls))
    return gateway.ledger.calls
