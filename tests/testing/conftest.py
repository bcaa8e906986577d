"""Gateways that serve prepared pictures: cheap enough for a call per case."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from n1n_prefect.testing import LocalGateway
from tests.testing.asking import Ask, asking, body


@pytest.fixture(scope="module")
def prepared_gateway() -> Iterator[LocalGateway]:
    """A gateway that serves prepared pictures: cheap enough for a call per case."""
    with LocalGateway(canned=True, grain=False) as gateway:
        yield gateway


@pytest.fixture
def gateway(prepared_gateway: LocalGateway) -> LocalGateway:
    prepared_gateway.reset()
    return prepared_gateway


@pytest.fixture
def ask(gateway: LocalGateway) -> Iterator[Ask]:
    """Posts a body to a model and gives the response."""
    with asking(gateway) as client:

        def ask(
            asked: Any = None, model: str = "gemini-2.5-flash-image", action: str = "generateContent", **more: Any
        ) -> httpx.Response:
            given = more if "content" in more else {"json": body() if asked is None else asked, **more}
            return client.post(f"/v1beta/models/{model}:{action}", **given)

        yield ask
