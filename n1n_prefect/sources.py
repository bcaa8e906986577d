"""What the bytes of an input image are, and whether we may read them; a request read and hashed.

Paths and addresses may come from a deployment's parameters, so they are taken for hostile:
local files are read below the configured roots alone, addresses are read by `https`, and
what was read must be a whole image of a type that the models take. No message holds a query
string, a credential or a piece of a file.
"""

import base64
import binascii
import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from pydantic.dataclasses import dataclass

from n1n_prefect import catalog, inspection
from n1n_prefect.errors import InvalidRequestError, SourceError
from n1n_prefect.https import Limits, fetch_https, shown
from n1n_prefect.identity import request_key
from n1n_prefect.images import GeneratedImage, ImageOutcome, ImageRequest, ImageSource, UploadedImage, excerpt
from n1n_prefect.masking import without_secrets

ROOTS_SETTING = "PREFECT_INTEGRATIONS_N1N_INPUT_ROOTS"

ReadS3 = Callable[[str, str, int], bytes]
"""Takes a bucket, a key and the most bytes to read, and gives the object's bytes."""

Fetch = Callable[[str, "SourceRules"], bytes]
"""Takes an https address and the rules, and gives the bytes behind it."""


@dataclass(frozen=True)
class SourceRules(Limits):
    """What may be read as an input image, and how much of it.

    The limit on bytes holds for one image and for all images of a request together.
    """

    roots: tuple[Path, ...] = ()
    """Directories below which local files may be read; the working directory if empty."""


@dataclass(frozen=True)
class LoadedImage:
    """An input image as read: a whole image of a type that the models take."""

    data: bytes = dataclasses.field(repr=False)
    """The file's bytes, unchanged."""

    sha256: str
    """SHA-256 of the bytes, lower-case hex."""

    media_type: str
    """IANA media type found in the bytes; a declared type or a file's name is never believed."""

    label: str
    """What people call it: a file's name, a host and path, or `image 2`."""

    address: str = dataclasses.field(default="", compare=False)
    """Where it came from, if others can find it there: `s3://…`, or `https://…` without its query; else its hash."""


@dataclass(frozen=True)
class LoadedRequest:
    """A request whose input images have been read."""

    request: ImageRequest
    """What was asked, sources as given."""

    images: tuple[LoadedImage, ...] = ()
    """The inputs, in the order of the request."""

    def key(self, *, base_url: str, account: str, scope: str) -> str:
        """The request's identity; see `request_key`."""
        hashes = [image.sha256 for image in self.images]
        return request_key(self.request, hashes, base_url=base_url, account=account, scope=scope)


# ── reading ──────────────────────────────────────────────────────────────────


def load_request(
    request: ImageRequest,
    *,
    rules: SourceRules | None = None,
    read_s3: ReadS3 | None = None,
    fetch: Fetch = fetch_https,
) -> LoadedRequest:
    """The request with every input image read, checked and hashed, in order.

    Args:
        request: What is asked.
        rules: What may be read.
        read_s3: Reads an object of S3; without it S3 inputs are refused.
        fetch: Reads an https address.

    Raises:
        InvalidRequestError: An input is nothing that could name an image.
        SourceError: An input cannot be read, may not be, or is no whole image of an accepted type.
        StagingError: An earlier result's original is gone.
    """
    rules = rules or SourceRules()
    images: list[LoadedImage] = []
    for label, source in _labelled(as_sources(request.images)):
        images.append(load_source(source, rules=rules, read_s3=read_s3, fetch=fetch, label=label))
        total = sum(len(image.data) for image in images)
        if total > rules.max_bytes:
            raise SourceError(
                f"The input images have {total} bytes or more together; {rules.max_bytes} are read for one request. "
                "Give fewer or smaller ones."
            )
    return LoadedRequest(request, tuple(images))


