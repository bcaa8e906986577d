"""The Prefect API that a command talks to: reached within seconds, or said to be out of reach."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httpx

from n1n_prefect.errors import InvalidRequestError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PATIENCE_SECONDS = 5.0
_SET_IT = "`prefect config set PREFECT_API_URL=http://HOST:4200/api`"


@contextmanager
def reached() -> "Generator[SyncPrefectClient]":
    """A client of the Prefect API that `PREFECT_API_URL` names, which has answered.

    Raises:
        InvalidRequestError: No address is set, nothing answers there, or not as a Prefect API does.
    """
    from prefect.client.orchestration import get_client

    server_version()
    with get_client(sync_client=True) as client:
        yield client


def check() -> None:
    """Refuses an address where no Prefect API answers; where none is set, Prefect starts a server itself.

    Raises:
        InvalidRequestError: It is refused.
    """
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        server_version()


def address() -> str:
    """The API's address without a password.

    Raises:
        InvalidRequestError: None is set; Prefect would start a server for the length of one command.
    """
    from prefect.settings import get_current_settings

    url = str(get_current_settings().api.url or "")
    if not url:
        raise InvalidRequestError(
            "PREFECT_API_URL is not set, so there is no server that workers and automations share. Start one with "
            f"`prefect server start` and say where it is: {_SET_IT}."
        )
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def server_version() -> str:
    """The version of Prefect that the server runs; empty for Prefect Cloud, which is always compatible.

    Raises:
        InvalidRequestError: No address is set, no Prefect API answers there within five seconds, or it wants another
            login.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    address()  # without one, Prefect would start a server
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        client = get_client(sync_client=True, httpx_settings={"timeout": PATIENCE_SECONDS})
        with client, _explained():
            if client.server_type.name == "CLOUD":
                client.read_flows(limit=1)
                return ""
            version = cast(object, client.api_version())  # of whoever answers
    if not isinstance(version, str) or not version[:1].isdecimal():
        raise _no_prefect_api("it says no version")
    return version


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except httpx.TimeoutException:
        raise InvalidRequestError(
            f"{address()} does not answer within {PATIENCE_SECONDS:g} s. Check that the Prefect server there is well, "
            f"that no firewall is between, and the address: {_SET_IT}."
        ) from None
    except httpx.HTTPStatusError as exc:
        raise _refused(exc.response.status_code) from None
    except httpx.RequestError as exc:
        raise InvalidRequestError(
            f"No Prefect server answers at {address()} ({exc or type(exc).__name__}). Start it with `prefect server "
            f"start`, or say where yours is: {_SET_IT}."
        ) from None
    except (ValueError, TypeError, AttributeError):  # an answer that is no JSON, or not this one
        raise _no_prefect_api("its answer is another program's") from None


def _refused(status: int) -> InvalidRequestError:
    if status in (401, 403):
        return InvalidRequestError(
            f"{address()} wants another login (HTTP {status}). Set PREFECT_API_AUTH_STRING as the server has it, or "
            "PREFECT_API_KEY for Prefect Cloud."
        )
    return _no_prefect_api(f"HTTP {status}")


def _no_prefect_api(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"What answers at {address()} is no Prefect API ({why}). If another program has the port, start the server on "
        "one that is free, `prefect server start --port 4201`, and set PREFECT_API_URL to it; the path is /api."
    )
