"""What a deployment sets once: spending, where inputs may come from, and staging rules."""

import difflib
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import NoDecode

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import Spending
from n1n_prefect.sources import SourceRules


def _paths(value: object) -> object:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


BLOCK_PREFIX = "redis-database/"


def _store(value: SecretStr | None) -> SecretStr | None:
    """Where spending is counted; nothing for an empty text. What is wrong with it is said without repeating it."""
    text = value.get_secret_value().strip() if value else ""
    if not text:
        return None
    if not text.startswith(("redis://", "rediss://", BLOCK_PREFIX)) or text == BLOCK_PREFIX:
        raise ValueError(f"write redis://HOST:PORT/0, rediss://… or {BLOCK_PREFIX}NAME with the name of a block")
    return SecretStr(text)


class N1nSettings(PrefectBaseSettings):
    """Settings read from `PREFECT_INTEGRATIONS_N1N_…`, a Prefect profile, `prefect.toml` or `pyproject.toml`."""

    model_config = build_settings_config(("integrations", "n1n"))

    on_unknown_outcome: Literal["retry", "fail"] = Field(
        default="retry", description="What to do when a call was sent and its answer was lost: `retry` or `fail`."
    )
    unknown_retries: int = Field(
        default=1, ge=0, description="How often such a call is made again; each time may pay twice."
    )
    no_image_retries: int = Field(
        default=1, ge=0, description="How often a call is made again after an answer without an image."
    )
    max_wait_seconds: float = Field(
        default=600, ge=0, description="The longest wait in seconds that the gateway may ask for."
    )
    max_usd_per_run: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="A ceiling in US dollars for one flow run."
    )
    max_usd_per_day: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="A ceiling in US dollars for one account and day in UTC, on all workers together; "
        "it is counted in the budget store.",
    )
    budget_store: Annotated[SecretStr | None, AfterValidator(_store)] = Field(
        default=None,
        description="The Redis in which a day's spending is counted: a `redis://` or `rediss://` URL, or "
        "`redis-database/` and the name of a prefect-redis block.",
    )
    input_roots: Annotated[list[Path], NoDecode, BeforeValidator(_paths)] = Field(
        default=[],
        description="Folders below which local input images may be read, separated as in PATH; "
        "empty means the working directory.",
    )
    on_unshared_storage: Literal["warn", "fail", "allow"] = Field(
        default="warn",
        description="What to do when results are kept on the local disk and the run's work pool shares none: `warn`, "
        "`fail`, or `allow` where that folder is a shared one.",
    )
    emit_events: bool = Field(default=True, description="Whether an event is emitted for each image and step.")
    emit_assets: bool = Field(
        default=True, description="Whether Prefect is told of each object in S3 as an asset, with what it was made of."
    )

    @property
    def spending(self) -> Spending:
        """What tasks use where they are given no `spending`."""
        return Spending(
            on_unknown_outcome=self.on_unknown_outcome,
            unknown_retries=self.unknown_retries,
            no_image_retries=self.no_image_retries,
            max_wait_seconds=self.max_wait_seconds,
            max_usd_per_run=self.max_usd_per_run,
            max_usd_per_day=self.max_usd_per_day,
        )

    @property
    def source_rules(self) -> SourceRules:
        """Where input images may be read from."""
        return SourceRules(roots=tuple(self.input_roots)) if self.input_roots else SourceRules()


def settings() -> N1nSettings:
    """The settings in force; read again only when the environment changes, since reading costs milliseconds."""
    prefix = "PREFECT_"
    return _read(tuple(sorted(item for item in os.environ.items() if item[0].startswith(prefix))))


def _refuse_misspelt(environment: tuple[tuple[str, str], ...]) -> None:
    """A ceiling whose name is wrong would be no ceiling."""
    known = {f"{_PREFIX}{name.upper()}" for name in N1nSettings.model_fields}
    for name, _ in environment:
        if name.startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            raise InvalidRequestError(
                f"There is no setting {name}; "
                + (f"did you mean {near[0]}?" if near else f"there are {sorted(known)}.")
            )


_PREFIX = "PREFECT_INTEGRATIONS_N1N_"


@lru_cache(maxsize=4)
def _read(_environment: tuple[tuple[str, str], ...]) -> N1nSettings:
    _refuse_misspelt(_environment)
    try:
        return N1nSettings()
    except ValidationError as exc:
        wrong = "; ".join(_said(error) for error in exc.errors(include_url=False))
    # Raised out here, without pydantic's error behind it: that one holds the input, and so perhaps a password.
    raise InvalidRequestError(f"A setting cannot be used: {wrong}.")


def _said(error: Any) -> str:
    name = str(error["loc"][0])
    field = N1nSettings.model_fields.get(name)
    value = "…" if field is None or "Secret" in str(field.annotation) else f"{error['input']!r:.80}"
    return f"PREFECT_INTEGRATIONS_N1N_{name.upper()}={value}: {str(error['msg']).removeprefix('Value error, ')}"
