"""Names that are a letter or two away from one that is known. Pure."""

from collections.abc import Collection, Iterable
from itertools import islice

MIN_CHARACTERS = 3
# From so many letters on two may be wrong.
LONG_CHARACTERS = 6
# So many of a request's unknown names are looked at: each costs time.
MAX_LOOKED_AT = 100
# Words that mean something else, however near they are.
_OTHER_WORDS = frozenset({"account", "count", "date", "demo", "mount", "rice", "side", "site", "voice"})


def misspelled(names: Iterable[str], known: Collection[str]) -> tuple[str, str] | None:
    """The first of `names` that is not known but is near a known one, and that one."""
    unknown = list(islice((name for name in names if name not in known), MAX_LOOKED_AT))
    # Almost every request has none.
    if not unknown:
        return None
    by_letters = {_letters(name): name for name in known}
    for name in unknown:
        if (letters := nearest(_letters(name), by_letters)) is not None:
            return name, by_letters[letters]
    return None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known word that this one was meant to be, if there is one; both without capitals and separators."""
    if len(name) < MIN_CHARACTERS or name in _OTHER_WORDS:
        return None
    found = [(distance, word) for word in known if (distance := _distance(name, word)) <= _most(word)]
    return min(found)[1] if found else None


def _most(word: str) -> int:
    """How many letters of it may be wrong: of a short word almost any other one is made by changing two."""
    if len(word) < MIN_CHARACTERS:
        return 0
    return 2 if len(word) >= LONG_CHARACTERS else 1


def _letters(name: str) -> str:
    return name.strip().replace("_", "").replace("-", "").lower()


def _distance(one: str, other: str) -> int:
    """Letters that are missing, too many, wrong, or exchanged with their neighbour; 3 for all that is further away."""
    if abs(len(one) - len(other)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                best = min(best, above[j - 2] + 1)
            row.append(best)
    return min(row[-1], 3)
