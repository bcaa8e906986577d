import multiprocessing
import os
import sys
import threading
import uuid

import pytest
import redis

from n1n_prefect import errors
from n1n_prefect.counter_store import add
from tests.s3_servers import free_port


@pytest.fixture
def counter():
    return f"test:{uuid.uuid4()}"


class TestAdd:
    def test_up_to_the_ceiling_inclusive(self, redis_server, counter):
        assert add(redis_server, counter, 7, 10) == (True, 0)
        assert add(redis_server, counter, 4, 10) == (False, 7)
        assert add(redis_server, counter, 3, 10) == (True, 7)
        assert add(redis_server, counter, 0, 5) == (True, 10)

    def test_without_a_ceiling_it_takes_any_amount_and_never_goes_below_nothing(self, redis_server, counter):
        assert add(redis_server, counter, 2**53 - 1) == (True, 0)
        assert add(redis_server, counter, -(2**53)) == (True, 2**53 - 1)
        assert add(redis_server, counter, 1) == (True, 0)

    def test_more_threads_than_connections(self, redis_server, counter):
        threads = [threading.Thread(target=add, args=(redis_server, counter, 1)) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert add(redis_server, counter, 0) == (True, 200)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_child_has_a_client_of_its_own(self, redis_server, counter):
        add(redis_server, counter, 1)
        child = multiprocessing.get_context("fork").Process(target=add, args=(redis_server, counter, 1))
        child.start()
        assert add(redis_server, counter, 1)[0]
        child.join()
        assert child.exitcode == 0
        assert add(redis_server, counter, 0) == (True, 3)

    def test_one_client_for_an_address(self, own_redis, counter):
        with own_redis() as url, redis.Redis.from_url(url) as client:
            for _ in range(5):
                add(url, counter, 1)
            assert len(client.client_list()) == 2  # ours, and the one that asks

    def test_a_server_that_was_started_again_is_used_again(self, own_redis, counter):
        port = free_port()
        with own_redis(port=port) as url:
            add(url, counter, 1)
        with pytest.raises(errors.N1nError):
            add(url, counter, 1)
        with own_redis(port=port):
            assert add(url, counter, 1) == (True, 0)


class TestFailures:
    def failure(self, store):
        with pytest.raises(errors.N1nError) as caught:
            add(store, "counter", 1, 1)
        assert caught.value.charged == "no"
        assert "Nothing was spent" in str(caught.value)
        assert caught.value.__cause__ is None
        assert "hush" not in repr(caught.value) + str(caught.value)
        return caught.value

    def test_a_server_that_is_not_there_is_transient(self):
        error = self.failure(f"redis://someone:hush@127.0.0.1:{free_port()}/0")
        assert error.is_transient
        assert "Connection refused" in str(error)

    def test_so_is_one_that_does_not_answer(self, own_redis):
        with own_redis() as url, redis.Redis.from_url(url) as client:
            add(f"{url}?socket_timeout=0.2", "counter", 0)
            client.client_pause(60_000)
            assert self.failure(f"{url}?socket_timeout=0.2").is_transient

    def test_a_wrong_password_is_not(self, own_redis):
        with own_redis("--requirepass", "hush-hush") as url:
            for address in (url, url.replace("//", "//:hush-hash@")):
                error = self.failure(address)
                assert isinstance(error, errors.InvalidRequestError)
                assert "check user and password" in str(error).lower()
            assert add(url.replace("//", "//:hush-hush@"), "counter", 1) == (True, 0)

    def test_nor_is_a_user_who_may_not(self, own_redis):
        with own_redis() as url, redis.Redis.from_url(url) as client:
            client.acl_setuser("reader", enabled=True, passwords="+hush", commands=["+get"], keys="*")
            error = self.failure(url.replace("//", "//reader:hush@"))
            assert isinstance(error, errors.InvalidRequestError)
            assert "may run EVALSHA" in str(error)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:hu#hush@127.0.0.1:6379/0",
            "redis://:hush@127.0.0.1:hush/0",
            "redis://:hush@127.0.0.1:6379/0?colour=hush",
            "redis://:hush@[127.0.0.1:6379/0",
        ],
    )
    def test_an_address_that_cannot_be_is_not_repeated(self, url):
        error = self.failure(url)
        assert isinstance(error, errors.InvalidRequestError)
        assert "redis://USER:PASSWORD@HOST:PORT/0" in str(error)

    @pytest.mark.parametrize(
        ("module", "store", "package"),
        [("redis", "redis://127.0.0.1:1/9", "redis"), ("prefect_redis", "redis-database/none", "prefect-redis")],
    )
    def test_a_missing_package_is_named(self, monkeypatch, module, store, package):
        monkeypatch.setitem(sys.modules, module, None)
        assert f"needs the package {package}: pip install 'n1n-prefect[redis]'" in str(self.failure(store))


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestBlock:
    async def test_a_prefect_redis_block_in_threads_and_where_an_event_loop_runs(self, own_redis, counter):
        from prefect_redis import RedisDatabase

        with own_redis("--requirepass", "hush-hush") as url:
            port = int(url.rpartition(":")[2].removesuffix("/0"))
            await RedisDatabase(host="127.0.0.1", port=port, password="hush-hush").save("counter", overwrite=True)
            assert add("redis-database/counter", counter, 1) == (True, 0)
            thread = threading.Thread(target=add, args=("redis-database/counter", counter, 1))
            thread.start()
            thread.join()
            assert add("redis-database/counter", counter, 0) == (True, 2)

    def test_one_that_there_is_not(self):
        with pytest.raises(errors.InvalidRequestError, match=r"'no-such'.*could not be loaded: Unable to find"):
            add("redis-database/no-such", "counter", 1)
