"""The root of all errors raised on purpose."""

from __future__ import annotations

import re
from typing import ClassVar

from registry.wording import printable


class SafelatchError(Exception):
    """Root of all errors raised here.

    Attributes:
        code: Stable machine-readable slug.
        exit_code: Exit status of the command line.
        hint: What to do about it, usually a command; ``None`` when there is nothing to do.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        # A line of ours begins with two blanks: a name with a line break cannot add a hint.
        self.message = re.sub("\n(?!  )", r"\\n", printable(message, keep="\n"))
        super().__init__(self.message)
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"
