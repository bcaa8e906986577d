"""Words of others in Markdown of ours: shown as text, never rendered.

Seen in both of Prefect's UIs, which decide the form: numeric entities show as such in the
old one, so that backslashes escape; the new one makes links of addresses even then, so that
an invisible joiner breaks those up. Both show an entity for `<`, `>` and `&` as it is meant.
"""

import re

from n1n_prefect.images import excerpt
from n1n_prefect.masking import without_secrets

_MARKUP = re.compile(r"([\\`*_{}\[\]()#|~!$^])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LINK_LIKE = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
_LONG_WORD = re.compile(r"(\S{40})(?=\S)")
_JOINER, _MAY_BREAK = "\u2060", "\u200b"
_KEPT = "\u200c\u200d"  # they join letters and emoji, and show nothing of their own


def plain(text: str, length: int) -> str:
    """Text on one line, at most `length` characters as seen, that no renderer takes for markup or a link."""
    visible = "".join(char if char.isprintable() or char in _KEPT else " " for char in text[: length * 8])
    line = _LINK_LIKE.sub(_JOINER, excerpt(without_secrets(visible), length))
    line = _LONG_WORD.sub(rf"\1{_MAY_BREAK}", line)
    return _MARKUP.sub(r"\\\1", line.translate(_ENTITIES))
