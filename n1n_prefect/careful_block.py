"""What both of our blocks are: careful about their fields, their secrets, and being mapped over."""

import difflib
from abc import ABC
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, ClassVar, NoReturn

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from n1n_prefect.addresses import shown
from n1n_prefect.errors import InvalidRequestError


class CarefulBlock(Block, ABC):
    """A block that refuses misspelt fields and masked secrets, keeps secrets out of errors, and is never mapped over.

    A field that is assigned later is checked as at the start; a refused value changes nothing.

    Raises:
        InvalidRequestError: A field is unknown or its value unusable; the message names it and the remedy.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        hide_input_in_errors=True,
        # In a form, beside titles that are written by hand; pydantic's own has Every Word Like This.
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
    )

    def __init__(self, **fields: Any) -> None:
        initialize = super().__init__
        _refusing(type(self), fields, lambda: initialize(**fields))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):  # Prefect's own, such as _block_document_id
            # Tried on a copy, since rules about several fields are asked after the change.
            trial = self.model_copy()
            check = self.__pydantic_validator__.validate_assignment
            _refusing(type(self), {name: value}, lambda: check(trial, name, value))
            value = getattr(trial, name)
        super().__setattr__(name, value)

    @field_validator("*")
    @classmethod
    def _not_masked(cls, value: Any) -> Any:
        secret = value.get_secret_value() if isinstance(value, SecretStr) else ""
        if secret and not secret.strip("*"):
            raise ValueError(
                "it is only asterisks, which is how Prefect shows a secret: a block passed by value was masked on its "
                "way. Pass it by reference, "
                f"{{'$ref': {{'block_document_slug': '{cls._block_type_slug}/NAME'}}}}, or load it by name in the flow"
            )
        return value

    def __iter__(self) -> NoReturn:
        # Prefect's .map would take the block for a list of its fields.
        raise InvalidRequestError(
            f"{type(self).__name__} is one value, not a list; in .map wrap it in unmapped(…), for instance "
            "credentials=unmapped(credentials) or destination=unmapped(destination)."
        )

    # What dict(block) uses in place of iteration; Prefect walks over parameters with it.

    def keys(self) -> Iterable[str]:
        """The names of the fields."""
        return dict(_items(self)).keys()

    def __getitem__(self, name: str) -> Any:
        return dict(_items(self))[name]


def _items(block: BaseModel) -> Generator[tuple[str, Any], None, None]:
    return BaseModel.__iter__(block)


def _refusing(block: type[Block], fields: Mapping[str, Any], take: Callable[[], object]) -> None:
    """Lets the block take the fields, or says what is wrong with them."""
    wrong = _unknown_fields(block, fields)
    try:
        if not wrong:
            take()
    except ValidationError as exc:
        wrong = "; ".join(_said(error, block) for error in exc.errors(include_url=False))
    # Raised out here, without pydantic's error behind it: that one holds the input, and so the key.
    if wrong:
        raise InvalidRequestError(f"{block.__name__}: {wrong}")


def _unknown_fields(block: type[Block], fields: Mapping[str, Any]) -> str:
    """What is wrong with the names of the fields, with the nearest right one; empty if nothing is."""
    known = [*block.model_fields]
    ours = {"block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous"}
    for name in sorted(fields.keys() - {*known} - ours):
        near = difflib.get_close_matches(name, known, 1)
        return f"no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}.")
    return ""


def _said(error: Any, block: type[Block]) -> str:
    where = ".".join(map(str, error["loc"]))
    what = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}{_got(error, block)}" if where else what


def _got(error: Any, block: type[Block]) -> str:
    """The offending value, unless it is secret, absent, or our own message is the judge of what it shows."""
    field = block.model_fields.get(str(error["loc"][0]))
    is_secret = field is None or "Secret" in str(field.annotation)
    if is_secret or error["type"] in ("missing", "value_error"):
        return ""
    return f", got {shown(error['input'])}"
