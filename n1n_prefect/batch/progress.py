"""How far a batch is, on its run's page: one artifact that is changed in place, now and then."""

import time
from dataclasses import dataclass, field
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext

from n1n_prefect import stopping
from n1n_prefect.batch.tally import Tally
from n1n_prefect.run_log import get_logger

EVERY_SECONDS = 10.0
"""How long it stands still, at least: a change costs some milliseconds."""

_LOGGED_EVERY = 30  # changes; a line of the log is a row in the server's database


@dataclass
class Progress:
    """The progress artifact of a batch.

    Args:
        key: The artifact's key.
        total: How many items there are.
        tally: What has become of them.
    """

    key: str
    total: int
    tally: Tally
    _id: UUID | None = None
    _due: float = field(default_factory=lambda: time.monotonic() + EVERY_SECONDS)
    _changes: int = 0
    _knows_end: bool = False

    def look(self) -> None:
        """Shows how far the batch is, if it is time to; never fails."""
        if stopping.is_asked() and not self._knows_end:
            self._knows_end = True
            get_logger().warning(
                "The process is told to end: no image is begun any more, those under way have %.0f s.",
                stopping.seconds_left(),
            )
        if time.monotonic() >= self._due:
            self.show()

    def show(self) -> None:
        """Shows how far the batch is."""
        self._due = time.monotonic() + EVERY_SECONDS
        sentence = self.tally.sentence(self.total)
        if self._changes % _LOGGED_EVERY == 0:
            get_logger().info("%s", sentence)
        self._changes += 1
        by_status, _ = self.tally.sums()
        percent = round(100 * sum(by_status.values()) / max(self.total, 1), 1)
        try:
            with get_client(sync_client=True) as client:
                self._put(client, percent, sentence)
        except Exception:  # noqa: BLE001 - the batch is as good without
            get_logger().debug("Progress was not shown.", exc_info=True)

    def _put(self, client: SyncPrefectClient, percent: float, sentence: str) -> None:
        if self._id is not None:
            client.update_artifact(self._id, ArtifactUpdate(data=percent, description=sentence))
            return
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        artifact = ArtifactCreate(
            type="progress", key=self.key, description=sentence, data=percent, flow_run_id=run.id if run else None
        )
        self._id = client.create_artifact(artifact).id