def load_source(
    source: ImageSource,
    *,
    rules: SourceRules | None = None,
    read_s3: ReadS3 | None = None,
    fetch: Fetch = fetch_https,
    label: str = "image",
) -> LoadedImage:
    """One input image, read, checked and hashed; arguments and errors as of `load_request`.

    Args:
        source: The image.
        rules: What may be read.
        read_s3: Reads an object of S3.
        fetch: Reads an https address.
        label: What to call a source that has no name of its own.
    """
    rules = rules or SourceRules()
    _refuse_wrong(source, label)
    label = _label_of(source) or label
    data = _read(source, label, rules, read_s3, fetch)
    if len(data) > rules.max_bytes:
        raise _too_large(label, len(data), rules)
    sha256 = hashlib.sha256(data).hexdigest()
    if isinstance(source, GeneratedImage | UploadedImage) and sha256 != source.sha256.lower():
        raise SourceError(
            f"{label} has changed since it was made: its SHA-256 is {sha256}, not {source.sha256!r}. "
            "Name the present object by its s3:// address if it is the one you mean."
        )
    return LoadedImage(data, sha256, _accepted_type(data, label), label, _address_of(source) or f"sha256:{sha256}")


def as_sources(images: object) -> tuple[ImageSource, ...]:
    """The sources that an `images` argument names, one alone or a list of them; nothing is read.

    Raises:
        InvalidRequestError: One of them is nothing that could name an image, with what to give instead.
    """
    sources = tuple(cast("Sequence[ImageSource]", images)) if isinstance(images, list | tuple) else (images,)
    for label, source in _labelled(sources):
        _refuse_wrong(source, label)
    return cast("tuple[ImageSource, ...]", sources)


def hash_of(source: object) -> str | None:
    """The SHA-256 of a source that carries its bytes or their hash, else None; reads nothing, never raises."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, GeneratedImage | UploadedImage):
        sha256 = source.sha256.lower()
        return sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else None
    if isinstance(source, str) and _scheme_of(source) == "data":
        try:
            return hashlib.sha256(_read_data_uri(source, "", SourceRules())).hexdigest()
        except SourceError:
            return None
    return None


def _labelled(sources: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"image {position}", source) for position, source in enumerate(sources, 1)]


def _label_of(source: ImageSource) -> str:
    """A source's own name for people, or nothing."""
    if isinstance(source, UploadedImage):
        return _printable(source.uri)
    if isinstance(source, Path):
        return _printable(source.name)
    if not isinstance(source, str) or (scheme := _scheme_of(source)) == "data":
        return ""
    if scheme == "https":
        return excerpt(shown(source).removeprefix("https://"), 120)
    return _printable(source if scheme else Path(source).name)


_MAX_ADDRESS = 512  # characters, as long as the key of a Prefect asset may be; results stay small


def _address_of(source: ImageSource) -> str:
    """Where a source is for others too, or nothing; no query, which may hold a signature."""
    uri = source.uri if isinstance(source, GeneratedImage | UploadedImage) else source
    scheme = _scheme_of(uri) if isinstance(uri, str) else ""
    if not isinstance(uri, str) or scheme not in ("s3", "https"):
        return ""
    address = shown(uri) if scheme == "https" else f"s3://{uri[5:]}"
    return address if len(address) <= _MAX_ADDRESS and "…" not in address else ""


def _read(source: ImageSource, label: str, rules: SourceRules, read_s3: ReadS3 | None, fetch: Fetch) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, GeneratedImage):
        return source.read_bytes()
    if isinstance(source, UploadedImage):
        return _read_object(source.bucket, source.key, label, rules, read_s3)
    if isinstance(source, Path):
        return _read_file(source, rules)
    return _read_text(source, label, rules, read_s3, fetch)


def _read_text(source: str, label: str, rules: SourceRules, read_s3: ReadS3 | None, fetch: Fetch) -> bytes:
    scheme = _scheme_of(source)
    if not scheme:
        return _read_file(Path(source), rules)
    if scheme == "data":
        return _read_data_uri(source, label, rules)
    if scheme == "https":
        return fetch(source, rules)
    if scheme == "s3":
        bucket, key = _bucket_and_key(source)
        return _read_object(bucket, key, label, rules, read_s3)
    remedy = _OTHER_SCHEMES.get(scheme, "give a local path, an s3://, https:// or data: address, or bytes")
    raise SourceError(f"{_printable(source)!r} is not read, {scheme}: is no way to give an image; {remedy}.")


