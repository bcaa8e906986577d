from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from n1n_prefect import masking
from n1n_prefect.masking import remember_secret, without_secrets, without_secrets_in

SECRET = "sk-9f8e7d6c5b4a39281706"


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            f"Incorrect API key provided: {SECRET}.",
            f"Authorization: Bearer {SECRET}",
            "Authorization: Bearer abcdefghijklmnop.qrst/uvw+x==",
            "https://host/v1beta/models?key=anything-at-all",
            "https://host/v1beta/models?alt=sse&key=anything-at-all",
            "the key AIzaSyA-1234567890_abcdefg is wrong",
        ],
    )
    def test_whatever_looks_like_a_key_is_masked(self, text):
        seen = without_secrets(text)
        assert "***" in seen
        assert not any(part in seen for part in (SECRET, "abcdefghijk", "anything", "1234567890"))

    def test_a_key_that_looks_like_none_is_masked_where_it_is_known(self):
        assert without_secrets("key hunter2 refused", "hunter2", "") == "key *** refused"

    def test_a_password_in_an_address(self):
        assert without_secrets("no http://me:pass@host:1/a?b@c, s3://a/b@c") == "no http://***@host:1/a?b@c, s3://a/b@c"

    @pytest.fixture
    def nothing_remembered(self, monkeypatch):
        for name in ("_lasting", "_temporary"):
            monkeypatch.setattr(masking, name, ())

    @pytest.mark.usefixtures("nothing_remembered")
    def test_those_of_this_process_are_remembered(self):
        for secret in ("hunter2-of-old", "hunter2-of-old-and-more", "short", ""):
            remember_secret(secret)
        assert without_secrets("hunter2-of-old-and-more, hunter2-of-old, short") == "***, ***, short"

    @pytest.mark.usefixtures("nothing_remembered")
    def test_renewed_ones_are_forgotten_and_lasting_ones_are_not(self):
        remember_secret("the-gateways-key")
        remember_secret("in-use-all-along", is_temporary=True)
        for number in range(300):
            remember_secret(f"secret-number-{number:03}", is_temporary=True)
            remember_secret("in-use-all-along", is_temporary=True)
        assert without_secrets("the-gateways-key in-use-all-along secret-number-299") == "*** *** ***"
        assert without_secrets("secret-number-040") == "secret-number-040"

    @pytest.mark.usefixtures("nothing_remembered")
    def test_one_that_turns_out_to_last_is_kept(self):
        remember_secret("at-first-temporary", is_temporary=True)
        remember_secret("at-first-temporary")
        remember_secret("at-first-temporary", is_temporary=True)
        for number in range(300):
            remember_secret(f"secret-number-{number:03}", is_temporary=True)
        assert without_secrets("at-first-temporary") == "***"

    @pytest.mark.usefixtures("nothing_remembered")
    def test_none_is_lost_between_threads(self):
        secrets = [f"secret-of-a-thread-{number:04}" for number in range(2000)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(remember_secret, secrets))
        assert without_secrets(" ".join(secrets)) == " ".join(["***"] * 2000)

    def test_a_chain_that_is_a_ring_ends(self):
        first, second = ValueError("http://me:hush-hush@host"), ValueError("http://me:hush-hush@host")
        first.__cause__, second.__cause__ = second, first
        without_secrets_in(first)
        assert "hush" not in f"{first} {second}"

    @pytest.mark.parametrize("path", ["/a?key=hush-hush", Path("/a?key=hush-hush")])
    def test_what_an_oserror_says_is_not_its_args(self, path):
        exc = without_secrets_in(FileNotFoundError(2, "no http://me:hush-hush@host", path, None, path))
        assert "hush" not in f"{exc} {exc!r}"

    def test_all_that_a_traceback_shows(self):
        try:
            try:
                raise OSError(5, "no http://me:hush-hush@host")
            except OSError as exc:
                raise ValueError("hush-hush@host", 7) from exc
        except ValueError as exc:
            seen = without_secrets_in(exc)
        assert seen.args == ("hush-hush@host", 7)
        assert seen.__cause__.args == (5, "no http://***@host")

    @pytest.mark.parametrize("text", ["a task-oriented ask-someone desk-lamp", "a monkey=banana", "no secret", ""])
    def test_usual_words_stay(self, text):
        assert without_secrets(text) == text


@pytest.mark.parametrize("name", ["key", "token", "sig", "password", "X-Amz-Security-Token", "X-Amz-Signature"])
def test_a_secret_in_a_query_is_masked_and_its_name_is_not(name):
    assert without_secrets(f"https://host/x?a=1&{name}=hunter2secret&b=2") == f"https://host/x?a=1&{name}=***&b=2"
