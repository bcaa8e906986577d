"""Whether what starts runs, and what goes on by itself, is as `n1n-prefect setup` makes it."""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from n1n_prefect.cli.automations import (
    DEFAULT_SILENCE_SECONDS,
    PREFIX,
    TAG,
    fingerprint,
    notified_block,
    samples,
    written_fingerprint,
)
from n1n_prefect.cli.findings import Check, Found
from n1n_prefect.cli.patient import Patient

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events import Automation

_MANY = 200
_MAKE_THEM = "`n1n-prefect setup --automations`"


def _deployments(patient: Patient) -> Found:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    with patient.client() as client:
        found = client.read_deployments(deployment_filter=ours, limit=_MANY)
        if not found:
            return "ok", f"none has the tag {TAG!r}; `n1n-prefect setup --deploy` makes those of prefect.yaml"
        broken = [deployment.name for deployment in found if _lost_blocks(client, deployment.parameters)]
    if broken:
        return "wrong", f"{_listed(broken)} name a block that is deleted, so their runs fail; save it, and deploy again"
    if paused := [deployment.name for deployment in found if deployment.paused]:
        return "warning", f"{_listed(paused)} are paused, so no schedule starts them; resume them in the UI"
    if idle := [deployment.name for deployment in found if not _is_served(deployment)]:
        return "warning", f"{_listed(idle)} have neither a worker nor a process that serves them, so their runs wait"
    return "ok", f"{len(found)} with the tag {TAG!r}: {_listed(deployment.name for deployment in found)}"


def _lost_blocks(client: "SyncPrefectClient", parameters: object) -> bool:
    """Whether some parameters refer to a block that is not there."""
    return not all(_is_saved(client, document_id) for document_id in _references(parameters))


def _is_saved(client: "SyncPrefectClient", document_id: uuid.UUID) -> bool:
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_block_document(document_id, include_secrets=False)
    except ObjectNotFound:
        return False
    return True


def _references(value: object) -> Iterator[uuid.UUID]:
    """The ids of the blocks to which a value of JSON refers."""
    if isinstance(value, dict):
        of = cast("dict[str, Any]", value)
        reference = of.get("$ref")
        if isinstance(reference, dict):
            with suppress(ValueError):
                yield uuid.UUID(str(cast("dict[str, Any]", reference).get("block_document_id")))
        inside: Iterable[Any] = of.values()
    else:
        inside = cast("list[Any]", value) if isinstance(value, list) else ()
    for item in inside:
        yield from _references(item)


def _is_served(deployment: "DeploymentResponse") -> bool:
    return str(getattr(deployment.status, "value", deployment.status)) != "NOT_READY"


def _automations(patient: Patient) -> Found:
    with patient.client() as client:
        there = [each for each in client.read_automations() if each.name.startswith(PREFIX)]
    if not there:
        return "ok", f"none of ours, so nothing goes on or is told by itself; {_MAKE_THEM} makes them"
    ours = {sample.name: sample for sample in samples(timedelta(seconds=DEFAULT_SILENCE_SECONDS))}
    names = {each.name for each in there}
    if missing := [name for name, sample in ours.items() if sample.actions and name not in names]:
        return "warning", f"{_listed(missing)} are missing; {_MAKE_THEM} makes them"
    if off := [each.name for each in there if not each.enabled]:
        return "warning", f"{_listed(off)} are switched off; switch them on in the UI, under Automations"
    if old := [each.name for each in there if _is_of_another_version(each)]:
        return "warning", f"{_listed(old)} are of another version of n1n-prefect; {_MAKE_THEM} renews them"
    if untold := [name for name in ours if name not in names]:
        notify = f"{_MAKE_THEM[:-1]} --notify TYPE/NAME`"
        return "ok", f"{len(there)} of ours; nobody is told by {_listed(untold)}, for which {notify} is needed"
    return "ok", f"{len(there)} of ours"


def _is_of_another_version(automation: "Automation") -> bool:
    """Whether ours has changed since it was written; what a person made of it is theirs."""
    if written_fingerprint(automation) != fingerprint(automation):
        return False
    silence = cast("Any", automation.trigger).within
    ours = next((sample for sample in samples(silence) if sample.name == automation.name), None)
    made = ours.made(notified_block(automation)) if ours else None
    return made is not None and fingerprint(made) != fingerprint(automation)


def _listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = sorted(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(map(repr, found[:3])) + more


WORKSPACE_CHECKS = (
    Check("deployments", _deployments, ("server", "versions")),
    Check("automations", _automations, ("server", "versions")),
)