_OTHER_SCHEMES = {
    "http": "use https://",
    "file": "give the plain path of a file below the input roots",
    "gs": "give an https:// address of the object, or its bytes",
}


def _scheme_of(text: str) -> str:
    """The scheme of an address in lower case, or nothing for a path, `C:\\cat.png` and `12:30.png` included."""
    found = re.match(r"([a-z][a-z0-9+.-]+)://|(data|file):", text, re.IGNORECASE)
    return (found[1] or found[2]).lower() if found else ""


def _printable(text: str) -> str:
    # Of paths too: a presigned address that lost its scheme looks like one.
    public = re.sub(r"\?.+", "?…", re.sub("://.*@", "://", text), flags=re.DOTALL)
    return excerpt(without_secrets(public), 200)


def _too_large(name: str, size: int, rules: SourceRules) -> SourceError:
    return SourceError(f"{name} has {size} bytes; at most {rules.max_bytes} are read of an input image.")


# ── what is no source at all ─────────────────────────────────────────────────

_KINDS = "Give a local path, an s3://, https:// or data: address, the file's bytes, or an earlier result."


def _refuse_wrong(source: object, label: str) -> None:
    if not isinstance(source, str | Path | bytes | GeneratedImage | UploadedImage):
        raise InvalidRequestError(f"{label} is of type {type(source).__name__!r}. {_remedy(source)}")
    if isinstance(source, str) and _scheme_of(source) != "data":
        _refuse_wrong_text(source, label)
    if isinstance(source, str | Path) and _MANGLED.match(str(source)) and not _is_address(source):
        raise InvalidRequestError(
            f"{label}={_printable(str(source))!r} is no path; give an address as text, with all its slashes."
        )


# What pathlib makes of an address.
_MANGLED = re.compile(r"(https?|s3|gs):/(?!/)|data:|file:", re.IGNORECASE)


def _is_address(source: str | Path) -> bool:
    return isinstance(source, str) and bool(_scheme_of(source))


def _refuse_wrong_text(text: str, label: str) -> None:
    if not text.strip():
        raise InvalidRequestError(f"{label} is {text!r:.40}, which names nothing. {_KINDS}")
    if _is_raw_base64(text):
        raise InvalidRequestError(
            f"{label} is a text of {len(text)} characters that looks like base64; "
            "put 'data:image/png;base64,' before it, or give the decoded bytes."
        )
    if text != text.strip():
        raise InvalidRequestError(
            f"{label}={_printable(text)!r} begins with {text[0]!r} and ends with {text[-1]!r}; use .strip()."
        )


def _remedy(source: object) -> str:
    if isinstance(source, ImageOutcome):
        return "Give its .image or its .uploaded."
    if isinstance(source, list | tuple | set | frozenset):
        return "Give the images as one flat list."
    if isinstance(source, bytearray | memoryview):
        return "Give bytes(…) of it."
    if hasattr(source, "tobytes") or hasattr(source, "save"):
        return "Save it as a PNG and give the file's path or bytes."
    if hasattr(source, "read"):
        return "Give what its .read() returns, or its path."
    return _KINDS


def _is_raw_base64(text: str) -> bool:
    if ";base64," in text[:100]:
        return True
    start = "".join(text[:300].split())
    begins_as_image = bool(re.match("iVBORw0KGgo|/9j/|UklGR|R0lGOD|AAAA..Z0eX", start)) and len(start) >= 64
    too_long_for_a_path = len(text) > 4096
    return bool(re.fullmatch(r"[\w+/=-]+", start)) and (begins_as_image or too_long_for_a_path)


# ── local files ──────────────────────────────────────────────────────────────


