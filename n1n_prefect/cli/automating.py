"""Puts an automation of ours on the server, and leaves alone what a person made of it."""

from typing import TYPE_CHECKING
from uuid import UUID

from n1n_prefect.cli.automations import Sample, fingerprint, notified_block, written_fingerprint
from n1n_prefect.cli.changes import Change, Workspace

if TYPE_CHECKING:
    from prefect.events import Automation, AutomationCore


def apply(workspace: Workspace, sample: Sample, notify: UUID | None) -> Change:
    """Creates an automation, or updates it where ours changed since it was written; a disabled one stays so.

    Args:
        workspace: Where.
        sample: Which.
        notify: The notification block's id; None keeps the one that the automation has.
    """
    what, client = f"automation '{sample.name}'", workspace.client
    there = next(iter(client.read_automations_by_name(sample.name)), None)
    ours = sample.made(notify or (notified_block(there) if there else None))
    if ours is None:
        return Change(what, "left out", "it would only notify, and there is no --notify")
    if there is None:
        return workspace.change(what, "created", lambda: client.create_automation(ours))
    return _met(workspace, what, there, ours)


def _met(workspace: Workspace, what: str, there: "Automation", ours: "AutomationCore") -> Change:
    is_off = "" if there.enabled else "it is disabled, and stays so"
    has = fingerprint(there)
    if has == fingerprint(ours):
        return Change(what, "unchanged", is_off)
    if has != written_fingerprint(there) and not workspace.may_overwrite:
        return Change(what, "unchanged", "it was changed by hand, and is left so; --overwrite takes ours")
    update = ours.model_copy(update={"enabled": there.enabled})
    return workspace.change(what, "updated", lambda: workspace.client.update_automation(there.id, update), is_off)
