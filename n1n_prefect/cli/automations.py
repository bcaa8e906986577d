"""The automations that `n1n-prefect setup` makes: who is told of what, and what goes on by itself.

They are plain Prefect automations, to be looked at, changed and switched off in the UI.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.events import AutomationCore

PREFIX = "n1n: "
TAG = "n1n"
"""The tag of runs that go on by themselves; the deployments in `prefect.yaml` have it."""

MOST_RUNS = 3
"""How often a run may have started for it to be started again by itself."""

DEFAULT_SILENCE_SECONDS = 600
"""Three heartbeats of 180 seconds, Prefect's default, and a minute."""

SETTLING_SECONDS = 30
"""How long a crashed run is let be. A process worker loads the flow of a killed run, to look for hooks, before it
reports the crash once more, which would end a run that goes on by then."""

_HASH_TAG = "n1n-setup-"
_OUR_RUNS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
_A_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_OF_AN_IMAGE = {"prefect.resource.id": "n1n.image.*"}
_RUN_LINK = "\n\nThe run: {{ flow_run|ui_url }}"


@dataclass(frozen=True)
class Sample:
    """An automation as we would have it."""

    name: str
    description: str
    trigger: dict[str, Any]
    """As Prefect writes an event trigger."""

    actions: tuple[dict[str, Any], ...] = ()
    """What it does, apart from notifying."""

    message: tuple[str, str] | None = None
    """Subject and body of its notification."""

    def made(self, notify: UUID | None) -> "AutomationCore | None":
        """The automation, or None if there is nothing that it could do.

        Args:
            notify: Id of the saved notification block through which people are told; None for no notification.
        """
        from prefect.events import AutomationCore

        actions = [*self.actions]
        if notify and self.message:
            subject, body = self.message
            told = {"type": "send-notification", "block_document_id": notify, "subject": subject, "body": body}
            actions.append(told)
        if not actions:
            return None
        fields = {"name": self.name, "description": self.description, "trigger": self.trigger, "actions": actions}
        made = AutomationCore.model_validate(fields)
        return made.model_copy(update={"tags": [f"{_HASH_TAG}{fingerprint(made)}"]})


def fingerprint(automation: "AutomationCore") -> str:
    """What an automation waits for and does, in 12 characters; its name, tags and switch are left out."""
    said = automation.model_dump(
        mode="json", include={"description", "trigger", "actions"}, exclude_defaults=True, exclude_none=True
    )
    return hashlib.sha256(json.dumps(_sorted(said), sort_keys=True).encode()).hexdigest()[:12]


def written_fingerprint(automation: "AutomationCore") -> str:
    """The fingerprint that it had when `setup` wrote it; empty if it was written by another."""
    found = [tag.removeprefix(_HASH_TAG) for tag in automation.tags if tag.startswith(_HASH_TAG)]
    return found[0] if found else ""


def notified_block(automation: "AutomationCore") -> UUID | None:
    """Id of the block through which an automation notifies."""
    ids = [getattr(action, "block_document_id", None) for action in automation.actions]
    return next((found for found in ids if found), None)


def _sorted(value: Any) -> Any:
    """The same with its lists in one order, since sets are written in any."""
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items() if name != "id"}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def samples(silent_after: timedelta) -> list[Sample]:
    """The automations.

    Args:
        silent_after: How long a run may give no heartbeat before it is taken for dead; at least 10 seconds, and
            more than twice the workers' PREFECT_FLOWS_HEARTBEAT_FREQUENCY.
    """
    silent, expired = _silent(silent_after), _review_expired()
    return [_MONEY_OR_KEY, _REFUSED, _OVER_BUDGET, silent, _CRASHED, _GOES_ON, _REVIEW_WANTED, expired]


_MONEY_OR_KEY = Sample(
    "n1n: quota or key",
    "Tells when an image failed because the balance or quota is used up, or the key is not accepted or may not do it. "
    "Once an hour for each flow run, however many images fail.",
    {
        "type": "event",
        "match": {**_OF_AN_IMAGE, "n1n.error": ["QuotaError", "AuthenticationError", "PermissionDeniedError"]},
        "expect": ["n1n.image.failed"],
        "for_each": ["related:flow-run:prefect.resource.id"],
        "posture": "Reactive",
        "within": 3600,
    },
    message=(
        "n1n: {{ event.resource['n1n.error'] }} in flow run {{ flow_run.name }}",
        "{{ event.payload.reason }}" + _RUN_LINK,
    ),
)

_REFUSED = Sample(
    "n1n: image refused",
    "Tells when the model or its provider refused a prompt or an image, in its own words. Once an hour for each flow "
    "run, however many are refused.",
    {
        "type": "event",
        "match": _OF_AN_IMAGE,
        "expect": ["n1n.image.refused"],
        "for_each": ["related:flow-run:prefect.resource.id"],
        "posture": "Reactive",
        "within": 3600,
    },
    message=("n1n: image refused in flow run {{ flow_run.name }}", "{{ event.payload.reason }}" + _RUN_LINK),
)

