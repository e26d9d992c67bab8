"""Kinds times six verbs: one folder per kind, one file per verb.

Here today: ``safety-lock``, ``safety-layers`` and ``esi-mask``.

    body      what the artifact says; nothing but Python and numpy
    extract   make it from a base model
    guard     keep it while training
    apply     put it onto a live model
    verify    read a live model back
    inspect   look for it in a checkpoint's bytes

A further kind is a folder with these six files, a row here, and a schema; ``contract`` says what
each file must offer, and a test holds it to that. Kinds never import each other. A verb that a kind
does not have says so in its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from registry.artifact.presentation import Presentation
from registry.errors import UnsupportedSchemaVersionError, UsageError
from registry.wording import INSTALL_NEWER

if TYPE_CHECKING:
    from types import ModuleType

    from registry.measure.prompts import Split

Verb = Literal["body", "extract", "guard", "apply", "verify", "inspect"]


@dataclass(frozen=True, slots=True)
class Option:
    """One command-line option of a kind's ``extract``, as data.

    Attributes:
        name: Python name; the option is ``--name`` with dashes.
        default: Default value; its type is the option's type. A switch is on or off.
        help: What it means, with the unit.
        minimum: Smallest number accepted.
        choices: The texts accepted, of a text.
    """

    name: str
    default: bool | int | float | str
    help: str
    minimum: int | float = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: a kind of artifact.

    Attributes:
        name: As users write it.
        folder: Sub-package that holds its verbs.
        title: One line for lists and help.
        paper: Where the method is from.
        words: What names and cards say that declare this kind, lower case.
        options: Options of ``extract``.
        data: The packaged prompt set that ``extract`` takes by default.
        splits: The splits of it that are taken, of a user's own set too.
        imports: Suffixes of foreign files that can be imported, lower case; see ``contract``.
        published: Names of what the paper gives for single models: ``import published:NAME``.
        rewrites: Whether applying it puts other weights in place: it goes onto a model before
            what is computed from the weights that are there.
    """

    name: str
    folder: str
    title: str
    paper: str
    words: tuple[str, ...]
    options: tuple[Option, ...]
    data: str = "preference_pairs"
    splits: tuple[Split, ...] = ("make",)
    imports: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    rewrites: bool = False

    def verb(self, verb: Verb) -> ModuleType:
        """Return the module that holds ``verb``, imported now."""
        return import_module(f"registry.kinds.{self.folder}.{verb}")


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="safety-lock",
            folder="safety_lock",
            title="per-head directions toward refusal, added in front of the attention output",
            paper="SafetyLock (Zhu et al., arXiv 2410.10343)",
            words=("safetylock", "safety-lock"),
            options=(
                Option("heads", 24, "K: how many attention heads to steer.", 1),
                Option("answer_tokens", 5, "r: last tokens of each answer that are read.", 1),
                Option("folds", 5, "Folds of the probe's cross-validation, split by pair.", 2),
                Option("repeats", 2, "Repetitions of the cross-validation.", 1),
            ),
            imports=(".safelock",),
        ),
        Kind(
            name="safety-layers",
            folder="safety_layers",
            title="a contiguous range of layers that carries refusals, kept while training",
            paper="Safety Layers (Li et al., arXiv 2408.17003)",
            words=("safety-layers", "safetylayers", "sppft"),
            options=(
                Option("alpha", 0.0, "Scaling factor of the search; 0: chosen by its rule.", 0),
                Option("answer_tokens", 16, "Length of the answers that are scored, in tokens.", 1),
                Option("limit", 0, "Use the first N prompts of each set; 0: all.", 0),
                Option(
                    "attention_output",
                    default=False,
                    help="Scale the attention's output projection too.",
                ),
                Option(
                    "norms",
                    "frozen",
                    "The range's norms while training; trainable, as in the paper.",
                    choices=("frozen", "trainable"),
                ),
            ),
            data="scary",
            splits=("make", "calibrate"),
            published=(
                "phi-3-mini-4k-instruct",
                "llama-2-7b-chat",
                "llama-3-8b-instruct",
                "gemma-2b-it",
            ),
            rewrites=True,
        ),
        Kind(
            name="esi-mask",
            folder="esi_mask",
            title="the few weights that safety depends on most, kept or trained alone",
            paper="ESI, SET and SPA (Qi et al., arXiv 2604.08297)",
            words=("esi-mask", "esi_mask", "safeweights"),
            options=(
                Option("rho", 0.01, "Share of the candidate weights that is selected.", 0),
                Option("limit", 0, "Use the first N pairs; 0: all.", 0),
                Option(
                    "with_values",
                    default=False,
                    help="Put the base's values at the selected places into the bundle.",
                ),
                Option(
                    "halves",
                    default=True,
                    help="Measure how far the masks of two halves of the pairs agree; takes the "
                    "gradients' memory twice.",
                ),
            ),
            splits=("make", "calibrate"),
            imports=(".pkl", ".pickle"),
            rewrites=True,
        ),
    )
}


def kind_of(name: str) -> Kind:
    """Return the kind called ``name``.

    Raises:
        UsageError: there is no such kind.
    """
    if name not in KINDS:
        raise UsageError(f"expected a kind out of {sorted(KINDS)}, got {name!r}.")
    return KINDS[name]


def parse_body(bundle: Any) -> Any:
    """Return the checked body of ``bundle`` (``artifact.bundle.Bundle``), whatever its kind.

    Raises:
        UnsupportedSchemaVersionError: its kind is none of this release.
        SchemaViolationError: with every violated rule of the kind.
    """
    if bundle.manifest.kind not in KINDS:
        raise UnsupportedSchemaVersionError(
            f"expected a kind out of {sorted(KINDS)}, got {bundle.manifest.kind!r}.",
            hint=INSTALL_NEWER,
        )
    return kind_of(bundle.manifest.kind).verb("body").parse(bundle)


def present(bundle: Any) -> Presentation:
    """Return what people are shown of ``bundle``, whatever its kind: plain values for ``report``.

    Raises:
        UnsupportedSchemaVersionError, SchemaViolationError: see ``parse_body``.
    """
    body = parse_body(bundle)
    kind = kind_of(bundle.manifest.kind)
    show = getattr(kind.verb("body"), "present", None)
    if show is None:
        return Presentation(method=kind.title, paper=(kind.paper, None))
    shown: Presentation = show(body, bundle.manifest)
    return shown
