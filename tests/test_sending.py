"""What became of a request, told by real servers that treat connections badly; each is counted."""

import asyncio
import errno
import gzip
import os
import pickle
import socket
import threading
import traceback

import h2.errors
import httpx
import pytest

from n1n_prefect.client import AsyncN1nClient, N1nClient
from n1n_prefect.errors import GatewayError, InvalidRequestError, OutcomeUnknownError
from n1n_prefect.wire import failure
from n1n_prefect.wire.exchange import HttpRequest
from tests.raw_servers import KEY, LARGE, SMALL, Asking, H2Line, Line, atold, certified, serving

SOON = 1.0
"""A timeout in seconds for servers that never answer; no test depends on how much later than this they would."""


@pytest.fixture(params=[N1nClient, AsyncN1nClient], ids=["sync", "async"])
def ask(request):
    return Asking(request.param)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certified(tmp_path_factory.mktemp("tls"))


def assert_unknown(told):
    assert isinstance(told, OutcomeUnknownError), told
    assert (told.charged, told.is_transient) == ("unknown", True)
    assert "billed" in told.message


def assert_not_charged(told, said):
    assert isinstance(told, GatewayError), told
    assert (told.charged, told.is_transient) == ("no", True)
    assert said in told.message


NOT_WHOLE = "before the whole request had left"
NOT_REACHED = "nothing was sent"


# ── servers over HTTP/1.1 ────────────────────────────────────────────────────


def closes_before_a_reply(line: Line):
    line.request()


def resets_before_a_reply(line: Line):
    line.request()
    line.reset()


def closes_within_the_head(line: Line):
    line.request()
    line.say(b"HTTP/1.1 200 OK\r\nContent-Le")


def closes_within_the_body(line: Line):
    line.request()
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def says_nothing(line: Line):
    line.request()
    line.hold()


def stops_within_the_body(line: Line):
    closes_within_the_body(line)
    line.hold()


def speaks_no_http(line: Line):
    line.request()
    line.say(b"SSH-2.0-OpenSSH_9.2\r\n")


def closes_after_the_head(line: Line):
    line.head()


def resets_after_the_head(line: Line):
    line.head()
    line.reset()


def reads_no_further(line: Line):
    line.head()
    line.hold()


def answers(line: Line):
    while line.request():
        line.answer()


