"""What a flow did under each fault: one row a fault, read in words, as a table, or as an assertion."""

from collections.abc import Sequence

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class FaultRow:
    """What one fault did to the flow, as the gateway's ledger has it."""

    fault: str
    """The fault's name in `FAULTS`, or a step such as `internal:2`."""

    outcome_is_known: bool
    """Whether the flow could know if the call that was struck was charged: it got an image, or word of none."""

    calls: int
    """Paid calls that reached the gateway."""

    struck: int
    """How many of them the fault struck."""

    billed: int
    """Calls that were charged, an image each."""

    duplicates: int
    """Charged calls too many, made although an earlier one had delivered the image."""

    maybe_twice: int
    """Charged calls that repeated one whose outcome could not be known; `billed` says whether that one was charged."""

    lost: int
    """Images that were charged and delivered whole and are nowhere in what the flow left behind, by SHA-256."""

    waited_seconds: float
    """How long the flow waited between an answer without an image and its next call for the same, all together."""

    asked_seconds: float
    """How long the gateway asked it to wait, all together."""

    ended: str
    """How the flow ended: the statuses of its outcomes, what it returned, or the class of the error out of it."""

    words: str = ""
    """The first words of that error, or of the first outcome without an image."""

    note: str = ""
    """What else one should know, such as that the flow never called; empty if nothing."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each; empty if the flow paid once and lost nothing."""
        how = self.ended if self.ended.startswith(("raised", "returned")) else f"ended with {self.ended}"
        wrong: list[str] = []
        if not self.struck:
            wrong.append(f"{self.note}, so this shows nothing; it {how}{f' ({self.words})' if self.words else ''}")
        if self.duplicates:
            wrong.append(
                f"paid {count(self.duplicates, 'image')} too many though it had the image: "
                f"{count(self.calls, 'call')}, {self.billed} billed"
            )
        if self.lost:
            wrong.append(f"lost {self.lost} of {count(self.billed, 'paid image')}, delivered whole; it {how}")
        return tuple(wrong)


@dataclass(frozen=True)
class FaultMatrix:
    """A flow's rows, one for each fault; `print` shows them as a table."""

    rows: tuple[FaultRow, ...]
    """In the order in which the faults were asked for."""

    def assert_paid_once(self) -> None:
        """Fails unless the flow paid nothing twice and lost nothing, under every fault.

        Images that were *maybe* paid twice do not fail it: where nobody can know the first
        outcome, calling again is the flow's choice. A fault that struck no call does fail it,
        since it shows nothing.

        Raises:
            AssertionError: Names the faults, and what went wrong under them.
        """
        wrong: dict[str, list[str]] = {}
        for row in self.rows:
            for problem in row.problems:
                wrong.setdefault(problem, []).append(row.fault)
        if wrong:
            bad = sum(bool(row.problems) for row in self.rows)
            lines = [f"  {', '.join(faults)}: {problem}" for problem, faults in wrong.items()]
            raise AssertionError("\n".join([f"The flow failed {bad} of {count(len(self.rows), 'fault')}.", *lines]))

    def to_markdown(self, *, grouped: bool = False) -> str:
        """The rows as a table in Markdown.

        Args:
            grouped: Whether faults that came to the same share a line, without an error's words
                and with the longest wait.
        """
        groups: dict[object, list[FaultRow]] = {}
        for row in self.rows:
            alike = (_figures(row), row.asked_seconds, row.ended, row.note)
            groups.setdefault(alike if grouped else row.fault, []).append(row)
        lines = [_cells(group, with_words=not grouped) for group in groups.values()]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEAD, _RULE, *lines))

    def __str__(self) -> str:
        return self.to_markdown()


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it is due."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_HEAD = ("Fault", "Its outcome", "Calls", "Billed", "Duplicates", "Maybe twice", "Lost", "Waited", "The flow ended")
_RULE = ("---", "---", *["--:"] * 6, "---")


def _cells(alike: Sequence[FaultRow], *, with_words: bool) -> tuple[str, ...]:
    first = alike[0]
    words = f": {first.words}" if with_words and first.words else ""
    note = f"; {first.note}" if first.note else ""
    faults = ", ".join(f"`{row.fault}`" for row in alike)
    return (faults, *_figures(first), _waits(alike), f"{first.ended}{words}{note}".replace("|", "\\|"))


def _figures(row: FaultRow) -> tuple[str, ...]:
    figures = row.calls, row.billed, row.duplicates, row.maybe_twice, row.lost
    return ("known" if row.outcome_is_known else "unknown", *map(str, figures))


def _waits(alike: Sequence[FaultRow]) -> str:
    longest, asked = max(row.waited_seconds for row in alike), alike[0].asked_seconds
    if asked:
        return f"{longest:.1f} s of {asked:g} s"
    return f"{longest:.1f} s" if longest else ""
