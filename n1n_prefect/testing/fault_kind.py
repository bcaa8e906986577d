"""What a scripted fault is: its name, what it does to a call, and whether the call is billed all the same."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from n1n_prefect.testing.ledger import CallOutcome

if TYPE_CHECKING:
    from n1n_prefect.testing.exchange import Exchange

Stage = Literal["unread", "instead", "picture", "reply", "sending"]
Effect = Callable[["Exchange", dict[str, Any]], None]


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    """How it is asked for, in lower case."""

    description: str
    """What the caller gets."""

    billed: bool
    """Whether the call is charged."""

    outcome: CallOutcome
    """What the gateway makes of the call, whatever the caller gets of it."""

    stage: Stage
    """Where it strikes: before the request is read, instead of an answer, on the picture, the reply, or its sending."""

    effect: Callable[..., None] = Field(repr=False)
    """Changes the exchange."""

    details: dict[str, Any] = Field(default_factory=dict)
    """What can be set about it, with defaults; times are in seconds."""

    in_doubt: bool = False
    """Whether the caller gets neither an image nor word that none was made, and so cannot know if it was charged."""

    by_address: bool = False
    """Whether the image is given as an address on 127.0.0.1, which a careful client does not fetch."""

    @property
    def asks_to_wait(self) -> bool:
        """Whether the answer names the `seconds` after which the call may be made again."""
        return self.stage == "instead" and "seconds" in self.details
