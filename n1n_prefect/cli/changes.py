"""What a setting-up does to a server: each change is said, and in a dry run only said."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Did = Literal["created", "updated", "unchanged", "kept", "left out", "failed"]
_IN_A_DRY_RUN: dict[Did, str] = {
    "created": "would create",
    "updated": "would update",
    "kept": "would keep",
    "left out": "would leave out",
    "failed": "would fail",
}


@dataclass(frozen=True)
class Change:
    """One thing on the server, and what became of it."""

    what: str
    did: Did
    note: str = ""

    @property
    def is_wanting(self) -> bool:
        """Whether it is not as it was asked for."""
        return self.did in ("kept", "failed")

    def line(self, *, is_dry_run: bool) -> str:
        """It in words."""
        did = _IN_A_DRY_RUN.get(self.did, self.did) if is_dry_run else self.did
        return f"{did:<15} {self.what}" + (f"; {self.note}" if self.note else "")


@dataclass(frozen=True)
class Workspace:
    """The server that is set up, and how."""

    client: "SyncPrefectClient"
    is_dry_run: bool = False
    may_overwrite: bool = False

    def change(self, what: str, did: Did, apply: Callable[[], object], note: str = "") -> Change:
        """Makes a change, unless this is a dry run."""
        if not self.is_dry_run:
            apply()
        return Change(what, did, note)
