"""Names of modules against those that an adapter's config names, as PEFT compares them.

Each comparison takes time that the length of the name bounds: nothing goes back and forth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_NAME = 512
"""Most characters of a tensor's name and of a pattern; those of real models have below 200."""

_KEY = re.compile(r"\^?(?:[\w.-]|\\\.)+\$?", re.ASCII)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """The end of a name that a key of a pattern stands for; a dot in the key is any character.

    PEFT tries it behind every dot. A key repeats nothing: it fits ends of one length alone.

    Attributes:
        end: Expression of the end of a name.
        length: Characters of that end.
        is_whole: Whether the end must be the whole name.
    """

    end: re.Pattern[str]
    length: int
    is_whole: bool

    @staticmethod
    def allows(key: str) -> bool:
        """Return whether ``key`` is a name, with or without ``^``, ``$`` and escaped dots."""
        return _KEY.fullmatch(key) is not None

    @classmethod
    def of(cls, key: str) -> NamePattern:
        """Return the pattern of an allowed key."""
        text = key.removeprefix("^").removesuffix("$")
        return cls(re.compile(text), len(text.replace("\\.", ".")), key.startswith("^"))

    def matches(self, module: str) -> bool:
        """Return whether ``module`` is such a name, or ends in one behind a dot."""
        start = len(module) - self.length
        if start < 0 or (start > 0 and (self.is_whole or module[start - 1] != ".")):
            return False
        return self.end.fullmatch(module, start) is not None


def ends_in(module: str, ends: frozenset[str]) -> bool:
    """Return whether ``module``, or an end of it behind a dot, is one of ``ends``."""
    if not ends or module in ends:
        return bool(ends)
    return any(module[at + 1 :] in ends for at, letter in enumerate(module) if letter == ".")
