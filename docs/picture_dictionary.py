"""Makes `picture-dictionary.csv`, a manifest of a thousand things from Webster's Second International of 1934.

The words are the list `web2a` of Debian's package `miscfiles`, whose copyright has elapsed:

    apt-get download miscfiles && dpkg-deb -x miscfiles_*.deb . && gunzip usr/share/dict/web2a.gz
    python docs/picture_dictionary.py usr/share/dict/web2a > docs/picture-dictionary.csv
"""

import argparse
import csv
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

FLASH, LITE, NANO_2 = "gemini-2.5-flash-image", "gemini-3.1-flash-lite-image", "gemini-3.1-flash-image"
PRO, NANO_21 = "gemini-3-pro-image", "gemini-nano-banana-2.1"
COLUMNS = ("id", "prompt", "model", "aspect_ratio", "image_size", "images", "term", "kind")
EMBLEM = "docs/logo.png"
EMBLEM_EVERY = 4


class Style(NamedTuple):
    """How things of one kind are drawn."""

    prompt: str
    model: str = FLASH
    aspect_ratio: str = "1:1"
    image_size: str = ""
    takes_emblem: bool = False


PLANT = Style("Botanical plate of {}, pen and watercolour", aspect_ratio="3:4")
ANIMAL = Style("{} in its habitat, naturalist's engraving", NANO_2, "4:3", "1K")
TOOL = Style("{} on a workbench, studio photograph, plain background", takes_emblem=True)
FOOD = Style("{} on an earthenware plate, morning light", LITE)
PLACE = Style("{}, wide view at dawn, etching", PRO, "16:9", "2K")
STYLES = {
    **dict.fromkeys(("fern", "lily", "palm", "pine", "vine", "grass", "moss"), PLANT),
    **dict.fromkeys(("bird", "duck", "fish", "moth", "beetle"), ANIMAL),
    **dict.fromkeys(("lamp", "knife", "saw", "drill", "cup", "bell", "box", "table"), TOOL),
    **dict.fromkeys(("apple", "bean", "cake"), FOOD),
    **dict.fromkeys(("boat", "bridge", "house"), PLACE),
    "snake": Style("{} stretched out on sand, scientific drawing", NANO_21, "4:1", "1K"),
}


def main() -> None:
    """Writes the manifest to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", type=Path, help="a list of terms, one on each line")
    parser.add_argument("--rows", type=int, default=1000, help="how many (default: %(default)s)")
    given = parser.parse_args()
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for place, term in enumerate(chosen(given.words.read_text("ascii").splitlines(), given.rows)):
        table.writerow(row(place, term))


def chosen(words: list[str], rows: int) -> list[str]:
    """Terms of the kinds above, in the alphabet's order, from all over the list and as many of each kind."""
    terms: dict[str, list[str]] = defaultdict(list)
    for word in {word.lower(): word for word in words if " " in word}.values():
        if kind_of(word) in STYLES:
            terms[kind_of(word)].append(word)
    found = sorted((place, term) for of_kind in terms.values() for place, term in enumerate(spread(of_kind, rows)))
    return sorted((term for _, term in found[:rows]), key=str.lower)


def spread(terms: list[str], rows: int) -> list[str]:
    """The terms, so that any first few are from all over the alphabet."""
    step = max(1, len(terms) // max(1, rows // len(STYLES)))
    return [term for start in range(step) for term in terms[start::step]]


def kind_of(term: str) -> str:
    """The last word of a term."""
    return term.rsplit(" ", 1)[-1]


def row(place: int, term: str) -> list[str]:
    """The cells of a term's row."""
    kind = kind_of(term)
    style = STYLES[kind]
    prompt = style.prompt.format(f"{article(term)} {term}")
    prompt = prompt[0].upper() + prompt[1:]
    has_emblem = style.takes_emblem and place % EMBLEM_EVERY == 0
    if has_emblem:
        prompt += ", engraved with this emblem"
    images = EMBLEM if has_emblem else ""
    name = re.sub(r"[^a-z0-9]+", "-", term.lower())
    return [name, prompt, style.model, style.aspect_ratio, style.image_size, images, term, kind]


def article(term: str) -> str:
    """A or an."""
    return "an" if term[0].lower() in "aeiou" else "a"


if __name__ == "__main__":
    main()
