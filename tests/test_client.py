"""The clients: one request, one answer, and every way a connection fails."""

import inspect
import json
import pickle
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from n1n_prefect import errors
from n1n_prefect.client import AsyncN1nClient, N1nClient
from n1n_prefect.sending import Sending, translated
from n1n_prefect.wire.billing import Balance
from n1n_prefect.wire.exchange import HttpRequest

SAMPLES = Path(__file__).parent / "samples" / "gemini"
KEY = "secret-key-without-a-prefix"
POST = HttpRequest("POST", "/v1beta/models/m:generateContent", {"content-type": "application/json"}, b"{}")


def answering(handler):
    return httpx.MockTransport(handler)


def client(handler, **options):
    return N1nClient(KEY, transport=answering(handler), **options)


def aclient(handler, **options):
    return AsyncN1nClient(KEY, transport=answering(handler), **options)


def recorded(name, status=200):
    return lambda request: httpx.Response(status, content=(SAMPLES / name).read_bytes())


def raising(exc):
    def handler(request):
        raise exc("told by the network", request=request)

    return handler


class TestSend:
    def test_the_key_travels_in_the_authorization_header_alone(self):
        seen = []
        client(lambda request: seen.append(request) or httpx.Response(200)).send(POST, BytesIO())
        assert seen[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in str(seen[0].url)
        assert seen[0].headers["user-agent"].startswith("n1n-prefect/")

    @pytest.mark.parametrize(
        "base_url",
        ["https://api.n1n.ai", "https://api.n1n.ai/", "https://api.n1n.ai/v1", "https://api.n1n.ai/v1beta/"],
    )
    def test_the_address_may_be_pasted_with_its_version(self, base_url):
        seen = []
        client(lambda request: seen.append(request) or httpx.Response(200), base_url=base_url).send(POST, BytesIO())
        assert str(seen[0].url) == "https://api.n1n.ai/v1beta/models/m:generateContent"

    def test_the_body_goes_into_the_sink_and_the_head_comes_back(self):
        sink = BytesIO()
        head = client(lambda request: httpx.Response(503, content=b"busy", headers={"X-Thing": "1"})).send(POST, sink)
        assert (head.status, head.headers["x-thing"], sink.getvalue()) == (503, "1", b"busy")

    async def test_the_async_client_does_the_same(self):
        sink = BytesIO()
        async with aclient(lambda request: httpx.Response(200, content=b"x" * 100_000)) as asking:
            head = await asking.send(POST, sink)
        assert (head.status, len(sink.getvalue())) == (200, 100_000)

    def test_nothing_is_sent_twice(self):
        calls = []

        def handler(request):
            calls.append(request)
            raise httpx.ReadError("reset", request=request)

        with pytest.raises(errors.OutcomeUnknownError):
            client(handler).send(POST, BytesIO())
        assert len(calls) == 1

    def test_a_reply_that_drips_past_the_deadline_is_given_up(self, monkeypatch):
        now = iter([0.0, 1.0, 500.0])
        monkeypatch.setattr("n1n_prefect.client.time.monotonic", lambda: next(now))
        slow = client(lambda request: httpx.Response(200, stream=_Chunks([b"a", b"b", b"c"])))
        with pytest.raises(errors.OutcomeUnknownError, match="120 s"):
            slow.send(POST, BytesIO())


class _Chunks(httpx.SyncByteStream):
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        return iter(self.chunks)


class TestFailures:
    NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

    @pytest.mark.parametrize("exc", NOT_SENT)
    def test_what_never_left_was_not_charged(self, exc):
        with pytest.raises(errors.GatewayError, match="nothing was sent") as caught:
            client(raising(exc)).send(POST, BytesIO())
        assert (caught.value.charged, caught.value.is_transient) == ("no", True)

    @pytest.mark.parametrize(
        "exc", [httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError, httpx.WriteTimeout]
    )
    def test_what_left_and_was_lost_is_unknown(self, exc):
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            client(raising(exc)).send(POST, BytesIO())
        assert caught.value.charged == "unknown"

    def test_no_transport_failure_was_forgotten(self):
        kinds = [kind for _, kind in inspect.getmembers(httpx, inspect.isclass) if issubclass(kind, httpx.HTTPError)]
        instantiable = [kind for kind in kinds if kind not in (httpx.HTTPStatusError, httpx.HTTPError)]
        assert len(instantiable) > 15
        for kind in instantiable:
            with pytest.raises(errors.N1nError), translated(Sending(POST, 300)):
                raise kind("told by the network")

    def test_no_live_request_hangs_on_the_error(self):
        with pytest.raises(errors.GatewayError) as caught:
            client(raising(httpx.ConnectError)).send(POST, BytesIO())
        with pytest.raises(RuntimeError):
            _ = caught.value.__cause__.request
        assert KEY.encode() not in pickle.dumps(caught.value)

    def test_a_port_where_nobody_listens(self):
        with pytest.raises(errors.GatewayError, match="not reached"), N1nClient(KEY, "http://127.0.0.1:9") as asking:
            asking.generate("a fox")

    @pytest.mark.parametrize("proxy", ["ftp://me:hush@proxy", "http://me:hush@proxy:port", "socks9://me:hush@proxy"])
    def test_a_proxy_that_is_none_is_named_without_its_password(self, proxy, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(errors.InvalidRequestError, match="HTTPS_PROXY") as caught:
            N1nClient(KEY)
        assert "hush" not in str(caught.value)

    def test_the_key_is_in_no_repr(self):
        assert KEY not in repr(client(recorded("stream.sse")))


class TestClosed:
    def test_it_is_named(self):
        asking = client(recorded("stream.sse"))
        asking.close()
        asking.close()
        for call in (asking.models, lambda: asking.generate("a fox")):
            with pytest.raises(errors.InvalidRequestError, match=r"N1nClient\(.* is closed; make a new one"):
                call()

    async def test_and_in_async_code(self):
        async with aclient(recorded("stream.sse")) as asking:
            pass
        with pytest.raises(errors.InvalidRequestError, match=r"AsyncN1nClient\(.* is closed; make a new one"):
            await asking.generate("a fox")


class TestGenerate:
    def test_three_lines_give_an_image(self):
        with client(recorded("pro-thinking.json")) as asking:
            reply = asking.generate("A red fox", aspect_ratio="16:9", model="gemini-3-pro-image")
        assert reply.data.startswith(b"\x89PNG")

    async def test_and_in_async_code(self):
        async with aclient(recorded("stream.sse")) as asking:
            assert (await asking.generate("A red fox", stream=True)).data.startswith(b"\x89PNG")

    def test_what_cannot_work_is_not_sent(self):
        def never(request):
            raise AssertionError("sent")

        with pytest.raises(errors.InvalidRequestError):
            client(never).generate("A red fox", aspect_ratio="3:1")

    @pytest.mark.parametrize("echo", [f"key {KEY} is bad", f"Bearer {KEY}"])
    def test_a_key_that_the_gateway_echoes_is_masked(self, echo):
        body = json.dumps({"error": {"message": echo, "code": ""}}).encode()
        with pytest.raises(errors.AuthenticationError) as caught:
            client(lambda request: httpx.Response(401, content=body)).generate("A red fox")
        assert KEY not in str(caught.value)
        assert KEY not in repr(caught.value.args)


GEMINI = {"models": [{"name": "models/b-image"}, {"name": "models/a-image"}]}
OPENAI = {"object": "list", "data": [{"id": "z"}, {"id": "y"}]}


class TestModels:
    def test_geminis_list_comes_first(self):
        asked = []
        asking = client(lambda request: asked.append(request.url.path) or httpx.Response(200, json=GEMINI))
        assert asking.models() == ["a-image", "b-image"]
        assert asked == ["/v1beta/models"]

    @pytest.mark.parametrize("status", [404, 200])
    async def test_openais_list_where_there_is_no_other(self, status):
        def handler(request):
            if "v1beta" in request.url.path:
                return httpx.Response(status, content=b"<html>")
            return httpx.Response(200, json=OPENAI)

        assert client(handler).models() == ["y", "z"]
        async with aclient(handler) as asking:
            assert await asking.models() == ["y", "z"]

    def test_a_wrong_key_is_said_at_once(self):
        with pytest.raises(errors.AuthenticationError):
            client(lambda request: httpx.Response(401)).models()

    def test_nonsense_in_both_places(self):
        with pytest.raises(errors.MalformedReplyError):
            client(lambda request: httpx.Response(200, content=b"[1]")).models()

    @pytest.mark.parametrize("body", [b"<html><title>Not found</title>", b"", b'{"error": {"message": "no"}}'])
    async def test_no_list_anywhere_is_no_gateway(self, body):
        def handler(request):
            return httpx.Response(404, content=body, headers={"content-type": "text/html"})

        with pytest.raises(errors.InvalidRequestError, match=r"no gateway's\. Check `base_url`") as caught:
            client(handler).models()
        assert (caught.value.status_code, caught.value.charged) == (404, "no")
        async with aclient(handler) as asking:
            with pytest.raises(errors.InvalidRequestError, match=r"no gateway's\. Check `base_url`"):
                await asking.models()


class TestBalance:
    def test_is_asked_for_with_the_key_alone(self, n1n_gateway_factory):
        gateway = n1n_gateway_factory(granted_usd=5.0)
        with N1nClient(gateway.api_key, gateway.base_url) as asking:
            assert asking.balance() == Balance(0.0, 5.0)

    async def test_the_same_without_waiting(self, n1n_gateway_factory):
        gateway = n1n_gateway_factory()
        async with AsyncN1nClient(gateway.api_key, gateway.base_url) as asking:
            assert await asking.balance() == Balance(0.0, None)

    @pytest.mark.parametrize("status", [403, 404])
    async def test_a_gateway_that_does_not_tell(self, status):
        def handler(request):
            return httpx.Response(status, json={"error": {"message": "no"}})

        assert client(handler).balance() is None
        assert await aclient(handler).balance() is None

    async def test_a_wrong_key(self):
        def handler(request):
            return httpx.Response(401, json={"error": {"message": f"Invalid token {KEY}"}})

        with pytest.raises(errors.AuthenticationError) as caught:
            client(handler).balance()
        assert KEY not in str(caught.value)
        with pytest.raises(errors.AuthenticationError):
            await aclient(handler).balance()