class TestLost:
    @pytest.mark.parametrize(
        "script",
        [
            closes_before_a_reply,
            resets_before_a_reply,
            closes_within_the_head,
            closes_within_the_body,
            says_nothing,
            stops_within_the_body,
            speaks_no_http,
        ],
    )
    def test_after_it_left_whole_is_unknown_and_not_sent_again(self, ask, script):
        with serving(script) as server:
            [told] = ask(server.url, SMALL, timeout_seconds=SOON)
        assert_unknown(told)
        assert (len(server.whole), server.connections) == (1, 1)

    @pytest.mark.parametrize("script", [closes_after_the_head, resets_after_the_head, reads_no_further])
    def test_before_it_left_whole_is_not_charged(self, ask, script):
        with serving(script) as server:
            [told] = ask(server.url, LARGE, timeout_seconds=SOON)
        assert_not_charged(told, NOT_WHOLE)
        assert "24.0 MB" in told.message
        assert (server.whole, server.connections) == ([], 1)

    def test_the_error_holds_neither_key_nor_request(self, ask):
        with serving(closes_after_the_head) as server:
            [told] = ask(server.url, LARGE)
        assert KEY.encode() not in pickle.dumps(told)
        with pytest.raises(RuntimeError):
            _ = told.__cause__.request

    @pytest.mark.parametrize("script", [closes_before_a_reply, says_nothing])
    def test_what_asks_for_no_image_is_not_charged(self, ask, script):
        with serving(script) as server:
            [told] = ask(server.url, HttpRequest("GET", "/v1/models", {}), timeout_seconds=SOON)
        assert_not_charged(told, "nothing was charged")

    def test_the_whole_body_arrives_as_it_is(self, ask):
        with serving(answers) as server:
            assert ask(server.url, LARGE, SMALL) == [(200, b"ok")] * 2
        assert server.whole == [LARGE.body, SMALL.body]
        assert server.connections == 1

    @pytest.mark.parametrize("value", ["Bearer a\nb", "a\0b"])
    def test_a_header_that_http_refuses_was_not_sent_and_is_not_shown(self, ask, value):
        with serving(answers) as server:
            [told] = ask(server.url, HttpRequest("POST", "/x", {"x-thing": value}, b"{}"))
        assert isinstance(told, InvalidRequestError)
        assert (told.charged, told.is_transient, server.whole) == ("no", False, [])
        assert "nothing was sent" in told.message
        shown = "".join(traceback.format_exception(told))
        assert repr(value) not in shown
        assert KEY not in shown

    def test_an_error_of_the_sink_stays_what_it_is(self):
        class Full:
            def write(self, data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with serving(answers) as server, N1nClient(KEY, server.url) as client, pytest.raises(OSError, match="No space"):
            client.send(SMALL, Full())


class TestTls:
    def test_an_untrusted_certificate_was_not_sent_to(self, ask, tls):
        with serving(answers, tls=tls[0]) as server:
            [told] = ask(server.url, SMALL)
        assert_not_charged(told, NOT_REACHED)
        assert (server.whole, server.connections) == ([], 1)

    @pytest.mark.parametrize("greeting", [b"220 mail.example.com ESMTP\r\n", b""])
    def test_a_server_without_tls_was_not_sent_to(self, ask, greeting):
        def greets(line: Line):
            line.connection.recv(1)
            line.say(greeting)

        with serving(greets) as server:
            [told] = ask(server.url.replace("http", "https"), SMALL)
        assert_not_charged(told, NOT_REACHED)
        assert (server.whole, server.connections) == ([], 1)

    def test_tls_that_breaks_after_the_request_left_is_unknown(self, ask, tls):
        def breaks(line: Line):
            line.request()
            os.write(line.connection.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))  # a record nobody can decrypt
            line.drain()

        with serving(breaks, tls=tls[0]) as server:
            [told] = ask(server.url, SMALL, transport=ask.transport(verify=tls[1]))
        assert_unknown(told)
        assert (len(server.whole), server.connections) == (1, 1)

    @pytest.mark.parametrize(("options", "spoken"), [({}, "http/1.1"), ({"http2": True}, "h2")])
    def test_http2_is_offered_only_if_asked_for(self, ask, tmp_path, options, spoken, monkeypatch):
        def notes_what_is_spoken(line: Line):
            chosen.append(line.connection.selected_alpn_protocol())

        chosen = []
        serves, trusts = certified(tmp_path)
        serves.set_alpn_protocols(["h2", "http/1.1"])
        monkeypatch.setattr("n1n_prefect.client._ssl_context", lambda: trusts)
        with serving(notes_what_is_spoken, tls=serves) as server:
            ask(server.url, SMALL, **options)
        assert chosen == [spoken]

    def test_and_before_it_left_whole_is_not_charged(self, ask, tls):
        with serving(closes_after_the_head, tls=tls[0]) as server:
            [told] = ask(server.url, LARGE, transport=ask.transport(verify=tls[1]))
        assert_not_charged(told, NOT_WHOLE)
        assert server.whole == []


class TestKeptAlive:
    def test_a_connection_that_was_closed_while_idle_swallows_nothing(self, ask):
        def answers_once(line: Line):
            line.request()
            line.answer()

        with serving(answers_once) as server:
            assert ask(server.url, SMALL, server.closed, SMALL) == [(200, b"ok")] * 2
        assert (len(server.whole), server.connections) == (2, 2)

    def test_one_that_is_reset_once_it_has_the_next_request_is_unknown(self, ask):
        def resets_the_second(line: Line):
            line.request()
            line.answer()
            resets_before_a_reply(line)

        with serving(resets_the_second) as server:
            first, second = ask(server.url, SMALL, SMALL)
        assert first == (200, b"ok")
        assert_unknown(second)
        assert (len(server.whole), server.connections) == (2, 1)


