"""Whether Prefect itself is as our flows need it: package, server, block types, storage, limit, pool."""

from typing import TYPE_CHECKING, Any

from n1n_prefect.cli import api
from n1n_prefect.cli.findings import Check, Found
from n1n_prefect.cli.patient import Patient
from n1n_prefect.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Worker, WorkPool


def _packages(patient: Patient) -> Found:
    """Whether what is installed suits what we ask for."""
    del patient
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        needs = [Requirement(text) for text in requires("n1n-prefect") or []]
    except PackageNotFoundError:
        return "warning", "n1n-prefect is not installed as a package, so its requirements are unknown; pip install it"
    wrong: list[str] = []
    for need in needs:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            has = version(need.name)
        except PackageNotFoundError:
            has = "none"
        if has == "none" or not need.specifier.contains(has, prereleases=True):
            wrong.append(f"{need.name} {has}, but {need.name}{need.specifier} is needed")
    if wrong:
        return "wrong", f"{'; '.join(wrong)}. Install again: pip install --upgrade n1n-prefect"
    return "ok", f"n1n-prefect {version('n1n-prefect')}, prefect {version('prefect')}, fastapi {version('fastapi')}"


def _settings(patient: Patient) -> Found:
    del patient
    changed = sorted(settings().model_fields_set)
    names = ", ".join(f"PREFECT_INTEGRATIONS_N1N_{name.upper()}" for name in changed)
    return "ok", f"set: {names}" if names else "as they come"


def _server(patient: Patient) -> Found:
    del patient
    version = api.server_version()
    return "ok", f"{api.address()}, {f'Prefect {version}' if version else 'Prefect Cloud'}"


def _versions(patient: Patient) -> Found:
    del patient
    import prefect
    from packaging.version import Version

    server = api.server_version()
    if not server:
        return "ok", "Prefect Cloud suits every version"
    has, here = Version(server), Version(prefect.__version__)
    if has.major != here.major:
        return "wrong", (
            f"the server runs Prefect {has} and this is {here}; they do not understand each other. Install "
            f"prefect>={has.major},<{has.major + 1} here, or upgrade the server"
        )
    if has.release < here.release:
        return "warning", f"the server runs Prefect {has}, older than {here} here; upgrade the server first"
    return "ok", f"the server runs {has}, this is {here}"


def _block_types(patient: Patient) -> Found:
    from n1n_prefect.cli import documents

    remedy = "run `n1n-prefect setup`"
    with patient.client() as client:
        found = {block.get_block_type_slug(): documents.registration(client, block) for block in documents.OURS}
    if missing := [slug for slug, (is_there, _) in found.items() if not is_there]:
        return "wrong", f"the server does not know {' and '.join(missing)}; {remedy}"
    if old := [slug for slug, (_, wants) in found.items() if wants]:
        return "warning", f"{' and '.join(old)} are registered by another version of n1n-prefect; {remedy}"
    return "ok", " and ".join(found)


def _result_storage(patient: Patient) -> Found:
    """Whether what was paid for is found again by the next worker, and whether it can be read from here."""
    from n1n_prefect import durability, staging

    storage = staging.storage_of(patient.result_storage)
    where = storage.describe(staging.PREFIX)["uri"]
    storage.read(f"{staging.PREFIX}/journal/doctor/0.sent")  # None if absent; raises where nothing can be read
    if not isinstance(storage, staging.LocalStorage):
        return "ok", f"{where}, which workers share"
    with patient.client() as client:
        pool = _pool(client, patient.named.work_pool)
    if pool is None or pool.type in durability.SHARES_ITS_DISK:
        return "ok", f"{where} on this machine; right while all workers run here"
    may = settings().on_unshared_storage
    if may == "allow":
        return "ok", f"{where}, said to be shared by PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE=allow"
    return "wrong" if may == "fail" else "warning", (
        f"{where} is on one machine alone, and runs of {pool.type} pool {pool.name!r} share no disk: a "
        "re-run elsewhere pays again. Set PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK to a storage that all workers share, "
        "such as an s3-bucket block"
    )


def _work_pool(patient: Patient) -> Found:
    named = patient.named.work_pool
    with patient.client() as client:
        pool = _pool(client, named)
        if pool is None:
            return _without_a_pool(client, named)
        workers = client.read_workers_for_work_pool(pool.name)
    if pool.is_paused:
        return "wrong", f"{pool.name!r} is paused, so its runs wait; `prefect work-pool resume {pool.name}`"
    online = [worker.name for worker in workers if _is_online(worker)]
    if not online:
        return "wrong", (
            f"no worker of {pool.name!r} ({pool.type}) is online, so its runs wait. Start one: "
            f"`prefect worker start --pool {pool.name}`"
        )
    return "ok", f"{pool.name!r} ({pool.type}), {len(online)} online: {', '.join(online[:3])}"


def _pool(client: "SyncPrefectClient", named: str | None) -> "WorkPool | None":
    """The work pool of a name; without a name `default`, or the only one there is."""
    pools = client.read_work_pools(limit=200)
    if named is None and len(pools) == 1:
        return pools[0]
    return next((pool for pool in pools if pool.name == (named or "default")), None)


def _without_a_pool(client: "SyncPrefectClient", named: str | None) -> Found:
    from n1n_prefect.saved import near

    names = sorted(pool.name for pool in client.read_work_pools(limit=200))
    if named is None:
        there = f"there are {', '.join(names)}; say which with --work-pool" if names else "there is none"
        make = "`n1n-prefect setup --work-pool NAME` makes one, unless your flows are served by `flow.serve`"
        return "warning", f"{there}" if names else f"{there}; {make}"
    meant = near(named, names)
    what = f"did you mean {meant!r}?" if meant else f"there are: {', '.join(names) or 'none'}."
    return "wrong", f"there is no work pool {named!r}; {what} Make it: `n1n-prefect setup --work-pool {named}`"


def _is_online(worker: "Worker") -> bool:
    return str(getattr(worker.status, "value", worker.status)) == "ONLINE"


def _concurrency_limit(patient: Patient) -> Found:
    from prefect.exceptions import ObjectNotFound

    name = patient.credentials.concurrency_limit
    if not name:
        return "ok", f"none is named by the block; each process makes {patient.credentials.max_in_flight} calls at once"
    with patient.client() as client:
        try:
            limit: Any = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return "wrong", (
                f"the block names {name!r}, which does not exist, so every call fails. Make it: "
                f"`n1n-prefect setup --concurrency-limit {name}=8`"
            )
    if not limit.active:
        return "warning", f"{name!r} is switched off, so nothing is limited; switch it on in the UI, under Concurrency"
    return "ok", f"{name!r}: {limit.active_slots} of {limit.limit} slots taken"


PREFECT_CHECKS = (
    Check("packages", _packages),
    Check("settings", _settings),
    Check("server", _server),
    Check("versions", _versions, ("server",)),
    Check("block types", _block_types, ("server", "versions")),
    Check("result storage", _result_storage, ("server", "versions", "settings")),
    Check("work pool", _work_pool, ("server", "versions")),
)
LIMIT_CHECKS = (Check("concurrency", _concurrency_limit, ("credentials",)),)
