"""Saved blocks by their names, and in a sentence why one cannot be had."""

from typing import cast

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.cli import api
from n1n_prefect.cli.failures import one_line
from n1n_prefect.errors import InvalidRequestError, N1nError
from n1n_prefect.saved import Ours

_SAVES = {
    N1nCredentials: "`N1N_API_KEY=… n1n-prefect setup --credentials NAME`",
    S3Location: "`N1N_S3_BUCKET=… n1n-prefect setup --location NAME`",
}


def loaded(block: type[Ours], name: str) -> Ours:
    """The saved block of a name.

    Raises:
        InvalidRequestError: There is none, it cannot be loaded, or no Prefect server answers.
    """
    try:
        return cast("Ours", block.load(name))
    except N1nError:
        raise
    except Exception as exc:
        api.check()
        raise InvalidRequestError(
            f"The {block._block_type_name} block {name!r} could not be loaded: {one_line(exc)} {_SAVES[block]} saves "
            "one."
        ) from exc
