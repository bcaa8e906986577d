"""A local file that a batch names, found and opened below the input roots alone."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from n1n_prefect.errors import SourceError
from n1n_prefect.sources import ROOTS_SETTING, SourceRules, _open_at_once, _printable


def find_below(path: str | Path, rules: SourceRules) -> Path:
    """The resolved path of a file, if there is one and it lies below the roots of the rules.

    Raises:
        SourceError: It is missing, lies elsewhere, or is no regular file.
    """
    name = repr(_printable(str(path)))
    try:
        found = Path(path).expanduser().resolve()
        roots = [root.expanduser().resolve() for root in rules.roots or (Path.cwd(),)]
        mode = found.stat().st_mode if any(found.is_relative_to(root) for root in roots) else None
    except FileNotFoundError:
        raise SourceError(f"{name} does not exist; correct the path, or put the file there.") from None
    except (OSError, RuntimeError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise SourceError(f"{name} cannot be read as a file: {reason}.") from None
    if mode is None:
        below = ", ".join(repr(str(root)) for root in roots)
        raise SourceError(
            f"{name} leads to {_printable(str(found))!r}, outside {below}, where files may be read. Move the file "
            f"there, or add its directory to {ROOTS_SETTING}."
        )
    if not stat.S_ISREG(mode):
        raise SourceError(f"{name} is a {'directory' if stat.S_ISDIR(mode) else 'device or pipe'}, not a file.")
    return found


def open_below(path: str | Path, rules: SourceRules) -> BinaryIO:
    """The opened file, if what was opened is still what `find_below` allowed.

    Raises:
        SourceError: As of `find_below`, or it may not be read, or was replaced meanwhile.
    """
    found = find_below(path, rules)
    try:
        file = open(found, "rb", opener=_open_at_once)  # noqa: SIM115 - whoever asked closes it
    except OSError as exc:
        raise SourceError(f"{_printable(str(path))!r} cannot be read as a file: {exc.strerror}.") from None
    status = os.fstat(file.fileno())
    if found.resolve() == found and os.path.samestat(status, found.stat()) and stat.S_ISREG(status.st_mode):
        return file
    file.close()
    raise SourceError(f"{_printable(str(path))!r} was replaced while it was opened; it is not read.")
