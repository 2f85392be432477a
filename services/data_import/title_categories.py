"""Titles and categories for a catalogue that has neither, from descriptions like `RED CAKE TINS`."""

import re
from collections import Counter
from collections.abc import Sequence

OTHER = "other"
CATEGORIES = 60
# Words at the end of titles that do not name the product: patterns, colours, sizes, occasions.
_MODIFIERS_TEXT = """
assorted asstd baby birthday black blue boy boys brown childrens christmas clear colour colours cream
design designs diner antique easter flower garden girl girls gold green grey heart ivory large lilac
medium mini natural orange pack paisley piece pieces pink polkadot purple red retrospot rose round set
silver size skull skulls small spot spots square star bird stripe style tall traditional turquoise
vintage white yellow
"""
_SMALL_TEXT = "a an and at by for from in of on or per the to with"
_MODIFIERS = frozenset(_MODIFIERS_TEXT.split())
_SMALL = frozenset(_SMALL_TEXT.split())
_SINGULAR = {"ies": "y", "sses": "ss", "shes": "sh", "ches": "ch", "xes": "x", "ss": "ss", "s": ""}


def title(description: str) -> str:
    """Convert a description to title case, with small words in lower case and single spaces.

    >>> title("SET OF 3  CAKE TINS PANTRY DESIGN ")
    'Set of 3 Cake Tins Pantry Design'
    >>> title("CHILDREN'S T-LIGHT HOLDER,15CM")
    "Children's T-Light Holder, 15cm"
    """
    words = re.sub(r"\s*,\s*", ", ", description).strip(" .,").split()
    return " ".join(_cased(word, first=index == 0) for index, word in enumerate(words))


def _cased(word: str, *, first: bool) -> str:
    lower = word.lower()
    if (lower in _SMALL and not first) or lower[:1].isdigit():
        return lower
    return re.sub(r"(^|[-/&+(\"])([a-z])", lambda match: match[1] + match[2].upper(), lower)


def categories(titles: Sequence[str], n: int = CATEGORIES) -> list[str]:
    """Return the category of each title: the last of its words that end many titles, or "other".

    Only the `n` words that end most titles become categories; of equally frequent ones the alphabetically
    first. A title usually ends with the product ("… Cake Tins"), unless a pattern or colour follows ("…
    Pantry Design"); such words (`_MODIFIERS`) are skipped. Words are made singular.
    """
    nouns = [_nouns(text) for text in titles]
    ending = Counter(words[-1] for words in nouns if words)
    kinds = {word for word, _ in sorted(ending.items(), key=lambda pair: (-pair[1], pair[0]))[:n]}
    return [next((word for word in reversed(words) if word in kinds), OTHER) for words in nouns]


def _nouns(text: str) -> list[str]:
    words = re.findall(r"[a-z]{3,}", text.lower().replace("t-light", "tlight").replace("'", ""))
    return [_singular(word) for word in words if word not in _MODIFIERS and word not in _SMALL]


def _singular(word: str) -> str:
    """
    >>> [_singular(word) for word in ("boxes", "candles", "glass", "glasses", "trays")]
    ['box', 'candle', 'glass', 'glass', 'tray']
    """
    for ending, replacement in _SINGULAR.items():
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + replacement
    return word
