"""Keys, addresses and times: what cannot work is refused by name before anything is sent."""

import traceback

import pytest
from pydantic import SecretStr

from n1n_prefect import errors
from n1n_prefect.addresses import MAX_TIMEOUT_SECONDS, checked_api_key
from n1n_prefect.client import AsyncN1nClient, N1nClient

KEY = "secret-key-without-a-prefix"


class TestArguments:
    """What cannot work is refused before anything is sent, by name, and without the key."""

    @pytest.mark.parametrize("kind", [N1nClient, AsyncN1nClient])
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("", "it is empty"),
            (None, "of type NoneType"),
            (5, "of type int"),
            (b"sk-bytes-of-a-key", "of type bytes"),
            (SecretStr("sk-wrapped-key"), "of type SecretStr"),
            ("a\nb", "line breaks"),
            ("sk-a\n", "line breaks"),
            ("sk-a\0b", "line breaks"),
            ("sk-a b", "spaces"),
            (" ", "spaces"),
            ("ключ", "letters that no key has"),
            ("sk-\ud800", "letters that no key has"),
            ("********", "only asterisks"),
            ('"sk-x"', "in quotes"),
            ("'sk-x'", "in quotes"),
            ("`sk-x`", "in quotes"),
            ("$N1N_API_KEY", "name of a variable"),
            ("${N1N_API_KEY}", "name of a variable"),
            ("%N1N_API_KEY%", "name of a variable"),
            ("{{ key }}", "name of a variable"),
            ("bearer sk-x", "the key alone"),
            ("https://api.n1n.ai", "belongs in base_url"),
        ],
    )
    def test_a_key_that_is_none(self, kind, key, said):
        with pytest.raises(errors.InvalidRequestError, match=f"^api_key: .*{said}") as caught:
            kind(key)
        shown = "".join(traceback.format_exception(caught.value, limit=0))
        assert not isinstance(key, str) or len(key) < 2 or key not in shown
        assert "wrapped" not in shown

    @pytest.mark.parametrize("key", ["sk-x", "secret-key-without-a-prefix", "a.b+c/d=e_f~", "sk-a$b%c"])
    def test_a_key_of_any_kind(self, key):
        assert checked_api_key(key) == key

    @pytest.mark.parametrize(
        ("base_url", "said"),
        [
            (None, "of type NoneType"),
            (b"https://api.n1n.ai", "of type bytes"),
            ("", "is no address"),
            ("ftp://example.com", "is no address"),
            ("example.com", "is no address"),
            ("http://example.com", "in clear to 'example.com'"),
            ("http://0.0.0.0", "in clear"),
            ("http://127.0.0.1\\.example.com", "is no address"),
            ("http://localhost\t.example.com", "is no address"),
            ("https://user:hush@example.com", "credentials in it"),
            ("https://api..n1n.ai", "no host that can be looked up"),
            (f"https://{'a' * 300}", "no host that can be looked up"),
            (f"https://{'abc.' * 75}ai", "no host that can be looked up"),
            ("https://a\ud800b", "is no address"),
            ("https://api.n1n.ai/\ud800", "is no address"),
            ("https://[::1", "is no address"),
            ("https://api.n1n.ai:99999", "is no address"),
            ("https://api.n1n.ai?key=hush", "query"),
            ("https://api.n1n.ai:99999?token=hush", "query"),
            ("https://api.n1n.ai/" + "é" * 70_000, "is no address"),
        ],
    )
    def test_an_address_that_is_none(self, base_url, said):
        with pytest.raises(errors.InvalidRequestError, match=f"^base_url: .*{said}") as caught:
            N1nClient(KEY, base_url)
        assert "hush" not in str(caught.value)
        assert len(str(caught.value)) < 250

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (" https://api.n1n.ai/v1/ ", "https://api.n1n.ai"),
            ("http://localhost:8123/", "http://localhost:8123"),
            ("http://[::1]:8123", "http://[::1]:8123"),
            ("https://bücher.example", "https://bücher.example"),
            ("https://api.n1n.ai./n1n", "https://api.n1n.ai./n1n"),
            ("HTTPS://API.N1N.AI", "HTTPS://API.N1N.AI"),
        ],
    )
    def test_an_address_that_is_one(self, given, kept):
        with N1nClient(KEY, given) as asking:
            assert asking.base_url == kept

    @pytest.mark.parametrize(
        "seconds", [0, -1, "x", "30", None, True, float("nan"), float("inf"), 1e300, 10**400, [30]]
    )
    def test_a_time_that_nobody_can_wait(self, seconds):
        with pytest.raises(errors.InvalidRequestError, match=r"^timeout_seconds: .* is no time to wait"):
            N1nClient(KEY, timeout_seconds=seconds)

    def test_the_longest_time(self):
        url = "http://127.0.0.1:9"
        with N1nClient(KEY, url, timeout_seconds=MAX_TIMEOUT_SECONDS) as asking, pytest.raises(errors.GatewayError):
            asking.models()
