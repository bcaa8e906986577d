"""What an object is called and said to be: its key, its file extension and its user metadata."""

import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from n1n_prefect.errors import InvalidRequestError

DEFAULT_KEY_TEMPLATE = "{prefix}/{sha256}.{extension}"
KEY_NAMES = ("prefix", "sha256", "extension", "name", "date", "model", "request_key")
MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048

_EXTENSIONS = {"image/jpeg": "jpg", "image/svg+xml": "svg", "image/tiff": "tif"}


def fill_key(
    template: str,
    *,
    prefix: str,
    sha256: str,
    extension: str,
    name: str | None,
    date: str,
    model: str,
    request_key: str,
) -> str:
    """The object key that a template makes for one image.

    Empty segments collapse, and there is no leading slash. Slashes in `name` make sub-folders.

    Args:
        template: Text with the names of `KEY_NAMES` in single braces.
        prefix: What comes before every key of a location; may be empty.
        sha256: SHA-256 of the bytes, lower-case hex.
        extension: File extension without the dot.
        name: The caller's own name for the image, such as a SKU; required by `{name}`, refused without it.
        date: Day of the upload in UTC, `YYYY-MM-DD`.
        model: The model that was asked.
        request_key: The paid request's identity.

    Raises:
        InvalidRequestError: The template or the key it makes is not usable.
    """
    names = _names_in(template)
    if name is None and "name" in names:
        raise InvalidRequestError(f"key_template={template!r} has {{name}} and no name was given; pass name=.")
    if name is not None and "name" not in names:
        raise InvalidRequestError(
            f"name={name!r} has no place in key_template={template!r}; put {{name}} into the template, "
            "such as '{prefix}/{name}.{extension}'."
        )
    if name is not None and not name.strip(" /"):
        raise InvalidRequestError(f"name={name!r} is empty; give every image a name of its own.")
    filled = template.format(
        prefix=prefix, sha256=sha256, extension=extension, name=name, date=date, model=model, request_key=request_key
    )
    return check_key("/".join(part for part in filled.split("/") if part))


def _names_in(template: str) -> set[str]:
    known = ", ".join(f"{{{name}}}" for name in KEY_NAMES)
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise InvalidRequestError(f"key_template={template!r} is broken ({exc}); its names are {known}.") from exc
    for name, spec, how in fields:
        written = "{" + name + (f"!{how}" if how else "") + (f":{spec}" if spec else "") + "}"
        if written[1:-1] not in KEY_NAMES:
            raise InvalidRequestError(f"key_template={template!r} has {written}; its names are {known}, as they stand.")
    names = {name for name, _, _ in fields}
    if not names & {"sha256", "name", "request_key"}:
        raise InvalidRequestError(
            f"key_template={template!r} gives every image the same key; add {{sha256}}, {{name}} or {{request_key}}."
        )
    return names


def check_key(key: str) -> str:
    """The key itself, if it is one that every store and file system below it takes.

    Raises:
        InvalidRequestError: It is empty or a whole address, starts or ends with a slash, climbs with `..`,
            has control characters or lone surrogates, or is longer than 1,024 bytes of UTF-8.
    """
    if key.lower().startswith("s3://"):
        raise InvalidRequestError(f"key={key!r} is an address; give the part after s3:// and the bucket's name alone.")
    if not key or key.startswith("/") or key.endswith("/"):
        raise InvalidRequestError(f"key={key!r} must name an object, with no slash at its start or end.")
    if {".", ".."} & set(re.split(r"[/\\]", key)):
        raise InvalidRequestError(f"key={key!r} has a '.' or '..' between its slashes; name the folder itself.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        raise InvalidRequestError(f"key={key!r} has control characters or half a surrogate pair; take them out.")
    length = len(key.encode())
    if length > MAX_KEY_BYTES:
        raise InvalidRequestError(f"key={key[:60]!r}… is {length:,} bytes; S3 takes {MAX_KEY_BYTES:,}, so shorten it.")
    return key


def extension_of(media_type: str) -> str:
    """The usual file extension of a media type in a key, without the dot; `bin` where there is none.

    Unlike `inspection.extension_of`, which names staged files, it says `tif` for TIFF, and gives
    the subtype of a type that we do not know.
    """
    subtype = re.sub(r"[^a-z0-9]", "", media_type.lower().partition("/")[2])
    return _EXTENSIONS.get(media_type.lower(), subtype or "bin")


_METADATA_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_PLAIN = "".join(character for character in map(chr, range(0x20, 0x7F)) if character != "%")
_METADATA_HEADER = len("x-amz-meta-")


def own_metadata(metadata: object) -> dict[str, Any]:
    """The user's metadata, once it is known to be usable beside ours.

    Raises:
        InvalidRequestError: It is no mapping, or a key is no text, is one of ours, or cannot be sent.
    """
    if not isinstance(metadata, (Mapping, type(None))):
        raise InvalidRequestError(f"metadata must be a mapping of texts, not {type(metadata).__name__}.")
    own: dict[Any, Any] = dict(metadata or {})
    for key in own:
        if not isinstance(key, str):
            raise InvalidRequestError(f"metadata key {key!r:.80} must be a text.")
        if key.lower() == "sha256" or key.lower().startswith("n1n-"):
            raise InvalidRequestError(f"metadata key {key!r} is one of ours; choose another.")
    encode_metadata(own, "0" * 64)
    return own


def encode_metadata(metadata: Mapping[str, Any], sha256: str) -> dict[str, str]:
    """User metadata as S3 takes it: ASCII, at most 2 KB, and always with `sha256`.

    Keys become lower case. In values white space is single spaces, and whatever is not printable
    ASCII, and `%` itself, is percent-encoded UTF-8 (`urllib.parse.unquote` reads it). Where it is
    too much, the longest values are cut.

    Raises:
        InvalidRequestError: A key has other characters than a header takes, is given twice in
            another case, or there are so many keys that no room is left for values.
    """
    encoded = {_metadata_key(key): _percent_encoded(str(value)) for key, value in metadata.items()}
    if len(encoded) < len(metadata):
        raise InvalidRequestError(f"metadata keys {list(metadata)!r} differ only in case; S3 keeps one of them.")
    encoded["sha256"] = sha256
    fitted = _fitted(encoded)
    if fitted["sha256"] != sha256:
        raise InvalidRequestError(f"metadata has {len(metadata)} keys, too many for S3's 2 KB; give fewer.")
    return fitted


def _metadata_key(key: str) -> str:
    if not _METADATA_KEY.fullmatch(key.lower()):
        raise InvalidRequestError(f"metadata key {key!r} is not usable; write it in a-z, 0-9, '-', '_' and '.'.")
    return key.lower()


def _percent_encoded(value: str) -> str:
    return quote(" ".join(value.split()), safe=_PLAIN, errors="replace")


def _fitted(encoded: dict[str, str]) -> dict[str, str]:
    """The metadata in 2 KB: short values whole, long ones cut to equal shares of what is left."""
    fitted = dict(encoded)
    room = MAX_METADATA_BYTES - sum(len(key) + _METADATA_HEADER for key in encoded)
    for done, key in enumerate(sorted(encoded, key=lambda key: len(encoded[key]))):
        fitted[key] = _cut(encoded[key], max(0, room // (len(encoded) - done)))
        room -= len(fitted[key])
    return fitted


def _cut(value: str, length: int) -> str:
    if len(value) <= length:
        return value
    whole = re.sub(r"%[0-9A-F]?$", "", value[:length])
    return _percent_encoded(unquote(whole, errors="ignore"))
