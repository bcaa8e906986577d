"""What bounds and takes work on the server: the global concurrency limit and the work pool."""

from n1n_prefect.cli.changes import Change, Workspace


def limit(workspace: Workspace, name: str, slots: int) -> Change:
    """A global concurrency limit of that many slots."""
    from prefect.exceptions import ObjectNotFound

    what, client = f"concurrency limit {name}", workspace.client

    def upsert() -> None:
        client.upsert_global_concurrency_limit_by_name(name, slots)

    try:
        there = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return workspace.change(what, "created", upsert, f"{slots} slots")
    if there.limit != slots:
        return workspace.change(what, "updated", upsert, f"{there.limit} slots become {slots}")
    return Change(what, "unchanged", "" if there.active else "it is switched off; switch it on in the UI")


def pool(workspace: Workspace, name: str) -> Change:
    """A work pool of type process; one of another type is left as it is."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    what, client = f"work pool {name}", workspace.client
    try:
        there = client.read_work_pool(name)
    except ObjectNotFound:
        made = WorkPoolCreate(name=name, type="process")
        note = f"start a worker: prefect worker start --pool {name}"
        return workspace.change(what, "created", lambda: client.create_work_pool(made), note)
    notes = [*([f"of type {there.type}"] if there.type != "process" else []), *(["paused"] if there.is_paused else [])]
    return Change(what, "unchanged", ", ".join(notes))
