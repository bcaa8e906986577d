"""A gateway like n1n's on this machine: it draws real images, keeps a bill, and fails on demand."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType

from n1n_prefect import catalog
from n1n_prefect.testing.connection import Server
from n1n_prefect.testing.drawing import Drawing
from n1n_prefect.testing.faults import Faults
from n1n_prefect.testing.ledger import Call, Ledger

DEFAULT_API_KEY = "sk-local-gateway"
ALL_MODELS = (*(model.id for model in catalog.MODELS), *catalog.ALIASES)
_HOSTED_IMAGES = 64


class LocalGateway:
    """A gateway on 127.0.0.1 that answers as n1n does, for tests, demonstrations and benchmarks.

    It starts with `start()` or as a context manager and is safe to use from any thread.
    It checks requests as strictly as the real one, so a flow that works here asks right.

    Example:
        ```python
        from n1n_prefect.testing import LocalGateway

        with LocalGateway(faults=["rate_limited", "ok"]) as gateway:
            ...  # point the flow at gateway.base_url with gateway.api_key
            print(gateway.ledger.summary())
        ```

    Args:
        port: Where to listen; 0 takes a free port.
        api_keys: The keys that are accepted.
        models: The models there are; an id that the catalogue does not know takes every ratio and size.
        latency_seconds: How long an image takes.
        faults: Steps as for `Faults.plan`, such as `"rate_limited:2"`.
        vary: Whether the call's number is written into each picture, so that no two answers are equal,
            as the real model's are not. Without it equal requests get equal bytes.
        canned: Whether to draw one picture a size and serve it for every prompt: a twentieth of the CPU.
        grain: Whether pictures have a photograph's noise and so its file size.
        signature_chars: Length of each thought signature, in characters; real ones have 1 to 3 million.
        hash_images: Whether the ledger has the SHA-256 of each image: 4 ms of CPU for one of 1024².
        granted_usd: What the key may spend, as the pages about money say it; None for a key without a limit. It
            bounds nothing: the faults about quota do.
        on_call: Called with each finished call, from the thread that served it.

    Attributes:
        ledger: What was billed.
        faults: What goes wrong next.
        latency_seconds: May be set while it runs, as may `vary`, `models` and `api_keys`; `reset` restores them.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        api_keys: Iterable[str] = (DEFAULT_API_KEY,),
        models: Iterable[str] = ALL_MODELS,
        latency_seconds: float = 0.0,
        faults: Iterable[str] = (),
        vary: bool = True,
        canned: bool = False,
        grain: bool = True,
        signature_chars: int = 20_000,
        hash_images: bool = False,
        granted_usd: float | None = None,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        self.drawing = Drawing(grain=grain, canned=canned)
        self.hash_images = hash_images
        self.granted_usd = granted_usd
        self._port = port
        self._on_call = on_call
        self._hosted: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._first = _several(api_keys), _several(models), _several(faults), latency_seconds, vary, signature_chars
        self.reset()

    @property
    def base_url(self) -> str:
        """The address to use as the credentials' `base_url`.

        Raises:
            RuntimeError: The gateway is not running.
        """
        if self._server is None:
            raise RuntimeError("The local gateway is not running: call start(), or use it in a with statement.")
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def api_key(self) -> str:
        """The first of the accepted keys."""
        return self.api_keys[0]

    def start(self) -> "LocalGateway":
        """Listens and serves in threads of its own; starting twice changes nothing.

        Raises:
            OSError: The port is taken.
        """
        if self._server is None:
            self._closing.clear()
            self._server = Server(self._port, self)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="n1n-local-gateway", daemon=True
            )
            self._thread.start()
        return self

    def close(self) -> None:
        """Ends every connection, calls in flight included; the ledger stays readable."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._closing.set()
        server.shutdown()
        thread.join()
        server.end_connections()
        server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> "LocalGateway":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def reset(self) -> None:
        """Goes back to how it was made: options, faults and an empty ledger; calls in flight count on the old one."""
        self.api_keys, self.models, plan, self.latency_seconds, self.vary, self.signature_chars = self._first
        self.ledger = Ledger()
        self.faults = Faults()
        self.faults.plan(plan)

    def work(self, billed: bool = True) -> None:
        """Takes the time that an image takes; a call that is not billed is turned away at once."""
        if billed:
            self.pause(self.latency_seconds)

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            ConnectionAbortedError: The gateway was closed meanwhile, and the call ends without an answer.
        """
        if self._closing.wait(seconds):
            raise ConnectionAbortedError("the local gateway was closed")

    def report(self, call: Call) -> None:
        """Tells `on_call` about a finished call."""
        if self._on_call:
            self._on_call(call)

    def host(self, data: bytes, media_type: str) -> str:
        """The address from which the gateway serves an image's bytes; the last 64 are kept."""
        name = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._hosted[name] = data, media_type
            while len(self._hosted) > _HOSTED_IMAGES:
                self._hosted.popitem(last=False)
        return f"{self.base_url}/images/{name}.{'png' if media_type == 'image/png' else 'jpg'}"

    def hosted(self, name: str) -> tuple[bytes, str] | None:
        """Bytes and media type of a hosted image, or None if it is not kept."""
        with self._lock:
            return self._hosted.get(name)


def _several(values: Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
