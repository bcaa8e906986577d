"""Faults of answers that hold a paid image: another picture than asked for, or another shape than Google's."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from n1n_prefect.testing.envelopes import Json, page
from n1n_prefect.testing.fault_kind import Effect, Fault
from n1n_prefect.testing.replies import draft_of, image_part
from n1n_prefect.testing.schema import snake_case

if TYPE_CHECKING:
    from n1n_prefect.testing.exchange import Exchange

Details = dict[str, Any]


def _wrong_size(exchange: "Exchange", given: Details) -> None:
    picture, factor = exchange.picture, given["factor"]
    exchange.picture = replace(
        picture, width=max(1, int(picture.width * factor)), height=max(1, int(picture.height * factor))
    )


def _wrong_ratio(exchange: "Exchange", given: Details) -> None:
    del given
    picture = exchange.picture
    wide, high = picture.width, picture.height
    turned = (high, wide) if wide != high else (wide, high * 9 // 16)
    exchange.picture = replace(picture, width=turned[0], height=turned[1])


def _blank_image(exchange: "Exchange", given: Details) -> None:
    del given
    exchange.picture = replace(exchange.picture, blank=True)


def _each_data(change: Callable[[str], str]) -> Effect:
    """The effect that changes the base64 of every image."""

    def effect(exchange: "Exchange", given: Details) -> None:
        del given
        for part in exchange.image_parts():
            exchange.image_base64 = change(part["inlineData"]["data"])
            part["inlineData"] = {**part["inlineData"], "data": exchange.image_base64}

    return effect


def _mislabelled(exchange: "Exchange", given: Details) -> None:
    del given
    for part in exchange.image_parts():
        was = part["inlineData"]["mimeType"]
        part["inlineData"]["mimeType"] = "image/jpeg" if was == "image/png" else "image/png"


def _draft_parts(exchange: "Exchange", given: Details) -> None:
    content: Json = exchange.reply["candidates"][0]["content"]
    draft = image_part(draft_of(exchange.picture), exchange.draw)
    content["parts"] = [*[dict(draft) for _ in range(given["drafts"])], *content["parts"]]


def _snake_case_reply(exchange: "Exchange", given: Details) -> None:
    del given
    exchange.reply = _snaked(exchange.reply)


def _snaked(value: Any) -> Any:
    if isinstance(value, dict):
        return {snake_case(key): _snaked(inner) for key, inner in value.items()}
    return [_snaked(inner) for inner in value] if isinstance(value, list) else value


def _nulls_everywhere(exchange: "Exchange", given: Details) -> None:
    del given
    empty_part = {"text": None, "thought": None, "thoughtSignature": None, "functionCall": None, "fileData": None}
    candidate: Json = exchange.reply["candidates"][0]
    parts = [{**empty_part, "inlineData": None, **part} for part in candidate["content"]["parts"]]
    candidate.update(
        content={"parts": parts, "role": None}, safetyRatings=None, finishMessage=None, citationMetadata=None
    )
    exchange.reply.update(
        promptFeedback={"safetyRatings": None}, usageMetadata=None, modelVersion=None, responseId=None, error=None
    )


def _bare_reply(exchange: "Exchange", given: Details) -> None:
    del given
    candidate: Json = exchange.reply["candidates"][0]
    for part in candidate["content"]["parts"]:
        part.pop("thoughtSignature", None)
    usage: Json = exchange.reply["usageMetadata"]
    counts = {key: usage[key] for key in ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")}
    exchange.reply = {
        "candidates": [{**candidate, "safetyRatings": None}],
        "promptFeedback": {"safetyRatings": None},
        "usageMetadata": counts,
    }


def _missing_usage(exchange: "Exchange", given: Details) -> None:
    del given
    exchange.reply.pop("usageMetadata")


def _substituted_model(exchange: "Exchange", given: Details) -> None:
    exchange.reply["modelVersion"] = given["model"]


def _huge_signature(exchange: "Exchange", given: Details) -> None:
    for part in exchange.image_parts():
        part["thoughtSignature"] = "c2ln" * (given["characters"] // 4)


def _unknown_finish_with_image(exchange: "Exchange", given: Details) -> None:
    exchange.reply["candidates"][0]["finishReason"] = given["reason"]


def _as_parts(write: Callable[["Exchange", Json], Json]) -> Effect:
    """The effect that writes every image part in another form."""

    def effect(exchange: "Exchange", given: Details) -> None:
        del given
        content: Json = exchange.reply["candidates"][0]["content"]
        content["parts"] = [
            write(exchange, part["inlineData"]) if "inlineData" in part else part for part in content["parts"]
        ]

    return effect


def _markdown(exchange: "Exchange", blob: Json) -> Json:
    del exchange
    return {"text": f"![image](data:{blob['mimeType']};base64,{blob['data']})"}


def _url(exchange: "Exchange", blob: Json) -> str:
    return exchange.gateway.host(base64.b64decode(blob["data"]), blob["mimeType"])


def _as_openai(write: Callable[["Exchange", Json], Json]) -> Effect:
    """The effect that answers in the shape of OpenAI's image routes."""

    def effect(exchange: "Exchange", given: Details) -> None:
        del given
        items = [write(exchange, part["inlineData"]) for part in exchange.image_parts()[-1:]]
        exchange.reply = {"created": 1_760_000_000, "data": items}

    return effect


