"""The page of a remote: its card and the images in it, for people."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from registry.kinds import present
from registry.remote.contract import CARD, plot_path
from registry.report.card import card
from registry.report.plots import draw
from registry.workflows.find import bundle_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.artifact.line import Line
    from registry.artifact.presentation import Chart
    from registry.store.catalog import Registry


@dataclass(frozen=True, slots=True)
class Page:
    """A card and its images.

    Attributes:
        files: Their paths in the remote to bytes.
        lacks_images: Whether there would be images if matplotlib were installed.
    """

    files: Mapping[str, bytes]
    lacks_images: bool = False


def page_of(registry: Registry, line: Line, url: str, signers: Sequence[str]) -> Page:
    """Return the card of ``line`` and its images.

    Nothing where the newest active version was never here: then whoever has it writes the card. No
    images where matplotlib is not installed.
    """
    newest = line.newest_active
    if newest is None:
        page = card(line, {}, url=url, signers=signers, images={})
        return Page({CARD: page.encode()})
    known = {version.version: version for version in registry.versions(line.name)}
    if newest not in known:
        return Page({})
    bundle = bundle_of(registry, known[newest])
    shown = present(bundle)
    drawn = _drawn(tuple(shown.charts))
    images = {plot_path(name): png for name, png in (drawn or {}).items()}
    paths = {chart.name: plot_path(chart.name) for chart in shown.charts}
    page = card(
        line,
        {newest: bundle.manifest},
        url=url,
        signers=signers,
        images={name: path for name, path in paths.items() if path in images},
        shown=shown,
    )
    return Page({CARD: page.encode(), **images}, lacks_images=drawn is None and bool(paths))


@lru_cache(maxsize=4)
def _drawn(charts: tuple[Chart, ...]) -> dict[str, bytes] | None:
    """Return what ``draw`` does; drawn once for a push that is planned again and again."""
    return draw(charts)