def _read_file(path: Path, rules: SourceRules) -> bytes:
    try:
        return _read_below(path, rules)
    except (OSError, RuntimeError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise SourceError(f"{_printable(str(path))!r} cannot be read as a file: {str(reason).rstrip('.')}.") from None


def _read_below(path: Path, rules: SourceRules) -> bytes:
    roots = [root.expanduser().resolve() for root in rules.roots or (Path.cwd(),)]
    below = ", ".join(repr(str(root)) for root in roots)
    name = repr(_printable(str(path)))
    found = path.expanduser().resolve()
    if not any(found.is_relative_to(root) for root in roots):
        raise SourceError(
            f"{name} leads to {_printable(str(found))!r}, outside {below}, where input images may be read. "
            f"Move the file there, or add its directory to {ROOTS_SETTING}."
        )
    if not found.exists():
        raise SourceError(f"{name} does not exist; looked for {_printable(str(found))!r}, and may look below {below}.")
    if not found.is_file():
        raise SourceError(f"{name} is a {'directory' if found.is_dir() else 'device or pipe'}, not a file.")
    return _read_regular(found, name, rules)


def _read_regular(path: Path, name: str, rules: SourceRules) -> bytes:
    """The bytes of a resolved path, if what is opened is still the file that was allowed."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if path.resolve() != path or not os.path.samestat(status, path.stat()) or not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{name} was replaced while it was opened; it is not read.")
        if status.st_size > rules.max_bytes:
            raise _too_large(name, status.st_size, rules)
        data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise SourceError(f"{name} changed its length while it was read; give a finished file.", is_transient=True)
    return data


def _open_at_once(path: str, flags: int) -> int:
    # A pipe put there since would wait for a writer; Windows has neither.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ── S3 and data: ─────────────────────────────────────────────────────────────


def _bucket_and_key(uri: str) -> tuple[str, str]:
    found = re.fullmatch(r"s3://([\w.-]+)/(.+)", uri, re.IGNORECASE | re.DOTALL | re.ASCII)
    if not found:
        raise SourceError("An s3:// address needs a bucket and a key and holds no credentials: s3://bucket/key.")
    return found[1], found[2]


def _read_object(bucket: str, key: str, name: str, rules: SourceRules, read_s3: ReadS3 | None) -> bytes:
    if read_s3 is None:
        raise SourceError(f"{name} is in S3, and nothing says how to read there; pass source= an S3Location.")
    return read_s3(bucket, key, rules.max_bytes)


def _read_data_uri(uri: str, name: str, rules: SourceRules) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma or not payload.isascii():
        raise SourceError(f"{name} is no data: address; write data:image/png;base64, and then the base64.")
    is_base64 = head.rpartition(";")[2].strip().lower() == "base64"
    least = len(payload) - 2 * payload.count("%")
    least = (least - sum(map(payload.count, "= \t\r\n"))) * 3 // 4 if is_base64 else least
    if least > rules.max_bytes:
        raise _too_large(name, least, rules)
    data = unquote_to_bytes(payload) if "%" in payload or not is_base64 else payload.encode("ascii")
    return _decoded(data, name) if is_base64 else data


def _decoded(text: bytes, name: str) -> bytes:
    text = text.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n\f").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise SourceError(f"{name} holds damaged base64 in its data: address.") from None


# ── what was read ────────────────────────────────────────────────────────────


def _accepted_type(data: bytes, name: str) -> str:
    """The media type of a whole image that the models take."""
    accepted = ", ".join(catalog.INPUT_MEDIA_TYPES)
    media_type = inspection.media_type_of(data)
    if media_type is None:
        raise SourceError(f"{name} is no image: {_appearance(data)}. The models take {accepted}.")
    if media_type not in catalog.INPUT_MEDIA_TYPES:
        raise SourceError(f"{name} is {media_type}; the models take {accepted}. Convert it first.")
    try:
        damage = inspection.inspect(data, structure=True, decode=False, blank=False).damage
    except inspection.TooManyPixelsError:
        raise SourceError(
            f"{name} ({media_type}) says it has more than {inspection.MAX_PIXELS} pixels; scale it down."
        ) from None
    if damage:
        raise SourceError(f"{name} ({media_type}) is {damage}. Give the whole file.")
    return media_type


def _appearance(data: bytes) -> str:
    if not data:
        return "it is empty, 0 bytes"
    looks = ", which look like an HTML or XML page" if data[:64].lstrip().startswith(b"<") else ""
    return f"its {len(data)} bytes begin as no known type does{looks}"