def _altered(
    name: str, description: str, effect: Effect, *, in_doubt: bool = False, by_address: bool = False, **details: Any
) -> Fault:
    return Fault(name, description, True, "image", "reply", effect, details, in_doubt, by_address)


_NOT_AN_IMAGE = base64.b64encode(page("502 Bad Gateway").encode()).decode()

KINDS = (
    Fault("wrong_size", "the picture at `factor` times the pixels asked for, ratio kept", True, "image", "picture",
          _wrong_size, {"factor": 0.5}),
    Fault("wrong_ratio", "the picture lying on its side, or 16:9 where a square was due", True, "image", "picture",
          _wrong_ratio),
    Fault("blank_image", "a picture of one colour", True, "image", "picture", _blank_image),
    _altered("mislabelled", "a PNG that is said to be image/jpeg, or the other way round", _mislabelled),
    _altered("truncated_image", "a picture whose file ends half-way",
             _each_data(lambda data: data[: len(data) // 8 * 4])),
    _altered("not_an_image", "the base64 of an HTML page", _each_data(lambda _: _NOT_AN_IMAGE), in_doubt=True),
    _altered("bad_base64", "base64 with characters that do not belong there",
             _each_data(lambda data: data[:1000] + "%%%" + data[1000:]), in_doubt=True),
    _altered("empty_data", "inlineData with an empty text", _each_data(lambda _: ""), in_doubt=True),
    _altered("draft_parts", "several images without a thought flag; the last one counts", _draft_parts, drafts=2),
    _altered("snake_case_reply", "inline_data, finish_reason and all the other names in snake_case", _snake_case_reply),
    _altered("nulls_everywhere", "every optional field present and null", _nulls_everywhere),
    _altered("bare_reply", "no signatures, model version, response id or token details", _bare_reply),
    _altered("missing_usage", "no usageMetadata", _missing_usage),
    _altered("substituted_model", "modelVersion names another `model` than was asked", _substituted_model,
             model="gemini-3.1-flash-lite-image"),
    _altered("huge_signature", "a thought signature of `characters`", _huge_signature, characters=2_900_000),
    _altered("unknown_finish_with_image", "a finishReason that nobody knows, with an image", _unknown_finish_with_image,
             reason="IMAGE_TOO_BEAUTIFUL"),
    _altered("markdown_image", "the image as a data URI in a Markdown text part", _as_parts(_markdown)),
    _altered("markdown_url", "the image as an address in a Markdown text part",
             _as_parts(lambda exchange, blob: {"text": f"![image]({_url(exchange, blob)})"}), by_address=True),
    _altered("image_url", "the image as a bare address in a text part",
             _as_parts(lambda exchange, blob: {"text": _url(exchange, blob)}), by_address=True),
    _altered("parts_url", "the image as a part with nothing but `url`",
             _as_parts(lambda exchange, blob: {"url": _url(exchange, blob)}), by_address=True),
    _altered("openai_data", "OpenAI's shape with b64_json",
             _as_openai(lambda _, blob: {"b64_json": blob["data"], "url": "", "revised_prompt": ""})),
    _altered("openai_data_url", "OpenAI's shape with an address",
             _as_openai(lambda exchange, blob: {"url": _url(exchange, blob), "b64_json": "", "revised_prompt": ""}),
             by_address=True),
)  # fmt: skip
