"""The card of a remote, its README.md: what the artifact is, what was measured, how to use it.

- Values in, text out. The card is for people; nothing reads it back.
- It claims what receipts say, with counts and intervals, and says beside it what they do not show.
- No text of a manifest can become markup, a link or another member of the front matter: see
  ``markdown``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from registry import __version__
from registry.artifact.presentation import Verbatim
from registry.digest import short
from registry.reference import Reference, is_repo_id
from registry.report.markdown import bullets, code, front_matter, table, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.artifact.line import Line
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Cell, Grid, Presentation

_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0",
    "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl",
    "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research", "intel-research",
    "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
    "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
})  # fmt: skip
"""What the Hub accepts as ``license`` (huggingface_hub issue 4218); another is refused."""
_MOST_VERSIONS = 50


def card(
    line: Line,
    manifests: Mapping[str, Manifest],
    *,
    url: str,
    signers: Sequence[str],
    images: Mapping[str, str],
    shown: Presentation | None = None,
) -> str:
    """Return the card of a line.

    Args:
        line: What is, or will be, in the remote.
        manifests: Of its versions, at least of the newest active one where there is one.
        url: Reference to the remote, ``hf://ns/repo`` or ``file:///dir``.
        signers: Ids of the keys that signed the line; none for a line that nobody signed.
        images: Name of a chart of ``shown`` to the path of its image, relative to the card.
        shown: What the kind shows of the newest active version.

    Raises:
        KeyError: the manifest of the newest active version is not in ``manifests``.
        ReferenceSyntaxError: ``url`` is not a reference.
    """
    newest = line.newest_active
    manifest = None if newest is None else manifests[newest]
    sections = [
        _matter(line, manifest, shown),
        f"# {code(line.name)}",
        _opening(line, manifest, shown),
        *_use(manifest, url, signers, needs_base=shown is not None and shown.needs_base),
    ]
    if manifest is not None and shown is not None:
        sections += _measured(shown, images)
    if shown is not None and shown.refusals:
        sections += ["## What it does not do", bullets(shown.refusals)]
    sections += ["## Versions", *_versions(line)]
    if manifest is not None:
        sections += ["## How it was made", *_provenance(manifest)]
    if shown is not None:
        text, address = shown.paper
        paper = words(text)
        sections += ["## Paper", f"[{paper}]({address})" if address else paper]
    counts = "; what counts is in the signed files" if signers else ""
    sections.append(
        f"<sub>Written by Safelatch {__version__} from the files beside it. This page is for "
        f"people and is not signed{counts}.</sub>"
    )
    return "\n\n".join(sections) + "\n"


def _matter(line: Line, manifest: Manifest | None, shown: Presentation | None) -> str:
    members: dict[str, str | Sequence[str]] = {}
    if is_repo_id(line.base_name):
        members["base_model"] = line.base_name
        members["base_model_relation"] = "adapter"
    members["library_name"] = "safelatch"
    kinds_own = () if shown is None else shown.tags
    members["tags"] = list(dict.fromkeys(("safelatch", line.kind, *kinds_own)))
    if manifest is not None and manifest.license is not None:
        known = manifest.license.lower()
        members["license"] = known if known in _LICENSES else "other"
        name = re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")
        if known not in _LICENSES and name:
            members["license_name"] = name
    return front_matter(members).rstrip("\n")


def _opening(line: Line, manifest: Manifest | None, shown: Presentation | None) -> str:
    method = "" if shown is None else words(f": {shown.method}")
    article = "an" if line.kind[0] in "aeiou" else "a"
    first = (
        f"This is {article} {code(line.kind)} for fine-tunes of {code(line.base_name)}{method}. "
        "It was made once, from that base. Fine-tuning quietly erases what a base learned to "
        "refuse; this is put back onto a fine-tune when the fine-tune is loaded, and read back "
        "from the loaded model."
    )
    rows: list[tuple[Cell, Cell]] = [("its weights", Verbatim(line.base))]
    if manifest is not None:
        shape, most = manifest.geometry, manifest.compatibility.max_distance
        wide = f"{shape['layers']} layers of {shape['heads']} heads, {shape['head_dim']} wide"
        rows += [
            ("its shape", wide),
            ("newest version", Verbatim(str(manifest.version))),
            *([] if shown is None else shown.facts),
            ("fits", f"models whose weights are within a distance of {most:g} of the base's"),
        ]
        if manifest.expires is not None:
            rows.append(("expires", Verbatim(manifest.expires)))
        if manifest.license is not None:
            rows.append(("license", Verbatim(manifest.license)))
    return "\n\n".join([first, table(("base", Verbatim(line.base_name)), rows)])


def _use(
    manifest: Manifest | None, url: str, signers: Sequence[str], *, needs_base: bool
) -> Iterator[str]:
    place = str(Reference.parse(url))
    yield "## Use it"
    if manifest is None:
        yield "**No version of this line is active.** Do not use it; the reasons are below."
        return
    yield "\n".join(
        [
            "```python",
            "from registry import load_protected",
            "",
            "model = load_protected(",
            '    "path/to/your-fine-tune",',
            f'    artifacts=["{place}"],',
            *(['    base="path/to/the-base",  # what is put back is in its files'] * needs_base),
            *(['    trust="publisher.pub",'] if signers else []),
            ")",
            "```",
        ]
    )
    yield (
        "It measures whether your fine-tune really is one of this base, checks the files, puts "
        "the artifact on, and compares the loaded model with it; if any of that is not so, it "
        "raises an error instead. Nothing from this place is executed: it holds JSON, "
        "safetensors, images and this page."
    )
    if signers:
        yield (
            "`publisher.pub` is the publisher's public key, from the publisher. A signature says "
            "who published these files, not that they help. This line is signed by"
        )
        yield "\n".join(f"- {code(key)}" for key in signers)
        yield (
            "**A key printed beside what it signed proves nothing.** Compare it, letter by letter, "
            "with what the publisher gave you over another way."
        )
    else:
        yield "**Nobody signed this line.** Who published these files cannot be checked."


def _measured(shown: Presentation, images: Mapping[str, str]) -> Iterator[str]:
    yield "## What was measured"
    for grid in shown.grids:
        yield from _grid(grid)
    for chart in shown.charts:
        if chart.name in images:
            described = words(chart.described).replace("\n", " ")
            yield f"![{described}]({images[chart.name]})"
    if not shown.grids:
        yield "Nothing that this page could show."
    if shown.limits:
        yield "### What that does not show"
        yield bullets(shown.limits)


def _grid(grid: Grid) -> Iterator[str]:
    yield f"### {words(grid.title)}"
    yield words(grid.lead)
    yield table(grid.columns, grid.rows)
    if grid.notes:
        yield bullets(grid.notes)


def _versions(line: Line) -> Iterator[str]:
    from packaging.version import Version

    ordered = sorted(line.versions, key=Version, reverse=True)
    rows = [
        (Verbatim(version), entry.state, None if entry.reason is None else Verbatim(entry.reason),
         Verbatim(short(entry.digest)))
        for version in ordered[:_MOST_VERSIONS]
        for entry in (line.versions[version],)
    ]  # fmt: skip
    yield table(("version", "state", "why", "manifest"), rows)
    if len(ordered) > _MOST_VERSIONS:
        yield f"and {len(ordered) - _MOST_VERSIONS} older ones, in `line.json`."
    yield "A yanked version loads only when it is named exactly, a revoked one never."


def _provenance(manifest: Manifest) -> Iterator[str]:
    made, base = manifest.provenance, manifest.base
    rows: list[tuple[Cell, Cell]] = [("tools", _given(made["tool"])), ("seed", made["seed"])]
    more = [name for name in ("dtype", "device", "options", "imported") if name in made]
    rows += [(name, _given(made[name])) for name in more]
    rows += [
        ("data", Verbatim(f"{_named(entry)}, {entry['rows']} rows, {entry['digest']}"))
        for entry in made["data"]
    ]
    rows += [
        ("base's config", Verbatim(base.config)),
        ("base's tokenizer", _digest(base.tokenizer)),
        ("base's chat template", _digest(base.chat_template)),
        ("manifest", Verbatim(manifest.digest)),
    ]
    yield table(("made", Verbatim(manifest.created)), rows)


def _digest(digest: str | None) -> Cell:
    return None if digest is None else Verbatim(digest)


def _named(entry: Mapping[str, Any]) -> str:
    parts = (entry["name"], entry.get("version"), entry.get("split"))
    return " ".join(str(part) for part in parts if part is not None)


def _given(value: Any) -> Cell:
    if isinstance(value, dict):
        value = ", ".join(f"{name} {each}" for name, each in sorted(value.items()))
    return Verbatim(str(value))
