"""What a long list of requests will cost, added up as they pass; only a hash of each is kept, on disk."""

from collections import Counter
from dataclasses import replace

from n1n_prefect.batch.seen import Seen
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, Spending
from n1n_prefect.pricing import Charges, CostEstimate, estimate_cost, total_of

_AT_ONCE = 500
_MAX_MODELS = 50


class RunningEstimate:
    """As `estimate_cost`, for any number of requests.

    Args:
        seen: Remembers the requests.
        credentials: For their `price_factor` and `prices`.
        spending: How often a call may be paid for again.
    """

    def __init__(self, seen: Seen, *, credentials: Charges | None = None, spending: Spending | None = None) -> None:
        self._seen = seen
        self._credentials = credentials
        self._spending = spending
        self._fresh: list[ImageRequest] = []
        self._repeated: Counter[str] = Counter()
        self._by_model: dict[str, CostEstimate] = {}

    def add(self, request: ImageRequest, identity: str, line: int) -> None:
        """Counts a request with its identity and line.

        Raises:
            InvalidRequestError: There are too many models for a batch.
        """
        if self._seen.first("request", identity, line) is not None:
            self._repeated[_bare(request.model)] += 1
            return
        self._fresh.append(request)
        if len(self._fresh) == _AT_ONCE:
            self._price()

    def total(self) -> CostEstimate:
        """What those counted so far will cost."""
        self._price()
        repeated = self._repeated.copy()
        by_model = {
            model: replace(each, repeated=repeated.pop(_bare(model), 0)) for model, each in self._by_model.items()
        }
        return replace(total_of(by_model.values()), by_model=by_model)

    def _price(self) -> None:
        block = estimate_cost(self._fresh, credentials=self._credentials, spending=self._spending)
        self._fresh.clear()
        for model, each in block.by_model.items():
            self._by_model[model] = total_of([self._by_model.get(model, CostEstimate()), each])
        if len(self._by_model) > _MAX_MODELS:
            raise InvalidRequestError(
                f"The rows name more than {_MAX_MODELS} models, at last {list(self._by_model)[-1]!r:.80}; look at the "
                "column 'model'."
            )


def _bare(model: str) -> str:
    # Two spellings of one model, and so of one request.
    return model.removeprefix("models/")
