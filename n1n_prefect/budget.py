"""How much this process has spent in each run, against the ceiling that the user set."""

from threading import Lock

from n1n_prefect.errors import BudgetExceededError

_lock = Lock()
_spent: dict[str, float] = {}


def reserve(scope: str, usd: float, ceiling: float) -> None:
    """Counts dollars before they are spent; a negative amount gives them back.

    Args:
        scope: The run that is counted.
        usd: Estimated US dollars of the call.
        ceiling: US dollars that the run may spend, inclusive.

    Raises:
        BudgetExceededError: The call would pass the ceiling; it is not made.
    """
    with _lock:
        spent = _spent.get(scope, 0.0)
        if usd > 0 and spent + usd > ceiling + 1e-9:
            raise BudgetExceededError(
                f"This call is estimated at ${usd:.4f} and would pass the run's ceiling of ${ceiling:.2f} "
                f"(${spent:.4f} spent); it was not made. Raise Spending.max_usd_per_run to go on."
            )
        _spent[scope] = spent + usd
