"""Whether the input images that rows name are there, looked at many at a time and without reading them."""

from collections import OrderedDict, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from n1n_prefect import catalog
from n1n_prefect.batch.items import BadRow, Item
from n1n_prefect.batch.local_files import find_below
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, SourceError, words_of
from n1n_prefect.s3_errors import location_errors
from n1n_prefect.sources import SourceRules, _bucket_and_key, _scheme_of, load_source

_THREADS = 16
_ROWS_AHEAD = 512
_REMEMBERED = 10_000

_Look = Future[str]


@contextmanager
def checking_inputs(*, rules: SourceRules, source: S3Location | None) -> Generator["InputChecker"]:
    """Threads that look at inputs, which end with the block.

    Args:
        rules: Below which folders local files may be read.
        source: How `s3://` inputs are reached; without it they are refused.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="n1n-inputs") as pool:
        try:
            yield InputChecker(pool, rules, source)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class InputChecker:
    """Looks at each input once, however many rows use it, as long as it is among the last 10,000."""

    def __init__(self, pool: ThreadPoolExecutor, rules: SourceRules, source: S3Location | None) -> None:
        self._pool = pool
        self._rules = rules
        self._source = source
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    def checked(self, rows: Iterable[Item | BadRow]) -> Generator[Item | BadRow]:
        """The rows in their order, those as `BadRow` whose input is gone, empty, too large or may not be read.

        Local files and `data:` are looked at here, `s3://` by HEAD; `https://` is not asked. At most 512 rows are
        taken ahead.

        Raises:
            SourceError: The store cannot be asked at present, so that nothing is known; transient.
        """
        waiting: deque[tuple[Item | BadRow, list[_Look]]] = deque()
        for row in rows:
            waiting.append((row, self._looks_at(row)))
            while waiting and (len(waiting) > _ROWS_AHEAD or all(look.done() for look in waiting[0][1])):
                yield _verdict(*waiting.popleft())
        while waiting:
            yield _verdict(*waiting.popleft())

    def _looks_at(self, row: Item | BadRow) -> list[_Look]:
        addresses = row.request.images if isinstance(row, Item) else ()
        return [self._look(address) for address in map(str, addresses) if _scheme_of(address) != "https"]

    def _look(self, address: str) -> _Look:
        if address in self._looks:
            self._looks.move_to_end(address)
            return self._looks[address]
        look = self._pool.submit(wrong_with, address, rules=self._rules, source=self._source)
        # Images written into the manifest itself are long, and seldom used twice.
        if _scheme_of(address) != "data":
            self._looks[address] = look
        if len(self._looks) > _REMEMBERED:
            self._looks.popitem(last=False)
        return look


def _verdict(row: Item | BadRow, looks: list[_Look]) -> Item | BadRow:
    wrong = next((reason for look in looks if (reason := look.result())), "")
    return BadRow(row.line, row.id, wrong) if wrong else row


def wrong_with(address: str, *, rules: SourceRules, source: S3Location | None) -> str:
    """What is wrong with an input image, as far as that is seen without reading it; empty if nothing.

    Raises:
        SourceError: It cannot be known at present; transient.
    """
    try:
        _refuse_gone(address, rules, source)
    except (SourceError, InvalidRequestError) as error:
        if error.is_transient:
            raise
        return words_of(error)
    return ""


def _refuse_gone(address: str, rules: SourceRules, source: S3Location | None) -> None:
    scheme = _scheme_of(address)
    if not scheme:
        _check_size(repr(address[:200]), find_below(address, rules).stat().st_size, rules)
    elif scheme == "s3" and source is not None:
        _check_size(address, _size_of_object(address, source), rules)
    else:
        # Reads what is in the address itself, and says what is wrong with the other kinds.
        load_source(address, rules=rules)


def _size_of_object(address: str, source: S3Location) -> int:
    bucket, key = _bucket_and_key(address)
    with location_errors(SourceError, doing="find", bucket=bucket, key=key):
        return int(source.get_client().head_object(Bucket=bucket, Key=key)["ContentLength"])


def _check_size(name: str, size: int, rules: SourceRules) -> None:
    most = min(rules.max_bytes, catalog.MAX_INPUT_BYTES)
    if size > most:
        raise SourceError(f"{name} has {size:,} bytes; at most {most:,} are taken of an input image. Scale it down.")
    if not size:
        raise SourceError(f"{name} is empty, 0 bytes; put the whole file there.")
