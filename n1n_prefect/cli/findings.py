"""What `n1n-prefect doctor` finds: a verdict for each check, none of which hides another."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from n1n_prefect.cli.failures import one_line

Verdict = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    """Its name."""

    verdict: Verdict
    """Whether it is right; `wrong` is what keeps flows from running, `warning` what a person should know."""

    said: str
    """What is so, and the remedy if it should not be."""

    def line(self) -> str:
        """It in one line."""
        return f"{self.verdict:<8} {self.check:<16} {self.said}"


Found = tuple[Verdict, str]


@dataclass(frozen=True)
class Check:
    """A check by its name, and the checks that must not have gone wrong before it."""

    name: str
    look: Callable[[Any], Found]
    needs: tuple[str, ...] = field(default=())


def findings(checks: Iterable[Check], subject: Any) -> Iterator[Finding]:
    """What each check finds, in order; what a check raises is its finding.

    Args:
        checks: Those to make; one comes after those that it needs.
        subject: What they look at.
    """
    verdicts: dict[str, Verdict] = {}
    for check in checks:
        found = _found(check, subject, verdicts)
        verdicts[check.name] = found.verdict
        yield found


def _found(check: Check, subject: Any, verdicts: dict[str, Verdict]) -> Finding:
    for need in check.needs:
        if verdicts.get(need) in ("wrong", "skipped"):
            return Finding(check.name, "skipped", f"it needs {need}")
    try:
        verdict, said = check.look(subject)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the other checks go on
        verdict, said = "wrong", one_line(exc)
    return Finding(check.name, verdict, one_line(Exception(said)))


def as_json(found: Iterable[Finding]) -> str:
    """The findings as a JSON object, `findings` and whether all are right, `ok`."""
    listed = list(found)
    return json.dumps({"ok": is_well(listed), "findings": [asdict(each) for each in listed]}, indent=2)


def is_well(found: Iterable[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(each.verdict in ("ok", "warning") for each in found)
