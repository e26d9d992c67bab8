"""What may have been meant by a name that is not there."""

from __future__ import annotations

import difflib
import heapq
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


_COMPARED = 500


def nearest(text: str, known: Sequence[str]) -> list[str]:
    """Return at most three of ``known`` that resemble ``text``, the closest first.

    Of more than 500, those that share the most pairs of letters with it are compared.
    """
    if len(known) > _COMPARED:
        wanted = set(pairwise(text))
        known = heapq.nlargest(
            _COMPARED, known, key=lambda name: len(wanted.intersection(pairwise(name)))
        )
    return difflib.get_close_matches(text, known, n=3, cutoff=0.5)


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """Return the question, with a blank before it; empty when nothing resembles ``text``."""
    close = nearest(text, known)
    return f" Did you mean {' or '.join(close)}?" if close else ""
