import logging
from typing import Any

import httpx
import pytest

from n1n_prefect import log_guard
from n1n_prefect.client import N1nClient
from n1n_prefect.log_guard import guard_logs
from n1n_prefect.masking import remember_secret
from tests.raw_servers import KEY, SMALL, Asking, H2Line, serving

SECRET = "hush-hush-4711"


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.fixture
def logger(caplog: pytest.LogCaptureFixture) -> logging.Logger:
    """One of a library below us, at its loudest."""
    logger = logging.getLogger("botocore.of-a-test")
    guard_logs()
    remember_secret(SECRET)
    caplog.set_level(logging.DEBUG, logger.name)
    return logger


class TestLines:
    @pytest.mark.parametrize(
        ("line", "seen"),
        [
            (("with %s and %d", SECRET, 7), "with *** and 7"),
            (("with %r", {"authorization": f"Bearer {SECRET}"}), "with {'authorization': 'Bearer ***'}"),
            (("with %s", SECRET.encode()), "with b'***'"),
            (("nothing of %s", "interest"), "nothing of interest"),
            (("<SecretAccessKey>a/b+c</SecretAccessKey><SessionToken>x=</SessionToken>",),
             "<SecretAccessKey>***</SecretAccessKey><SessionToken>***</SessionToken>"),
            (("x-amz-security-token:a/b+c=\nx-amz-date:1",), "x-amz-security-token:***\nx-amz-date:1"),
            (("%r", {"X-Amz-Security-Token": "a/b+c=", "a": 1}), "{'X-Amz-Security-Token': '***', 'a': 1}"),
            (("%r", {"X-Amz-Security-Token": b"a/b+c="}), "{'X-Amz-Security-Token': b'***'}"),
            (("Starting new connection: http://me:pass@host:1",), "Starting new connection: http://***@host:1"),
        ],
    )  # fmt: skip
    def test_show_no_secret(
        self, logger: logging.Logger, caplog: pytest.LogCaptureFixture, line: tuple[Any, ...], seen: str
    ):
        logger.debug(*line)
        assert [record.getMessage() for record in caplog.records] == [seen]

    def test_nor_do_their_tracebacks(self, logger: logging.Logger, caplog: pytest.LogCaptureFixture):
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.warning("refused", exc_info=True)
        assert "ValueError: ***" in caplog.text
        assert SECRET not in caplog.text

    @pytest.mark.parametrize(
        ("line", "seen"),
        [
            (("%d of them", SECRET), "'%d of them' with ('***',)"),
            (("%s and %s", SECRET), "'%s and %s' with ('***',)"),
            ((f"{SECRET}: 100%", 1), "'***: 100%' with (1,)"),
            (("with %s", Unspeakable()), "(a line that cannot be formatted)"),
        ],
    )
    def test_that_cannot_be_formatted_reach_nobody_as_an_error(
        self, logger: logging.Logger, caplog: pytest.LogCaptureFixture, line: tuple[Any, ...], seen: str
    ):
        logger.debug(*line)
        assert [record.getMessage() for record in caplog.records] == [seen]

    def test_nor_do_tracebacks_that_cannot_be(self, logger: logging.Logger, caplog: pytest.LogCaptureFixture):
        logger.warning("refused", exc_info=(ValueError, ValueError(SECRET), "no traceback"))  # pyright: ignore
        assert "(a traceback that cannot be formatted)" in caplog.text
        assert SECRET not in caplog.text

    def test_of_others_are_left_alone(self, logger: logging.Logger, caplog: pytest.LogCaptureFixture):
        logging.getLogger("somebody.else").warning("with %s", SECRET)
        assert SECRET in caplog.text

    def test_are_guarded_once(self, logger: logging.Logger):
        guard_logs()
        guard_logs()
        assert logger.filters == [log_guard._mask]


class TestLibraries:
    """What the libraries log at their loudest has no key in it."""

    @pytest.fixture(autouse=True)
    def loud(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)

    def test_http2(self, caplog: pytest.LogCaptureFixture):
        def answer(line: H2Line) -> None:
            line.answer(line.request())
            line.drain()  # what is unread when a connection closes resets it, and the answer with it

        with serving(answer) as server:
            assert Asking(N1nClient).over_http2(server.url, SMALL) == [(200, b"ok")]
        assert "hpack" in {record.name.partition(".")[0] for record in caplog.records}
        assert KEY not in caplog.text

    def test_headers_of_a_reply(self, caplog: pytest.LogCaptureFixture, n1n_gateway: Any):
        with N1nClient(KEY, n1n_gateway.base_url) as client:
            with httpx.Client(base_url=n1n_gateway.base_url) as other:
                other.get("/", params={"of": KEY})
            del client
        assert "httpx" in {record.name for record in caplog.records}
        assert KEY not in caplog.text
