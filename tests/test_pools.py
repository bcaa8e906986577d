import asyncio
import os

import pytest

from n1n_prefect import N1nCredentials, pools
from n1n_prefect.pools import leased_client, pace_of, shared_client


def credentials(key="sk-one", **fields):
    return N1nCredentials(api_key=key, base_url="http://127.0.0.1:9", **fields)


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """No client of another test's; those of this one are closed."""
    clients = {}
    monkeypatch.setattr(pools, "_clients", clients)
    yield
    for client in clients.values():
        client.close()


class TestSharedClient:
    def test_is_one_for_equal_credentials(self):
        assert shared_client(credentials()) is shared_client(credentials(max_in_flight=2, price_factor=3))

    @pytest.mark.parametrize(
        "other",
        [
            credentials("sk-two"),
            N1nCredentials(api_key="sk-one", base_url="http://127.0.0.1:10"),
            credentials(timeout_seconds=7),
        ],
        ids=["key", "address", "timeout"],
    )
    def test_is_another_for_what_makes_another_connection(self, other):
        assert shared_client(other) is not shared_client(credentials())

    def test_a_forked_process_makes_its_own(self, monkeypatch):
        ours = shared_client(credentials())
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert shared_client(credentials()) is not ours

    def test_the_key_is_not_kept_in_clear_to_find_it_by(self):
        shared_client(credentials("sk-very-secret"))
        assert "very-secret" not in repr(pools._clients)


class TestLeasedClient:
    async def test_calls_at_once_share_it(self):
        async with leased_client(credentials()) as one, leased_client(credentials()) as other:
            assert one is other

    async def test_is_closed_when_the_last_call_ends(self):
        async with leased_client(credentials()) as client:
            async with leased_client(credentials()):
                pass
            assert not client._http.is_closed
        assert client._http.is_closed

    async def test_is_closed_when_a_call_fails(self):
        with pytest.raises(RuntimeError):
            async with leased_client(credentials()) as client:
                raise RuntimeError
        assert client._http.is_closed

    async def test_the_next_call_gets_a_new_one(self):
        async with leased_client(credentials()) as first:
            pass
        async with leased_client(credentials()) as second:
            assert second is not first

    async def test_other_credentials_have_another(self):
        async with leased_client(credentials()) as one, leased_client(credentials("sk-two")) as other:
            assert one is not other

    def test_loops_do_not_share(self):
        async def lease(seen):
            async with leased_client(credentials()) as client:
                seen.append(client)

        seen = []
        asyncio.run(lease(seen))
        asyncio.run(lease(seen))
        assert seen[0] is not seen[1]
        assert [client._http.is_closed for client in seen] == [True, True]


class TestPaceOf:
    def test_is_one_bound_for_one_key_at_one_gateway(self):
        assert pace_of(credentials(max_in_flight=3)) is pace_of(credentials(max_in_flight=3, timeout_seconds=9))
        assert pace_of(credentials(max_in_flight=3)).limit == 3

    def test_keys_do_not_wait_for_each_other(self):
        assert pace_of(credentials()) is not pace_of(credentials("sk-two"))
