"""What starts a suspended run again when nobody decided in time, so that its `on_timeout` takes effect.

Prefect fails such a run at its deadline, and no process is left that could act. A run that only
pauses needs none of this.
"""

from collections.abc import Mapping
from typing import Any

RUN_OUT = "The flow was paused and never resumed."
"""How Prefect fails a run whose time is up."""

EXPIRED = "ReviewExpired"
"""The name of the state that the automation puts such a run into."""


def expiry_trigger(related: Mapping[str, str]) -> dict[str, Any]:
    """The trigger, as Prefect writes one.

    Args:
        related: Which runs it is about, by a resource that is related to them.
    """
    return {
        "type": "event",
        "match": {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-message": RUN_OUT},
        "match_related": dict(related),
        "expect": ["prefect.flow-run.Failed"],
        "for_each": ["prefect.resource.id"],
        "posture": "Reactive",
        "within": 0,
    }


def expiry_action() -> dict[str, Any]:
    """The action, as Prefect writes one."""
    return {
        "type": "change-flow-run-state",
        "state": "SCHEDULED",
        "name": EXPIRED,
        "message": "Nobody decided in time; the chosen action is taken.",
        "force": False,
    }
