"""The clients that tasks share: one a process for threads, one an event loop while it has calls under way."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from weakref import WeakKeyDictionary

from n1n_prefect.blocks import N1nCredentials
from n1n_prefect.client import AsyncN1nClient, N1nClient
from n1n_prefect.pace import Pace


@dataclass
class _Lease:
    client: AsyncN1nClient
    users: int = 0


_lock = Lock()
_clients: dict[tuple[object, ...], N1nClient] = {}
_paces: dict[tuple[object, ...], Pace] = {}
_leases: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[object, ...], _Lease]] = WeakKeyDictionary()


def shared_client(credentials: N1nCredentials) -> N1nClient:
    """The process's client for these credentials; a forked child gets its own."""
    key = (os.getpid(), *_identity(credentials))
    with _lock:
        if key not in _clients:
            _clients[key] = credentials.get_client()
        return _clients[key]


@asynccontextmanager
async def leased_client(credentials: N1nCredentials) -> AsyncGenerator[AsyncN1nClient]:
    """The event loop's client for these credentials, closed when its last call ends.

    Calls that overlap share connections; a loop that makes a single call leaves nothing open.
    """
    leases = _leases.setdefault(asyncio.get_running_loop(), {})
    key = _identity(credentials)
    if key not in leases:
        leases[key] = _Lease(credentials.get_async_client())
    lease = leases[key]
    lease.users += 1
    try:
        yield lease.client
    finally:
        lease.users -= 1
        if not lease.users:
            leases.pop(key, None)
            await lease.client.close()


def pace_of(credentials: N1nCredentials) -> Pace:
    """The bound on calls at once for these credentials in this process."""
    key = (os.getpid(), credentials.max_in_flight, *_identity(credentials)[:2])
    with _lock:
        if key not in _paces:
            _paces[key] = Pace(credentials.max_in_flight)
        return _paces[key]


def _identity(credentials: N1nCredentials) -> tuple[object, ...]:
    digest = sha256(credentials.api_key.get_secret_value().encode()).hexdigest()
    return digest, credentials.base_url, credentials.timeout_seconds
