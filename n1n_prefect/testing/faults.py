"""The faults that a local gateway can be told to have, and which call gets which."""

import difflib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from n1n_prefect.testing import fault_errors, fault_refusals, fault_replies, fault_sending
from n1n_prefect.testing.fault_kind import Fault

FAULTS: dict[str, Fault] = {
    kind.name: kind for module in (fault_sending, fault_errors, fault_refusals, fault_replies) for kind in module.KINDS
}
"""Every fault by its name."""


@dataclass(frozen=True)
class Injected:
    """One fault as it strikes a call."""

    kind: Fault
    details: dict[str, Any]
    billed: bool


@dataclass
class _Rule:
    faults: tuple[Injected, ...]
    left: int | None
    match: str
    skip: int

    @property
    def name(self) -> str:
        return "+".join(fault.kind.name for fault in self.faults)

    @property
    def is_unread(self) -> bool:
        return any(fault.kind.stage == "unread" for fault in self.faults)


class Faults:
    """The script of a gateway's faults; safe to use from any thread.

    The first rule that fits a call strikes it, in the order in which rules were added. Calls
    that are refused anyway (a wrong key, a bad request) use up no rule.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def add(
        self, name: str, times: int | None = 1, *, match: str | None = None, after: int = 0, **details: Any
    ) -> None:
        """Adds a rule.

        Args:
            name: A name of `FAULTS`, in any case, or several joined by `+` that strike together.
            times: How many calls it strikes; None for every one.
            match: Only calls whose prompt contains this text.
            after: How many calls that fit are let through first.
            details: What the fault lets one set, such as `seconds`; and `billed`, to say that the call
                is charged or not, whatever is usual for the fault.

        Raises:
            ValueError: There is no such fault, or it has no such detail.
        """
        if times is not None and times < 1:
            raise ValueError(f"times={times!r} must be at least 1, or None for every call.")
        kinds = [_kind(part) for part in name.split("+")]
        unknown = set(details) - {"billed"}.union(*(kind.details for kind in kinds))
        if unknown:
            takes = ", ".join(sorted({"billed"}.union(*(kind.details for kind in kinds))))
            raise ValueError(f"{name!r} has no {', '.join(sorted(unknown))}; it takes {takes}.")
        rule = _Rule(tuple(_injected(kind, details) for kind in kinds), times, match or "", after)
        if rule.is_unread and (match or len(kinds) > 1):
            raise ValueError(f"{name!r} closes the connection unread: it can neither match a prompt nor be combined.")
        with self._lock:
            self._rules.append(rule)

    def plan(self, steps: Iterable[str]) -> None:
        """Adds a rule for each of the next calls, in order; `ok` stands for a call that goes well.

        A step is a fault's name, several joined by `+`, or `name:times`; `name:*` is for every call from then on.
        """
        for step in steps:
            name, times = parse_step(step)
            self.add(name, times)

    def clear(self) -> None:
        """Drops every rule."""
        with self._lock:
            self._rules.clear()

    @property
    def pending(self) -> list[str]:
        """Names of the rules that have not struck as often as they were meant to."""
        with self._lock:
            return [rule.name for rule in self._rules if rule.left]

    def take(self, prompt: str) -> tuple[Injected, ...]:
        """The faults that strike a call with this prompt, which are thereby used up."""
        return self._take(prompt, unread=False)

    def take_unread(self) -> tuple[Injected, ...]:
        """The faults that strike a call before its body is read, if it is their turn."""
        return self._take("", unread=True)

    def _take(self, prompt: str, *, unread: bool) -> tuple[Injected, ...]:
        with self._lock:
            for rule in self._rules:
                if rule.left == 0 or rule.match not in prompt:
                    continue
                if rule.is_unread != unread:
                    if unread and not rule.skip:
                        return ()  # an earlier rule is due, once the body is read
                elif rule.skip:
                    rule.skip -= 1
                else:
                    rule.left = None if rule.left is None else rule.left - 1
                    return rule.faults
        return ()


def parse_step(step: str) -> tuple[str, int | None]:
    """Name and times of a step such as `slow`, `rate_limited:2` or `slow:*`.

    Raises:
        ValueError: There is no such fault, or the times are no number above zero.
    """
    name, colon, times = step.strip().partition(":")
    for part in name.split("+"):
        _kind(part)
    if times == "*":
        return name, None
    if colon and not (times.isdecimal() and int(times) > 0):
        raise ValueError(f"{step!r}: after the colon comes how many calls it strikes, or * for every one.")
    return name, int(times) if colon else 1


def _kind(name: str) -> Fault:
    kind = FAULTS.get(name.strip().lower())
    if kind is None:
        near = difflib.get_close_matches(name.lower(), FAULTS, 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no fault {name!r}.{hint} n1n_prefect.testing.FAULTS lists them all.")
    return kind


def _injected(kind: Fault, details: dict[str, Any]) -> Injected:
    own = {name: details.get(name, default) for name, default in kind.details.items()}
    return Injected(kind, own, details.get("billed", kind.billed))