_OVER_BUDGET = Sample(
    "n1n: budget reached",
    "Pauses the deployment of a run that ended OverBudget, so that its schedule starts no more of them. Go on with "
    "`prefect deployment schedule resume`, or in the UI, once the ceiling is raised.",
    {
        "type": "event",
        "match": {**_A_RUN, "prefect.state-name": "OverBudget"},
        "match_related": {"prefect.resource.role": "deployment"},
        "expect": ["prefect.flow-run.OverBudget"],
        "posture": "Reactive",
        "within": 0,
    },
    actions=({"type": "pause-deployment", "source": "inferred"},),
    message=(
        "n1n: budget reached in flow run {{ flow_run.name }}",
        "Its deployment is paused.\n\n{{ flow_run.state.message }}" + _RUN_LINK,
    ),
)


def _silent(silent_after: timedelta) -> Sample:
    seconds = int(silent_after.total_seconds())
    return Sample(
        "n1n: silent run crashed",
        f"Sets a run with the tag {TAG} to Crashed when it has given no heartbeat for {seconds} s, as after its "
        "machine was lost. Let that be more than twice the workers' PREFECT_FLOWS_HEARTBEAT_FREQUENCY (180 s if not "
        "set). A run that is alive and cannot reach the server for as long is taken for dead as well.",
        {
            "type": "event",
            "match": _A_RUN,
            "match_related": _OUR_RUNS,
            "after": ["prefect.flow-run.heartbeat"],
            # Every state by whatever name ends the waiting; a run that goes on gives a heartbeat again.
            "expect": ["prefect.flow-run.*"],
            "for_each": ["prefect.resource.id"],
            "posture": "Proactive",
            "threshold": 1,
            "within": seconds,
        },
        actions=(
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"No heartbeat for {seconds} s: its process or machine is gone.",
            },
        ),
    )


_GOING_ON = "GoesOn"
_NO_CRASH = ("Scheduled", "Pending", "Running", "Retrying", "Cancelling", "Cancelled", "Failed", "Completed")
"""States that are not another report of the same crash."""

_CRASHED = Sample(
    "n1n: crashed run is marked",
    f"Names the state of a Crashed run with the tag {TAG} {_GOING_ON}, for `n1n: crashed run goes on` to take. "
    f"Bounded: only a run that had begun, only after it has run anew since, and only up to {MOST_RUNS} runs of it, "
    "of which each going on after a suspension, as for a review, is one. What is left then waits for a person, or "
    "`n1n-prefect resume --crashed`. Runs without a deployment are not taken.",
    {
        "type": "event",
        # The number of times that the run has started; without it a run that always crashes would do so for ever.
        "match": {**_A_RUN, "prefect.run-count": [str(count) for count in range(1, MOST_RUNS)]},
        "match_related": _OUR_RUNS,
        # Infrastructure that never comes up crashes a run without another start of it.
        "after": ["prefect.flow-run.Running", "prefect.flow-run.Retrying"],
        "expect": ["prefect.flow-run.Crashed"],
        "for_each": ["prefect.resource.id"],
        "posture": "Reactive",
        "within": 7 * 86_400,
    },
    actions=(
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "name": _GOING_ON,
            "force": True,  # a run that has ended is not let crash
            "message": f"It crashed, and goes on under its own id in {SETTLING_SECONDS} s.",
        },
    ),
)

_GOES_ON = Sample(
    "n1n: crashed run goes on",
    f"Schedules a run that `n1n: crashed run is marked` has marked under its own id, so that nothing it paid for is "
    f"paid again. {SETTLING_SECONDS} s later, since a process worker reports a killed run twice; not if somebody has "
    "resumed or cancelled it by then.",
    {
        "type": "event",
        "match": _A_RUN,
        "match_related": _OUR_RUNS,
        "after": [f"prefect.flow-run.{_GOING_ON}"],
        "expect": [f"prefect.flow-run.{name}" for name in _NO_CRASH],
        "for_each": ["prefect.resource.id"],
        "posture": "Proactive",
        "threshold": 1,
        "within": SETTLING_SECONDS,
    },
    actions=(
        {
            "type": "change-flow-run-state",
            "state": "SCHEDULED",
            "message": "It crashed, and goes on under its own id.",
        },
    ),
)

_REVIEW_WANTED = Sample(
    "n1n: review wanted",
    "Tells when a run waits for a person to decide about its images.",
    {
        "type": "event",
        "match": {"prefect.resource.id": "n1n.review.*"},
        "expect": ["n1n.review.requested"],
        "for_each": ["prefect.resource.id"],
        "posture": "Reactive",
        "within": 0,
    },
    message=(
        "n1n: flow run {{ flow_run.name }} waits for a decision",
        "About {{ event.payload.images }} images, until {{ event.payload.deadline }}. Press Resume on its page."
        + _RUN_LINK,
    ),
)


def _review_expired() -> Sample:
    from n1n_prefect.review_deadlines import expiry_action, expiry_trigger

    return Sample(
        "n1n: review expired",
        f"Starts a suspended run with the tag {TAG} again when nobody decided about its images in time, so that its "
        "on_timeout takes effect: Prefect fails such a run, and no process is left that could act.",
        expiry_trigger(_OUR_RUNS),
        actions=(expiry_action(),),
    )
