"""The four ranges that the paper gives, as ready bodies: published, not measured again.

Source: Safety Layers (arXiv 2408.17003), Table 1, as far as others quote it: the paper's own table
was not at hand, so every row says who does. Ranges are those after both bounds were searched; the
pairs that are often taken for them (11-15, 9-14, 7-12, 8-11) are the state before the lower one.

A published range fits models of the published geometry. That the base *is* the published model is
the word of whoever binds it: Llama-3.1 has the geometry of Llama-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.checkpoint.geometry import Geometry
from registry.errors import GeometryError
from registry.kinds.safety_layers._conventions import spellings
from registry.kinds.safety_layers.body import PUBLISHED as ORIGIN
from registry.kinds.safety_layers.body import LayersBody
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

PAPER = "Safety Layers (Li et al.), arXiv 2408.17003"
STATUS = "published, not re-measured"


@dataclass(frozen=True, slots=True)
class PublishedRange:
    """A range that was published for one model.

    Attributes:
        model: The model, as the paper calls it.
        first: First layer, 0-based.
        last: Last layer, included.
        alpha: Scaling factor of the published search; ``None`` where it is not known.
        where: Who quotes it.
        geometry: The model's, from its public config.
    """

    model: str
    first: int
    last: int
    alpha: float | None
    where: str
    geometry: Geometry

    @property
    def name(self) -> str:
        """What it is asked for by: ``published:NAME``."""
        return self.model.lower()

    @property
    def source(self) -> dict[str, Any]:
        """The ``source`` member of the body."""
        return {
            "paper": PAPER,
            "where": self.where,
            "model": self.model,
            "alpha": self.alpha,
            "status": STATUS,
        }

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it."""
        return {
            "origin": STATUS,
            "model": self.model,
            "range": f"{self.first}..{self.last} of 0..{self.geometry.layers - 1}, both included",
            "also_written": spellings(self.first, self.last),
            "alpha": self.alpha,
            "paper": PAPER,
            "source": self.where,
        }

    def bind(self, geometry: Geometry) -> LayersBody:
        """Return the body of a draft for a base of this geometry.

        Raises:
            GeometryError: the base has another one; every finding with both values.
        """
        wanted, got = self.geometry.to_dict(), geometry.to_dict()
        findings = [
            f"{name}: expected {value}, got {got[name]}"
            for name, value in wanted.items()
            if got[name] != value
        ]
        if findings:
            raise GeometryError(
                f"expected a base of the geometry of {self.model}, got another one; a range is "
                f"never scaled to another depth:{listed(findings)}",
                hint="Name the model that it was published for: "
                f"safelatch import published:{self.name} --base BASE --out DIR",
            )
        return LayersBody(
            first=self.first,
            last=self.last,
            layers=geometry.layers,
            family=geometry.family,
            origin=ORIGIN,
            source=self.source,
        )


_QUOTED = "the paper's Table 1, second-hand: "
_ROWS = (
    PublishedRange(
        "Phi-3-mini-4k-instruct", 11, 15, 0.8,
        _QUOTED + "the range as replications quote it, alpha (below 1: the fewest refusals were "
        "looked for) from a public review",
        Geometry("phi3", layers=32, heads=32, kv_heads=32, head_dim=96, hidden_size=3072),
    ),
    PublishedRange(
        "Llama-2-7b-chat", 6, 14, 1.15,
        _QUOTED + "defaults of an independent reproduction; the authors' training script freezes "
        "5 to 14 by default",
        Geometry("llama", layers=32, heads=32, kv_heads=32, head_dim=128, hidden_size=4096),
    ),
    PublishedRange(
        "Llama-3-8B-Instruct", 6, 12, 1.2,
        _QUOTED + "a replication that quotes it",
        Geometry("llama", layers=32, heads=32, kv_heads=8, head_dim=128, hidden_size=4096),
    ),
    PublishedRange(
        "gemma-2b-it", 6, 11, None,
        _QUOTED + "as its appendix A.4.5 and Table 8 are quoted; alpha is not known",
        Geometry("gemma", layers=18, heads=8, kv_heads=1, head_dim=256, hidden_size=2048),
    ),
)  # fmt: skip
PUBLISHED: Mapping[str, PublishedRange] = MappingProxyType({row.name: row for row in _ROWS})
"""The published ranges by name."""
