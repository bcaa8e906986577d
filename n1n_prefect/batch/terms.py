"""What is the same for all items of a batch."""

from dataclasses import field
from typing import Annotated

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from n1n_prefect.images import ImageSpec, OutcomeStatus, Spending
from n1n_prefect.s3 import IfExists
from n1n_prefect.to_s3 import OnInvalid
from n1n_prefect.variants import Variant


@dataclass(frozen=True)
class Terms:
    """How the items of a batch are carried out; it travels to other processes and hosts as JSON."""

    batch_id: str
    """The batch's name, which is also the journal's scope: whoever carries out its items pays for each once."""

    folder: str
    """Where its documents and images go, below the destination's own prefix."""

    spec: ImageSpec | None = None
    """What must be true of each image; what its row asked, if not given."""

    on_invalid: OnInvalid = "fail"
    """Whether an image that breaks a rule is drawn again."""

    regenerations: Annotated[int, Field(ge=0)] = 1
    """How often, at most."""

    if_exists: IfExists = "fail"
    """What to do about another object under an image's key."""

    variants: tuple[Variant, ...] = ()
    """What rows may derive from their images, by name."""

    redo: tuple[OutcomeStatus, ...] = ()
    """Items that ended so in an earlier run are carried out again, and no others; empty for those that are left."""

    sidecars: bool = False
    """Whether a document with its provenance is put beside each image."""

    spending: Spending = field(default_factory=Spending)
    """What may be paid for again, and the ceilings."""

    @property
    def takes(self) -> int:
        """How often one item may be drawn in one go."""
        return 1 + (self.regenerations if self.on_invalid == "regenerate" else 0)


TERMS: TypeAdapter[Terms] = TypeAdapter(Terms)
"""Terms as JSON and back."""