class TestReplies:
    @pytest.mark.parametrize("request_", [SMALL, LARGE])
    def test_informational_ones_come_before_the_real_one(self, ask, request_):
        def informs(line: Line):
            line.say(b"HTTP/1.1 102 Processing\r\n\r\n")
            line.request()
            line.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            line.answer()

        with serving(informs) as server:
            assert ask(server.url, request_) == [(200, b"ok")]
        assert server.whole == [request_.body]

    def test_one_that_comes_before_the_body_left_counts(self, ask):
        def refuses_early(line: Line):
            line.head()
            line.answer(b"too large", 413, "Connection: close")
            line.drain()

        with serving(refuses_early) as server:
            [told] = ask(server.url, LARGE)
        assert told == (413, b"too large")
        assert isinstance(failure.error_from(413, {}, told[1]), InvalidRequestError)
        assert (server.whole, server.connections) == ([], 1)

    def test_and_even_if_the_server_then_resets_the_connection(self, ask):
        # RFC 9112, 9.6: RST can erase a reply that is not yet read, and asyncio gives up its socket
        # with it. A server that wants to be heard lingers; without that nothing is called charged.
        def refuses_and_closes(line: Line):
            line.head()
            line.answer(b"too large", 413, "Connection: close")

        with serving(refuses_and_closes) as server:
            [told] = ask(server.url, LARGE)
        if ask.is_async and told != (413, b"too large"):
            assert_not_charged(told, NOT_WHOLE)
        else:
            assert told == (413, b"too large")
        assert (server.whole, server.connections) == ([], 1)

    def test_one_that_refuses_is_known_by_its_status_even_if_it_breaks_off(self, ask):
        def breaks_off(line: Line):
            line.request()
            line.say(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\nToo m")

        with serving(breaks_off) as server:
            assert ask(server.url, SMALL) == [(429, b"Too m")]

    def test_gzip_is_undone(self, ask):
        def zips(line: Line):
            line.request()
            line.answer(gzip.compress(b"x" * 100_000), 200, "Content-Encoding: gzip")

        with serving(zips) as server:
            assert ask(server.url, SMALL) == [(200, b"x" * 100_000)]

    def test_a_redirect_is_not_followed(self, ask):
        def redirects(line: Line):
            while line.request():
                line.answer(b"", 307, "Location: /elsewhere")

        with serving(redirects) as server:
            assert ask(server.url, SMALL) == [(307, b"")]
        assert len(server.whole) == 1


def refuses_to_connect(line: Line):
    line.head()
    line.answer(b"", 403)


def closes_instead(line: Line):
    line.head()


def says_nothing_instead(line: Line):
    line.head()
    line.hold()


def connects_and_closes(line: Line):
    line.head()
    line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")


class TestProxy:
    @pytest.mark.parametrize(
        ("script", "said", "seconds"),
        [
            (refuses_to_connect, NOT_REACHED, 60),
            (closes_instead, NOT_WHOLE, 60),
            (says_nothing_instead, NOT_WHOLE, SOON),
            (connects_and_closes, NOT_REACHED, 60),
        ],
    )
    def test_one_that_does_not_connect_sent_nothing(self, ask, script, said, seconds, monkeypatch):
        with serving(script) as server:
            monkeypatch.setenv("HTTPS_PROXY", server.url)
            [told] = ask("https://gateway.example", SMALL, timeout_seconds=seconds)
        assert_not_charged(told, said)
        assert server.connections == 1


# ── servers over HTTP/2 ──────────────────────────────────────────────────────


def h2_answers(line: H2Line):
    while stream := line.request():
        line.answer(stream)


class TestHttp2:
    def test_a_request_that_is_refused_was_not_processed(self, ask):
        def refuses(line: H2Line):
            line.refuse(line.request(), h2.errors.ErrorCodes.REFUSED_STREAM)
            line.drain()

        with serving(refuses) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_not_charged(told, "did not begin with the request")
        assert (len(server.whole), server.connections) == (1, 1)

    @pytest.mark.parametrize("code", [code for code in h2.errors.ErrorCodes if code.name != "REFUSED_STREAM"])
    def test_any_other_reset_is_unknown(self, ask, code):
        def resets(line: H2Line):
            line.refuse(line.request(), code)
            line.drain()

        with serving(resets) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_unknown(told)
        assert (len(server.whole), server.connections) == (1, 1)

    def test_nor_is_one_believed_that_had_begun_to_answer(self, ask):
        def answers_and_refuses(line: H2Line):
            stream = line.request()
            line.answer(stream, b"half", end=False)
            line.refuse(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            line.drain()

        with serving(answers_and_refuses) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_unknown(told)

    def test_a_farewell_that_covers_no_request(self, ask):
        def goes_away(line: H2Line):
            line.request()
            line.go_away(0)
            line.drain()

        with serving(goes_away) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_not_charged(told, "did not begin with the request")
        assert (len(server.whole), server.connections) == (1, 1)

    def test_after_a_farewell_to_those_before_it_a_request_is_made_again_elsewhere(self, ask):
        # By httpcore, as RFC 9113, 6.8 allows: "can be safely retried"; one of the two is processed.
        processed = []

        def goes_away_after_the_first(line: H2Line):
            processed.append(first := line.request())
            line.answer(first)
            line.request()
            line.go_away(first)
            line.drain()

        def processes(line: H2Line):
            while stream := line.request():
                processed.append(stream)
                line.answer(stream)

        with serving(goes_away_after_the_first, processes) as server:
            assert ask.over_http2(server.url, SMALL, SMALL) == [(200, b"ok")] * 2
        assert (len(processed), len(server.whole), server.connections) == (2, 3, 2)

    def test_a_farewell_that_covers_ours_is_unknown(self, ask):
        def goes_away_with_it(line: H2Line):
            line.go_away(line.request())

        with serving(goes_away_with_it) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_unknown(told)
        assert (len(server.whole), server.connections) == (1, 1)

    def test_a_farewell_that_takes_back_what_it_was_answering_is_unknown(self, ask):
        def answers_and_goes_away(line: H2Line):
            first = line.request()
            line.answer(first)
            line.answer(line.request(), b"half", end=False)
            line.go_away(first)
            line.drain()

        with serving(answers_and_goes_away) as server:
            first, second = ask.over_http2(server.url, SMALL, SMALL)
        assert first == (200, b"ok")
        assert_unknown(second)
        assert (len(server.whole), server.connections) == (2, 1)

    @pytest.mark.parametrize("begun", [False, True])
    def test_frames_that_break_the_rules_are_unknown(self, ask, begun):
        def sends_data_on_stream_0(line: H2Line):
            stream = line.request()
            if begun:
                line.answer(stream, b"half", end=False)
            line.connection.sendall(bytes.fromhex("000001 00 00 00000000 78"))
            line.drain()

        with serving(sends_data_on_stream_0) as server:
            [told] = ask.over_http2(server.url, SMALL)
        assert_unknown(told)
        assert told.__cause__ is None
        assert len(server.whole) == 1

    def test_a_lost_connection_is_told_apart_as_over_http1(self, ask):
        def closes(line: H2Line):
            line.request()

        def takes_one_window(line: H2Line):
            line.head()

        with serving(closes, takes_one_window) as server:
            small, large = ask.over_http2(server.url, SMALL, server.closed, LARGE)
        assert_unknown(small)
        assert_not_charged(large, NOT_WHOLE)
        assert (len(server.whole), server.connections) == (1, 2)

    def test_a_body_for_which_there_is_no_window_is_not_charged(self, ask):
        def takes_one_window(line: H2Line):
            line.head()
            line.hold()

        with serving(takes_one_window) as server:
            [told] = ask.over_http2(server.url, LARGE, timeout_seconds=SOON)
        assert_not_charged(told, NOT_WHOLE)
        assert server.whole == []

    def test_a_refusal_that_comes_before_the_body_left_is_not_charged_although_httpcore_does_not_see_it(self, ask):
        def refuses_early(line: H2Line):
            stream = line.head()
            line.answer(stream, b"too large", 413)
            line.refuse(stream, h2.errors.ErrorCodes.NO_ERROR)
            line.drain()

        with serving(refuses_early) as server:
            [told] = ask.over_http2(server.url, LARGE, timeout_seconds=SOON)
        assert_not_charged(told, NOT_WHOLE)

    def test_a_connection_that_was_closed_with_a_farewell_swallows_nothing(self, ask):
        def says_farewell(line: H2Line):
            stream = line.request()
            line.answer(stream)
            line.go_away(stream)
            line.connection.shutdown(socket.SHUT_WR)
            line.here()
            line.drain()

        with serving(says_farewell, h2_answers) as server:
            assert ask.over_http2(server.url, SMALL, server.reached, SMALL) == [(200, b"ok")] * 2
        assert (len(server.whole), server.connections) == (2, 2)


# ── cancelled calls ──────────────────────────────────────────────────────────


async def cancelled(client, server, request):
    """A call that is cancelled once the server has come to the place in question."""
    call = asyncio.create_task(atold(request, client))
    await asyncio.to_thread(server.reached)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


class TestCancelled:
    @pytest.mark.parametrize("request_", [SMALL, LARGE])
    async def test_while_it_waits_or_sends(self, request_):
        def waits(line: Line):
            line.head()
            line.here()
            line.hold()

        with serving(waits, waits, answers) as server:
            async with AsyncN1nClient(KEY, server.url) as client:
                for _ in range(2):
                    await cancelled(client, server, request_)
                assert [await atold(SMALL, client) for _ in range(2)] == [(200, b"ok")] * 2
        assert (server.whole, server.connections) == ([SMALL.body] * 2, 3)

    async def test_while_the_reply_arrives(self):
        def stops(line: Line):
            closes_within_the_body(line)
            line.here()
            line.hold()

        with serving(stops, answers) as server:
            async with AsyncN1nClient(KEY, server.url) as client:
                await cancelled(client, server, SMALL)
                assert await atold(SMALL, client) == (200, b"ok")
        assert (len(server.whole), server.connections) == (2, 2)

    async def test_one_call_among_others(self):
        gone = threading.Event()

        def answers_once_the_other_is_gone(line: Line):
            line.request()
            line.here()
            gone.wait(60)
            line.answer()

        def waits(line: Line):
            line.request()
            line.here()
            line.hold()

        with serving(answers_once_the_other_is_gone, waits) as server:
            async with AsyncN1nClient(KEY, server.url) as client:
                other = asyncio.create_task(atold(SMALL, client))
                await asyncio.to_thread(server.reached)
                await cancelled(client, server, SMALL)
                gone.set()
                assert await other == (200, b"ok")
        assert (len(server.whole), server.connections) == (2, 2)

    async def test_over_http2_the_connection_stays(self):
        def waits(line: H2Line):
            line.request()
            line.here()
            h2_answers(line)

        with serving(waits) as server:
            transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
            async with AsyncN1nClient(KEY, server.url, transport=transport) as client:
                await cancelled(client, server, SMALL)
                assert await atold(SMALL, client) == (200, b"ok")
        assert (len(server.whole), server.connections) == (2, 1)
