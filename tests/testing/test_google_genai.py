"""The vendor's own SDK accepts the local gateway as the real service."""

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from n1n_prefect.testing import LocalGateway
from tests.testing.asking import png

genai = pytest.importorskip("google.genai")
types, errors = genai.types, genai.errors

FIRST = "gemini-2.5-flash-image"
FLASH = "gemini-3.1-flash-image"


@pytest.fixture
def client(gateway: LocalGateway) -> "Iterator[genai.Client]":
    """A client that speaks the documented version; newer SDKs take `v1` of themselves."""
    options = types.HttpOptions(base_url=gateway.base_url, api_version="v1beta")
    with genai.Client(api_key=gateway.api_key, http_options=options) as client:
        yield client


def last_image(parts: list) -> Image.Image:
    blob = [part.inline_data for part in parts if part.inline_data][-1]
    image = Image.open(io.BytesIO(blob.data))
    image.load()
    assert f"image/{image.format.lower()}" == blob.mime_type
    return image


class TestGenerate:
    def test_an_image_of_the_asked_shape(self, client, gateway: LocalGateway) -> None:
        response = client.models.generate_content(
            model=FLASH,
            contents="a lighthouse at dusk",
            config=types.GenerateContentConfig(
                response_modalities=["TEXT", "IMAGE"],
                image_config=types.ImageConfig(aspect_ratio="21:9", image_size="1K"),
                system_instruction="You paint.",
                temperature=0.5,
                seed=7,
                thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.HIGH, include_thoughts=True),
                safety_settings=[
                    types.SafetySetting(
                        category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                        threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
                    )
                ],
                tools=[types.Tool(google_search=types.GoogleSearch())],
            ),
        )
        assert last_image(response.parts).size == (1584, 672)
        assert response.candidates[0].finish_reason is types.FinishReason.STOP
        assert response.usage_metadata.candidates_tokens_details[0].modality is types.MediaModality.IMAGE
        assert (response.model_version, len(gateway.ledger.billed)) == (FLASH, 1)
        assert gateway.ledger.calls[0].dropped == ()

    def test_an_edit(self, client) -> None:
        photo = types.Part.from_bytes(data=png(300, 400), mime_type="image/png")
        response = client.models.generate_content(model=FIRST, contents=[photo, "make it blue"])
        assert last_image(response.parts).size == (864, 1184)

    def test_with_the_sdks_own_version_of_the_api(self, gateway: LocalGateway) -> None:
        options = types.HttpOptions(base_url=gateway.base_url)
        with genai.Client(api_key=gateway.api_key, http_options=options) as client:
            assert last_image(client.models.generate_content(model=FIRST, contents="a lighthouse").parts)

    # The SDK uses aiohttp where it is installed, as beside prefect-aws, and inherits from one of its classes.
    @pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
    async def test_asynchronously(self, client) -> None:
        response = await client.aio.models.generate_content(model=FIRST, contents="a lighthouse")
        assert last_image(response.parts).size == (1024, 1024)
        await client.aio.aclose()

    def test_a_chat_sends_the_signatures_back(self, client, gateway: LocalGateway) -> None:
        chat = client.chats.create(model=FLASH)
        chat.send_message("a lighthouse")
        assert last_image(chat.send_message("now at night").parts)
        assert len(gateway.ledger.billed) == 2


class TestStream:
    def test_words_first_and_the_image_last(self, client) -> None:
        chunks = list(client.models.generate_content_stream(model=FIRST, contents="a lighthouse"))
        assert len(chunks) == 3
        assert chunks[0].text.startswith("Here is your picture")
        assert last_image(chunks[-1].parts).size == (1024, 1024)
        assert chunks[-1].usage_metadata.total_token_count > 1290


class TestTrouble:
    def test_a_refusal(self, client, gateway: LocalGateway) -> None:
        gateway.faults.add("image_safety")
        candidate = client.models.generate_content(model=FIRST, contents="a lighthouse").candidates[0]
        assert candidate.finish_reason is types.FinishReason.IMAGE_SAFETY
        assert candidate.content.parts is None

    def test_a_blocked_prompt(self, client, gateway: LocalGateway) -> None:
        gateway.faults.add("prompt_blocked")
        feedback = client.models.generate_content(model=FIRST, contents="a lighthouse").prompt_feedback
        assert feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT

    def test_a_bad_request_says_which_field(self, client) -> None:
        config = types.GenerateContentConfig(image_config=types.ImageConfig(aspect_ratio="17:9"))
        with pytest.raises(errors.ClientError, match="aspect_ratio") as refused:
            client.models.generate_content(model=FIRST, contents="a lighthouse", config=config)
        assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")

    def test_an_overload(self, client, gateway: LocalGateway) -> None:
        gateway.faults.add("overloaded")
        with pytest.raises(errors.ServerError, match="overloaded"):
            client.models.generate_content(model=FIRST, contents="a lighthouse")

    def test_a_wrong_key(self, gateway: LocalGateway) -> None:
        options = types.HttpOptions(base_url=gateway.base_url)
        with genai.Client(api_key="sk-wrong", http_options=options) as client, pytest.raises(errors.ClientError) as no:
            client.models.generate_content(model=FIRST, contents="a lighthouse")
        assert no.value.code == 401


class TestModels:
    def test_they_are_listed_page_by_page(self, client, gateway: LocalGateway) -> None:
        listed = [model.name for model in client.models.list(config={"page_size": 2})]
        assert listed == [f"models/{name}" for name in gateway.models]
