"""OpenTelemetry metrics: how long calls take, what they use and cost, and how images end.

Through the API alone: nothing is counted until an SDK is configured, and one that fails costs a number,
never a call. `gen_ai.…` are OpenTelemetry's own names for generative AI (semantic conventions 1.37), `n1n.…` are ours.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from n1n_prefect.__about__ import __version__
from n1n_prefect.images import GeneratedImage, Usage
from n1n_prefect.watching import unharmed

# As the conventions advise.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))


def called(seconds: float, attributes: Mapping[str, Any], usage: Usage | None) -> None:
    """One call to the gateway has ended.

    Args:
        seconds: From the first byte out to the last byte in.
        attributes: Of the call, by OpenTelemetry's names.
        usage: Its tokens, if the gateway told them.
    """
    with unharmed:
        found = _instruments()
        found.duration.record(seconds, attributes)
        if usage is not None and usage.total_tokens + usage.prompt_tokens + usage.output_tokens:
            of_call = {name: value for name, value in attributes.items() if name != "error.type"}
            found.tokens.record(usage.prompt_tokens, of_call | {"gen_ai.token.type": "input"})
            found.tokens.record(usage.output_tokens, of_call | {"gen_ai.token.type": "output"})


def ended(outcome: str, *, model: str, image: GeneratedImage | None = None, error: str = "") -> None:
    """One step of an image has ended for good: it was generated, uploaded, refused, …

    Args:
        outcome: As in the names of events.
        model: The model that was asked.
        image: The image that was paid for just now; its cost is counted.
        error: The class of what went wrong.
    """
    about = {"gen_ai.request.model": model} if model else {}
    kind = {"error.type": error} if error else {}
    with unharmed:
        found = _instruments()
        found.images.add(1, about | kind | {"n1n.outcome": outcome})
        if image is not None and image.estimated_cost_usd:
            found.cost.add(image.estimated_cost_usd, about)


def called_again(model: str) -> None:
    """A call is made again although an earlier one's answer was lost, and so may be paid twice."""
    with unharmed:
        _instruments().duplicates.add(1, {"gen_ai.request.model": model})


class _Instruments:
    def __init__(self) -> None:
        from opentelemetry import metrics

        meter = metrics.get_meter("n1n_prefect", __version__)
        self.duration = _histogram(
            meter, "gen_ai.client.operation.duration", "s", "How long calls to the gateway take.", _SECONDS
        )
        self.tokens = _histogram(
            meter, "gen_ai.client.token.usage", "{token}", "Tokens of calls, by input and output.", _TOKENS
        )
        self.images = meter.create_counter("n1n.images", "{image}", "Images by how each step of theirs ended.")
        self.cost = meter.create_counter("n1n.cost", "{USD}", "What images cost by estimate, in US dollars.")
        self.duplicates = meter.create_counter(
            "n1n.possible_duplicates", "{call}", "Calls that were made again after an answer was lost."
        )


@cache
def _instruments() -> _Instruments:
    # Made once: those of the API turn into an SDK's when one is configured later.
    return _Instruments()


def _histogram(meter: Any, name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Any:
    try:
        return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)
    except TypeError:  # before opentelemetry-api 1.30 buckets cannot be advised
        return meter.create_histogram(name, unit, description)
