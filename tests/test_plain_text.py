import pytest

from n1n_prefect.plain_text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A red mug.", "A red mug."),
        ("two\nlines\t\x1b[31m", "two lines \\[31m"),
        ("a | b `c` [d](e) ![f](g)", r"a \| b \`c\` \[d\]\(e\) \!\[f\]\(g\)"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("https://x.example", "https:\u2060//x.example"),
        ("the key sk-abcdefgh123", r"the key \*\*\*"),
        ("\ud800", ""),
    ],
)
def test_is_text_in_markdown(text: str, shown: str):
    assert plain(text, 80) == shown


def test_is_cut_as_seen():
    assert plain("a" * 100, 10) == "aaaaaaaaa…"
    assert plain("*" * 100, 3) == r"\*\*…"


def test_a_long_word_may_break():
    assert plain("a" * 50, 80) == "a" * 40 + "\u200b" + "a" * 10
