"""What may not be shown: secrets of this process, and whatever looks like an API key.

Texts come from gateways, stores and libraries, which echo what they were sent.
"""

import os
import re
from threading import Lock

_IN_A_QUERY = (
    "key", "token", "access_token", "sig", "signature", "password", "pw", "secret", "X-Amz-Security-Token",
    "X-Amz-Signature",
)  # fmt: skip
_KEY_LIKE = re.compile(
    r"\b(sk-|AIza)[\w-]{8,}"
    r"|(?<=Bearer )[\w.+/=-]{8,}"
    rf"|(?:{'|'.join(rf'(?<=[?&]{name}=)' for name in _IN_A_QUERY)})[^&\s\"']+"
    r"|(?<=://)[^\s/?#@\"']+(?=@)"
)
_SHORTEST, _MOST = 8, 256
_lock = Lock()
# Replaced as a whole, so that who reads without the lock sees the old ones or the new ones.
_lasting: tuple[str, ...] = ()
_temporary: tuple[str, ...] = ()


def remember_secret(secret: str, *, is_temporary: bool = False) -> None:
    """Lets `without_secrets` mask a secret of a client of this process, wherever it is echoed from.

    Those of less than 8 characters are not, since they would be found in innocent words.

    Args:
        secret: A key, a password or a token.
        is_temporary: Whether it expires and is renewed; of those, only the 256 used last are remembered.
    """
    global _lasting, _temporary  # noqa: PLW0603 - what a process knows
    if len(secret) < _SHORTEST:
        return
    with _lock:
        if secret in _lasting:
            return
        others = tuple(known for known in _temporary if known != secret)
        if is_temporary:
            _temporary = (*others, secret)[-_MOST:]
        else:
            _lasting, _temporary = (*_lasting, secret), others


def without_secrets(text: str, *secrets: str) -> str:
    """The text with the given and the remembered secrets, and whatever looks like an API key, masked."""
    # The longest first: one may be the beginning of another.
    for secret in sorted({*secrets, *_lasting, *_temporary}, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "***")
    return _KEY_LIKE.sub("***", text)


def without_secrets_in(exc: BaseException) -> BaseException:
    """The exception, with secrets masked in its words and in those of all that led to it, which a traceback shows."""
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.args = tuple(_masked(word) for word in link.args)
        if isinstance(link, OSError):
            _mask_paths(link)
        link = link.__cause__ or link.__context__
    return exc


def _mask_paths(exc: OSError) -> None:
    """Masks what `str` makes its words of, which are not its `args`."""
    for name in ("strerror", "filename", "filename2"):
        value = getattr(exc, name)
        said = os.fspath(value) if isinstance(value, os.PathLike) else value
        if _masked(said) != said:
            setattr(exc, name, _masked(said))


def _masked(value: object) -> object:
    return without_secrets(value) if isinstance(value, str) else value
