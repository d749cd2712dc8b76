"""Which words of a query are names, told by how they are written."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal

Kind = Literal["", "code", "capitalised"]

_ENDS = ".?!:"


def names_in(words: Sequence[str]) -> list[Kind]:
    """For each word of a text, whether it names something.

    A `code` is written as no word is: digits with letters or signs (`ERR-4711`, `v2.1`), signs within
    (`parse_row`, `os.path`), capitals within (`parseRow`, `HTTP`). A word is `capitalised` where no sentence begins.
    In a text without small letters capitals say nothing.

    Example:
        >>> names_in("Did Ada call parse_row or see ERR-4711?".split())
        ['', 'capitalised', '', 'code', '', '', 'code']
        >>> names_in("WHY IS IT SO?".split())
        ['', '', '', '']
    """
    shouted = not any(map(str.islower, "".join(words)))
    kinds: list[Kind] = []
    begins = True
    for word in words:
        kinds.append(_kind(word.strip(string.punctuation), begins=begins, shouted=shouted))
        begins = word.endswith(tuple(_ENDS))
    return kinds


def _kind(word: str, *, begins: bool, shouted: bool) -> Kind:
    letters = [c for c in word if c.isalpha()]
    signs = len(letters) < len(word)
    if any(map(str.isdigit, word)) and (letters or not word.isdigit()):
        return "code"
    if signs and len(letters) > 2 and any(c in "_./:\\@" for c in word):
        return "code"
    if shouted or not letters:
        return ""
    if len(word) > 1 and any(map(str.isupper, word[1:])):
        return "code"
    return "capitalised" if word[0].isupper() and not begins else ""
