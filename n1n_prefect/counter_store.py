"""Counters that all workers and hosts share, in Redis: looked at and added to in one step.

redis-py is imported when it is first needed. Nothing of the store's address is ever shown,
since it may hold a password.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import Semaphore
from typing import Any

from n1n_prefect.errors import InvalidRequestError, N1nError
from n1n_prefect.masking import without_secrets
from n1n_prefect.settings import BLOCK_PREFIX

SETTING = "PREFECT_INTEGRATIONS_N1N_BUDGET_STORE"
_KEPT_SECONDS = 2 * 24 * 3600
_TIMEOUT_SECONDS = 5.0

# An empty ceiling refuses nothing, nor is nothing ever too much. A counter that Redis has lost
# does not become a credit.
_ADD = """
local counted = tonumber(redis.call('GET', KEYS[1]) or '0')
local amount, ceiling = tonumber(ARGV[1]), tonumber(ARGV[2])
if ceiling and amount > 0 and counted + amount > ceiling then return {0, counted} end
redis.call('SET', KEYS[1], string.format('%.0f', math.max(counted + amount, 0)), 'EX', ARGV[3])
return {1, counted}
"""


def add(store: str, counter: str, amount: int, ceiling: int | None = None) -> tuple[bool, int]:
    """Adds to a counter, unless that would take it over a ceiling; it is gone two days after its last change.

    Args:
        store: A `redis://` URL, or `redis-database/` and the name of a prefect-redis block.
        counter: The counter's name.
        amount: A whole number below 2⁵³; a negative one takes off.
        ceiling: The most that the counter may become, inclusive; None for no end.

    Returns:
        Whether it was added, and what was counted before.

    Raises:
        InvalidRequestError: The store cannot be used as it is configured.
        N1nError: It was not reached, or did not answer: transient. In the second case the amount may be counted.
    """
    client, turns = _client(store)
    with turns, _reaching():
        limit = "" if ceiling is None else ceiling
        added, counted = client.register_script(_ADD)([counter], [amount, limit, _KEPT_SECONDS])
    return bool(added), counted


# ── clients ──────────────────────────────────────────────────────────────────

_clients: dict[tuple[int, str], tuple[Any, Semaphore]] = {}
_MOST_CONNECTIONS = 32  # a client of redis-py has 100 by default, and fails when there are none left


def _client(store: str) -> tuple[Any, Semaphore]:
    """The process's client for a store, and turns at using it; a forked child gets its own."""
    key = (os.getpid(), store)
    if key not in _clients:
        client = _block_client(store) if store.startswith(BLOCK_PREFIX) else _url_client(store)
        # Without a lock, which a fork may copy while it is held: a client opens nothing until it is used.
        _clients.setdefault(key, (_careful(client), Semaphore(_MOST_CONNECTIONS)))
    return _clients[key]


def _url_client(url: str) -> Any:
    with _installed("redis"):
        from redis import Redis
    times: Any = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    with _usable("write redis://USER:PASSWORD@HOST:PORT/0"):
        client = Redis.from_url(url, **times)
        client.connection_pool.make_connection()  # opens nothing, and refuses options that there are not
    return client


def _block_client(store: str) -> Any:
    with _installed("prefect-redis"):
        from prefect_redis import RedisDatabase
    name = store.removeprefix(BLOCK_PREFIX)
    try:
        # Without `_sync` there is a coroutine where an event loop runs.
        block: Any = RedisDatabase.load(name, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as exc:
        raise InvalidRequestError(
            f"The Redis Database block {name!r}, which {SETTING} names, could not be loaded: "
            f"{without_secrets(' '.join(str(exc).split()))} Nothing was spent."
        ) from None
    except Exception as exc:  # noqa: BLE001 - whatever it is, the server may answer the next time
        raise N1nError(
            f"The Prefect API did not give the Redis Database block {name!r} ({type(exc).__name__}). "
            "Nothing was spent.",
            is_transient=True,
        ) from None
    with _usable(f"check the fields of the block {name!r}"):
        return block.get_client()


def _careful(client: Any) -> Any:
    """The client, which does not wait for ever and takes no step twice."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options = client.get_connection_kwargs()
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = options.get(name) or _TIMEOUT_SECONDS
    # redis-py would send again what may have been carried out, and so give back twice.
    client.set_retry(Retry(NoBackoff(), 0))
    return client


# ── what can go wrong ────────────────────────────────────────────────────────


@contextmanager
def _installed(package: str) -> Generator[None]:
    try:
        yield
    except ImportError:
        raise InvalidRequestError(
            f"{SETTING} needs the package {package}: pip install 'n1n-prefect[redis]'. Nothing was spent."
        ) from None


@contextmanager
def _usable(remedy: str) -> Generator[None]:
    try:
        yield
    except (ValueError, TypeError):
        # Without their words, which may repeat a piece of the password.
        raise InvalidRequestError(
            f"{SETTING} cannot be used as the address of a Redis; {remedy}, the password percent-encoded and every "
            "option one that redis-py has. Nothing was spent."
        ) from None


@contextmanager
def _reaching() -> Generator[None]:
    from redis import exceptions

    try:
        yield
    except (
        exceptions.AuthenticationError,
        exceptions.AuthenticationWrongNumberOfArgsError,
        exceptions.AuthorizationError,
        exceptions.NoPermissionError,
    ) as exc:
        raise InvalidRequestError(
            f"The Redis of {SETTING} refuses us ({without_secrets(str(exc))}). Check user and password, and that the "
            "user may run EVALSHA, SCRIPT LOAD, GET and SET. Nothing was spent."
        ) from None
    except (exceptions.RedisError, OSError, UnicodeError) as exc:
        raise N1nError(
            f"The Redis of {SETTING} was not reached, or did not answer ({type(exc).__name__}: "
            f"{without_secrets(str(exc)).rstrip('.')}). Nothing was spent.",
            is_transient=True,
        ) from None
