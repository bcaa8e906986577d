"""Objects in S3 as Prefect assets: what made them, of what, and when they were found in place.

The events are Prefect's own, in the form in which `@materialize` emits them; they are made here
since a task learns an object's key only while it runs, and one task run may be one of thousands.

- `prefect.asset.materialization.succeeded`: an object was written, by a put or a copy.
- `prefect.asset.materialization.failed`: it could not be, and Prefect will not try again.
- `prefect.asset.referenced`: an object was used and not written: an input image, once a flow run, or an
  object whose bytes were there already. Prefect itself is silent about work that it skips; this says, in
  the payload, that the object was `created` earlier or its image `reused`.

An asset's key is the object's address, `s3://bucket/key`. Characters that Prefect does not allow in
one stand as `~` and their code (`~20` for a space); the payload's `uri` is the address as it is. An address that
is then longer than 512 characters is no asset. Input images that only their hash is known of are in the payload alone.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext, FlowRunContext, TaskRunContext
from prefect.events import RelatedResource

from n1n_prefect import events
from n1n_prefect.errors import N1nError, cut, words_of
from n1n_prefect.images import GeneratedImage, UploadedImage
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings

_REFUSED = str.maketrans({char: f"~{ord(char):02X}" for char in "\n\r\t\0 #?&%\"'<>[]{}|\\^`"})
_MAX_KEY = 512  # characters, by Prefect
_MAX_NAME = 128  # bytes; a SHA-256 and more
_BY = RelatedResource({"prefect.resource.id": "n1n-prefect", "prefect.resource.role": "asset-materialized-by"})


def asset_key(address: str) -> str:
    """The key of the asset at an address such as `s3://bucket/key`; empty where it can have none."""
    key = address.encode("utf-8", "replace").decode().translate(_REFUSED)
    return key if "://" in key and len(key) <= _MAX_KEY else ""


def emit_upload(uploaded: UploadedImage, inputs: Iterable[str]) -> None:
    """Tells Prefect that an object was written, or that it was there already.

    Outside of a run, and where `emit_assets` is switched off, nothing happens; nor does it ever fail one.

    Args:
        uploaded: The object.
        inputs: Addresses of what it was made of.
    """
    if not _is_wanted():
        return
    try:
        _emit_upload(uploaded, list(inputs))
    except Exception:  # noqa: BLE001  watching an image must not lose it
        get_logger().debug("No asset event was emitted for %s.", uploaded.uri, exc_info=True)


def emit_failure(uri: str, error: N1nError, inputs: Iterable[str]) -> None:
    """Tells Prefect that an object could not be written.

    Args:
        uri: Where it was to go.
        error: Why it did not.
        inputs: Addresses of what it would have been made of.
    """
    if not _is_wanted():
        return
    try:
        key = asset_key(uri)
        if key:
            facts = {"uri": uri, "error": type(error).__name__, "reason": words_of(error), "code": error.code}
            _send("materialization.failed", Asset(key=key), facts, [*_upstream(inputs), _BY])
    except Exception:  # noqa: BLE001  watching an image must not lose it
        get_logger().debug("No asset event was emitted for %s.", uri, exc_info=True)


def emit_table(uri: str, facts: Mapping[str, object]) -> None:
    """Tells Prefect that a table of results was written, as an asset; never fails a run.

    Args:
        uri: The table's address.
        facts: The payload: small values, and no words of a prompt.
    """
    if not _is_wanted() or not asset_key(uri):
        return
    try:
        about = AssetProperties(name=cut(uri.rpartition("/")[2], _MAX_NAME))
        _send("materialization.succeeded", Asset(key=asset_key(uri), properties=about), dict(facts), [_BY])
    except Exception:  # noqa: BLE001  watching a table must not lose it
        get_logger().debug("No asset event was emitted for %s.", uri, exc_info=True)


def lineage_of(image: GeneratedImage | UploadedImage) -> tuple[str, ...]:
    """Addresses of what an object is made of that holds this image: its inputs, or the object that is copied."""
    return (image.uri,) if isinstance(image, UploadedImage) else image.inputs


def _is_wanted() -> bool:
    try:
        return events.is_in_run() and settings().emit_assets
    except Exception:  # noqa: BLE001  what is wrong with the settings is said elsewhere
        return False


def _emit_upload(uploaded: UploadedImage, inputs: list[str]) -> None:
    asset = _asset_of(uploaded)
    if asset is None:
        return
    upstream = _upstream(inputs)
    facts = _facts(uploaded, inputs)
    if uploaded.created:
        for related in upstream:
            _refer(related.id)
        _send("materialization.succeeded", asset, facts, [*upstream, _BY])
    else:
        _send("referenced", asset, facts, [])
    _hand_on(asset)


def _asset_of(uploaded: UploadedImage) -> Asset | None:
    key = asset_key(uploaded.uri)
    if not key:
        return None
    about: dict[str, Any] = {"name": cut(uploaded.key.rpartition("/")[2], _MAX_NAME)}
    if uploaded.console_url:
        about["url"] = uploaded.console_url
    if uploaded.width:
        about["description"] = f"{uploaded.width}x{uploaded.height} {uploaded.media_type} by {uploaded.model}"
    return Asset(key=key, properties=AssetProperties(**about))


def _facts(uploaded: UploadedImage, inputs: list[str]) -> dict[str, Any]:
    """What is known of an object, and never its prompt."""
    image = uploaded.original
    known: dict[str, Any] = {
        "uri": uploaded.uri,
        "sha256": uploaded.sha256,
        "width": uploaded.width,
        "height": uploaded.height,
        "size_bytes": uploaded.size_bytes,
        "media_type": uploaded.media_type,
        "model": cut(uploaded.model, _MAX_NAME),
        "estimated_cost_usd": uploaded.estimated_cost_usd,
        "request_key": uploaded.request_key,
        "prompt_sha256": image.prompt_sha256 if image else "",
        "version_id": cut(uploaded.version_id, _MAX_NAME),
        "inputs": inputs or None,
        "created": uploaded.created,
        "reused": image.reused if image else None,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


def _upstream(inputs: Iterable[str]) -> list[RelatedResource]:
    """The assets that an image was made of: its own inputs, and what the user says that the task depends on."""
    keys = [asset_key(address) for address in inputs]
    context = AssetContext.get()
    if context is not None:
        # Of our own objects the addresses say more: Prefect takes two uploads of one image for made of each other.
        inherited = context.direct_asset_dependencies | context.upstream_assets
        keys += sorted(asset.key for asset in inherited if asset.key not in _made)
    return [
        RelatedResource({"prefect.resource.id": key, "prefect.resource.role": "asset"})
        for key in dict.fromkeys(filter(None, keys))
    ]


def _send(what: str, asset: Asset, facts: dict[str, Any], involved: list[RelatedResource]) -> None:
    events.send(f"prefect.asset.{what}", AssetContext.asset_as_resource(asset), facts, involved)


def _hand_on(asset: Asset) -> None:
    """Makes the object an upstream asset of the user's own `@materialize` tasks that take the upload."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    _made.first_time(asset.key)
    if flow is not None and task is not None:
        flow.task_run_assets.setdefault(task.task_run.id, set()).add(asset)


# ── inputs, said once ────────────────────────────────────────────────────────


def _refer(key: str) -> None:
    """Tells Prefect of an input, once in a flow run however many images are made of it."""
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if _told.first_time(f"{run.id if run else ''} {key}"):
        with suppress(ValueError):
            _send("referenced", Asset(key=key), {}, [])


class _Told:
    """What was said already; the oldest is forgotten, and then said again."""

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def first_time(self, what: str) -> bool:
        with self._lock:
            is_new = what not in self._known
            self._known[what] = None
            if len(self._known) > self.most:
                self._known.popitem(last=False)
        return is_new

    def __contains__(self, what: str) -> bool:
        with self._lock:
            return what in self._known


_told = _Told()
_made = _Told()
