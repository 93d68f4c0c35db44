"""English plurals, for topic names that are derived from a class name. Words that are plural already stay as they are."""

from __future__ import annotations

import re

__all__ = ["plural"]

_IRREGULAR = {
    "alumnus": "alumni", "appendix": "appendices", "axis": "axes", "bacterium": "bacteria", "child": "children", "criterion": "criteria",
    "datum": "data", "foot": "feet", "fungus": "fungi", "goose": "geese", "grandchild": "grandchildren", "louse": "lice", "man": "men",
    "matrix": "matrices", "mouse": "mice", "nucleus": "nuclei", "ox": "oxen", "person": "people", "phenomenon": "phenomena",
    "quiz": "quizzes", "radius": "radii", "salesperson": "salespeople", "stimulus": "stimuli", "tooth": "teeth", "vertex": "vertices",
    "woman": "women",
}  # fmt: skip
_SAME = frozenset(
    {
        "aircraft", "chassis", "data", "deer", "diabetes", "equipment", "feedback", "firmware", "fish", "hardware", "headquarters",
        "information", "logistics", "mathematics", "means", "media", "metadata", "money", "news", "offspring", "physics", "police",
        "research", "series", "sheep", "software", "species", "staff", "traffic",
    }
)  # fmt: skip
_PLURALS = frozenset(_IRREGULAR.values()) | _SAME
# Singular although they end in s; every other word in s that no rule below knows is taken for a plural.
_SINGULAR_S = frozenset(
    {
        "alias", "asbestos", "atlas", "bias", "canvas", "chaos", "christmas", "cosmos", "ethos", "gas", "iris", "lens", "metropolis",
        "pancreas", "pelvis", "rhinoceros", "trellis",
    }
)  # fmt: skip
_PLURAL_US = frozenset(
    {
        "cpus", "emus", "gnus", "gpus", "gurus", "haikus", "menus", "skus", "submenus", "tofus",
    }
)  # fmt: skip
_VES = ("calf", "elf", "half", "knife", "leaf", "life", "loaf", "scarf", "sheaf", "thief", "wife", "wolf")
_NOT_VES = frozenset({"behalf"})
_OES = frozenset(
    {
        "archipelago", "cargo", "domino", "echo", "embargo", "hero", "mosquito", "potato", "tomato", "tornado", "torpedo", "veto",
        "volcano",
    }
)  # fmt: skip
_HARD_CH = ("eunuch", "epoch", "monarch", "stomach", "tech")
_MAN_S = frozenset(
    {
        "caiman", "german", "human", "norman", "ottoman", "roman", "shaman", "talisman",
    }
)  # fmt: skip
_MEN_SINGULAR = frozenset(
    {
        "abdomen", "acumen", "omen", "regimen", "specimen",
    }
)  # fmt: skip


def plural(words: str) -> str:
    """Return the plural of a noun, or of the last word of several that are joined by `-`, `_`, `.` or a space.

    `category` becomes `categories`, `person` `people`; `series` and `people` stay.
    """
    head, last = re.fullmatch(r"(.*[-_. ])?(.*)", words, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    word = last.lower()
    if not word or not word[-1].isalpha():
        return words
    new = _plural(word)
    same = next((at for at, (old, now) in enumerate(zip(word, new, strict=False)) if old != now), min(len(word), len(new)))
    return head + last[:same] + new[same:]


def _plural(word: str) -> str:
    if word in _PLURALS:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men") and word not in _MEN_SINGULAR:
        return word
    if word.endswith("man") and word not in _MAN_S:
        return word[:-3] + "men"
    if word.endswith("s") and not word.endswith("ss"):
        return _plural_of_s(word)
    if word.endswith(_VES) and word not in _NOT_VES:
        return (word[:-2] if word.endswith("fe") else word[:-1]) + "ves"
    if word.endswith("y") and (word[-2:-1] not in "aeiou" or word.endswith("quy")):
        return word[:-1] + "ies"
    if word in _OES or (word.endswith(("ss", "x", "z", "ch", "sh")) and not word.endswith(_HARD_CH)):
        return word + "es"
    return word + "s"


def _plural_of_s(word: str) -> str:
    if word in _SINGULAR_S or (word.endswith("us") and word not in _PLURAL_US):
        return word + "es"
    if word.endswith(("sis", "xis")) and word != "taxis":
        return word[:-2] + "es"
    return word
