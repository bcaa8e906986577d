"""Faults of a healthy gateway whose model draws nothing: refusals, blocked prompts, and answers without an image."""

from typing import TYPE_CHECKING, Any

from n1n_prefect.testing.envelopes import Json
from n1n_prefect.testing.fault_kind import Fault
from n1n_prefect.testing.ledger import CallOutcome

if TYPE_CHECKING:
    from n1n_prefect.testing.exchange import Exchange

_ABSENT = "absent"
_WORDS = "I'm not able to draw that, but I would be glad to describe it."


def _undrawn_usage(usage: Json) -> Json:
    """Prompt and thoughts are still counted, and no candidate."""
    kept = {
        key: usage[key] for key in ("promptTokenCount", "promptTokensDetails", "thoughtsTokenCount") if key in usage
    }
    return {**kept, "totalTokenCount": usage["promptTokenCount"] + usage.get("thoughtsTokenCount", 0)}


def _rewrite(exchange: "Exchange", **fields: Any) -> None:
    reply = exchange.reply
    exchange.reply = {
        **{key: value for key, value in fields.items() if value != _ABSENT},
        "usageMetadata": _undrawn_usage(reply["usageMetadata"]),
        "modelVersion": reply["modelVersion"],
        "responseId": reply["responseId"],
    }


def _finish(
    name: str, outcome: CallOutcome, message: str = "", content: Any = _ABSENT, *, reason: str = "", said: str = ""
) -> Fault:
    reason = reason or name.upper()

    def effect(exchange: "Exchange", given: dict[str, Any]) -> None:
        candidate: Json = {"finishReason": reason, "index": 0}
        if given["message"]:
            candidate["finishMessage"] = given["message"]
        if content != _ABSENT:
            candidate["content"] = content
        _rewrite(exchange, candidates=[candidate])

    said = said or f"finishReason {reason} and no image"
    return Fault(name, said, False, outcome, "reply", effect, {"message": message})


def _blocked(name: str, reason: str, said: str, candidates: Any = _ABSENT, message: str = "") -> Fault:
    def effect(exchange: "Exchange", given: dict[str, Any]) -> None:
        feedback: Json = {"blockReason": reason} if reason else {}
        if given["message"]:
            feedback["blockReasonMessage"] = given["message"]
        _rewrite(exchange, candidates=candidates, promptFeedback=feedback)

    return Fault(name, said, False, "refused", "reply", effect, {"message": message})


def _text_only(exchange: "Exchange", given: dict[str, Any]) -> None:
    content = {"parts": [{"text": given["text"]}], "role": "model"}
    _rewrite(exchange, candidates=[{"content": content, "finishReason": "STOP", "index": 0}])


def _no_candidates(candidates: Any) -> Any:
    def effect(exchange: "Exchange", given: dict[str, Any]) -> None:
        del given
        _rewrite(exchange, candidates=candidates)
        exchange.reply["usageMetadata"]["candidatesTokenCount"] = 0

    return effect


_ROLE_ONLY: Json = {"role": "model"}
_NULL_PARTS: Json = {"parts": None, "role": "model"}
_SHOWN = "Unable to show the generated image. "
_BLOCK_REASONS = ("SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK")

KINDS = (
    _finish("safety", "refused", "The response was stopped for safety reasons.", _NULL_PARTS),
    _finish("prohibited_content", "refused", "The response contains prohibited content.", _NULL_PARTS),
    _finish("blocklist", "refused"),
    _finish("spii", "refused", "The response contains sensitive personal data."),
    _finish("recitation", "refused"),
    _finish("image_safety", "refused",
            _SHOWN + "It may violate the usage policies. You will not be charged for blocked images.", {}),
    _finish("image_prohibited_content", "refused", _SHOWN + "Support code: 89371032.", _ROLE_ONLY),
    _finish("image_recitation", "refused",
            _SHOWN + "It may resemble existing material. You will not be charged for blocked images.", _ROLE_ONLY),
    _finish("image_other", "no_image", _SHOWN + "Please try rephrasing the prompt.", {}),
    _finish("no_image", "no_image", "The model did not generate an image.", _ROLE_ONLY),
    _finish("other", "no_image", "", {}),
    _finish("malformed_function_call", "no_image", "Malformed function call: draw_image(", {}),
    _finish("unexpected_tool_call", "no_image", "", {}),
    _finish("too_many_tool_calls", "no_image", "", {}),
    _finish("max_tokens", "no_image", "", _ROLE_ONLY),
    _finish("language", "no_image", "", {}),
    _finish("unknown_finish_reason", "no_image", "", {}, reason="IMAGE_TOO_BEAUTIFUL",
            said="a finishReason that nobody knows and no image"),
    _finish("null_parts", "no_image", "", _NULL_PARTS, reason="STOP", said="finishReason STOP with parts null"),
    Fault("text_only", "finishReason STOP and words alone", False, "no_image", "reply", _text_only, {"text": _WORDS}),
    Fault("empty_candidates", "candidates [] without a reason", False, "refused", "reply", _no_candidates([])),
    Fault("null_candidates", "candidates null without a reason", False, "refused", "reply", _no_candidates(None)),
    _blocked("prompt_blocked", "PROHIBITED_CONTENT", "prompt blocked, candidates absent"),
    *(
        _blocked(f"prompt_blocked_{reason.lower()}", reason, f"prompt blocked with blockReason {reason}")
        for reason in _BLOCK_REASONS
    ),
    _blocked("prompt_blocked_unspecified", "BLOCK_REASON_UNSPECIFIED", "prompt blocked for an unspecified reason"),
    _blocked("prompt_blocked_no_reason", "", "prompt blocked with a message and no blockReason",
             message="Please change the prompt and try again."),
    _blocked("prompt_blocked_null_candidates", "SAFETY", "prompt blocked, candidates null", None),
    _blocked("prompt_blocked_empty_candidates", "SAFETY", "prompt blocked, candidates []", []),
)  # fmt: skip
