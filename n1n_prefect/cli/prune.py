"""`n1n-prefect prune`: removes old originals, journals and spooled replies from a result storage."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from n1n_prefect.cli import arguments
from n1n_prefect.cli.failures import one_line
from n1n_prefect.errors import InvalidRequestError

if TYPE_CHECKING:
    from n1n_prefect.pruning import Kind, Store

NAME = "prune"
HELP = (
    "Remove originals, journals and spooled replies that are old from a result storage. A request whose journal is "
    "gone is paid for anew, so keep what may still be resumed."
)
_KINDS: "dict[Kind, str]" = {
    "journal": "journal records",
    "original": "originals",
    "reply": "spooled replies",
    "part": "unfinished files",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument(
        "--older-than", type=arguments.age, required=True, metavar="AGE",
        help="remove what was last written longer ago: a number of m(inutes), h, d or w, such as 14d; at least 1h",
    )  # fmt: skip
    parser.add_argument(
        "--storage",
        type=arguments.saved_block,
        metavar="TYPE/NAME",
        help="a saved local-file-system or s3-bucket block; else the local storage, with this machine's spool",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    """Prunes each place and says what went."""
    before = time.time() - args.older_than
    for store in _default_stores() if args.storage is None else [_store("/".join(args.storage))]:
        _prune(store, before, dry_run=args.dry_run)
    return 0


def _prune(store: "Store", before: float, *, dry_run: bool) -> None:
    from n1n_prefect.pruning import kind_of, prune

    counts: Counter[Kind | None] = Counter()
    sizes: Counter[Kind | None] = Counter()
    limit = datetime.fromtimestamp(before, timezone.utc)
    print(f"{store.address}, last written before {limit:%Y-%m-%d %H:%M} UTC", flush=True)
    try:
        for entry in prune(store, before=before, dry_run=dry_run):
            counts[kind_of(entry.name)] += 1
            sizes[kind_of(entry.name)] += entry.size_bytes
    finally:
        for kind, name in _KINDS.items():
            if counts[kind]:
                print(f"  {name:16}{counts[kind]:>9,}{sizes[kind] / 1e6:>14,.1f} MB")
        did = "would be removed; nothing was, for this is a dry run" if dry_run else "removed"
        print(f"  {'in all':16}{counts.total():>9,}{sizes.total() / 1e6:>14,.1f} MB {did}", flush=True)


# ── which places ─────────────────────────────────────────────────────────────


def _default_stores() -> "Iterator[Store]":
    """The default result storage if it is a folder, and the local folder, which has this machine's spool."""
    from prefect.settings import get_current_settings

    from n1n_prefect.pruning import LocalFolder
    from n1n_prefect.staging import local_storage

    local = local_storage().root
    default = str(get_current_settings().results.default_storage_block or "")
    if default:
        folder = _folder_of(_loaded(default))
        if folder is None:
            print(f"Only what is on this disk; for the default result storage add --storage {default}")
        elif folder != local:
            yield LocalFolder(folder)
    yield LocalFolder(local)


def _store(named: str) -> "Store":
    from prefect.filesystems import WritableFileSystem

    from n1n_prefect.pruning import PREFIX, Bucket, LocalFolder

    block = _loaded(named)
    if folder := _folder_of(block):
        return LocalFolder(folder)
    if hasattr(block, "bucket_name") and hasattr(block.credentials, "get_s3_client"):
        return Bucket(block.credentials.get_s3_client(), block.bucket_name, block.bucket_folder or "")
    if not isinstance(block, WritableFileSystem):
        raise InvalidRequestError(f"{named} is no result storage; give a local-file-system or s3-bucket block.")
    raise InvalidRequestError(
        f"{named} cannot be listed here; only local-file-system and s3-bucket blocks can. Let a lifecycle rule "
        f"of the store itself delete what is old below {PREFIX}/journal/, and a day later below {PREFIX}/originals/."
    )


def _folder_of(block: Any) -> Path | None:
    from prefect.filesystems import LocalFileSystem

    if not isinstance(block, LocalFileSystem):
        return None
    return Path(block.basepath or ".").expanduser().resolve()


def _loaded(named: str) -> Any:
    from prefect.blocks.core import Block

    try:
        return cast(Any, Block.load(named))
    except Exception as exc:
        raise InvalidRequestError(f"The block {named!r} could not be loaded: {one_line(exc)}") from exc
