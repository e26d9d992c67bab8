"""What a model is to a base, in words: the kind of change with the numbers it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.report.table import Table, cell
from registry.report.verdicts import line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COLUMNS = ("relation", "kind", "base", "distance", "level", "direction", "changed", "base_weights")
_NAMED = 5
_SHARE = 0.02  # of a parent, from which on it is named
_ADD = "register its base: safelatch base add MODEL"
_LEVELS = {
    0: "claimed only",
    1: "config and tokenizer agree",
    2: "names and shapes agree",
    3: "weights within bounds",
    4: "identical weights",
}
_DIRECTION = {
    "measured": "the change itself shows that the base came first",
    "claimed": "that the base came first is claimed, not measured",
    "unknown": "which of the two came first is not known",
}


def lineage_text(document: Mapping[str, Any]) -> str:
    """Return the whole answer: the decision, what it rests on, and a row for each base.

    Args:
        document: What ``safelatch lineage --format json`` prints.
    """
    if document["adapter"] is not None:
        lines = _adapter_lines(document)
    elif document["metadata"] is not None:
        lines = _stated_lines(document)
    else:
        lines = _measured_lines(document)
    lines += _claims(document["claims"])
    lines.append(lineage_table(document).to_text())
    return "\n".join(part for part in lines if part)


def lineage_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each base: how far, what was done, on what evidence."""
    rows = document["descents"]
    if document["adapter"] is not None:
        rows = [
            {**each, **(each["lineage"] or {}), "level": each["level"]}
            for each in document["adapter"]["descents"]
        ]
    elif document["metadata"] is not None:
        stated = document["metadata"]
        rows = [{"relation": stated["relation"], **each} for each in stated["candidates"]]
    kinds = [(row.get("change") or {}).get("kind") for row in rows]
    return Table(
        COLUMNS,
        tuple(
            tuple(kind if name == "kind" else row.get(name) for name in COLUMNS)
            for row, kind in zip(rows, kinds, strict=True)
        ),
    )


def _measured_lines(document: Mapping[str, Any]) -> list[str]:
    found = document["descents"]
    if document["base"] is not None:
        parent = found[0]
        first = line(parent["change"]["kind"], parent["base"], change_words(parent))
        return [first, *_details(parent)]
    if not found:
        return [
            line("no-base", document["model"], f"no base of its geometry is registered; {_ADD}")
        ]
    fact = f"none of the {len(found)} nearest bases is within the bounds; {_ADD}"
    lines = [line("no-base", document["model"], fact)]
    nearest = found[0]
    if nearest["change"] is not None:
        told = f"{nearest['base']}: {nearest['change']['kind']} {change_words(nearest)}"
        lines += [line("nearest", told), *_named(nearest["change"])]
    return lines


def _stated_lines(document: Mapping[str, Any]) -> list[str]:
    stated = document["metadata"]
    about = f"{document['model']}@{stated['commit'][:12]}"
    lines = [line(stated["relation"], document["base"], about, stated["evidence"])]
    for each in stated["candidates"]:
        lines += [
            line("differs", each["base"], f"config {field['field']}: expected "
                 f"{field['expected']!r}, got {field['got']!r}")
            for field in each["config_differences"]
        ]  # fmt: skip
    return lines


def _adapter_lines(document: Mapping[str, Any]) -> list[str]:
    adapter = document["adapter"]
    fitting = [each for each in adapter["descents"] if each["lineage"] is not None]
    chosen = [each for each in fitting if each["base"] == document["base"]]
    lines = []
    for each in chosen:
        told = change_words({**each["lineage"], "change": each["change"]})
        lines.append(line("adapter", each["base"], f"{each['change']['kind']} {told}"))
        named = f"named by {', '.join(each['claimed_by'])}" if each["claimed_by"] else "not named"
        lines.append(line("evidence", f"level {each['level']}, {_LEVELS[each['level']]}; {named}"))
        lines += _touched(each)
    near = [each for each in fitting if each["lineage"]["relation"] in {"identical", "derived"}]
    if not chosen:
        fact = "no registered base has its shapes"
        if near:
            fact = "its bytes do not say which of the bases it fits it is for"
        elif fitting:
            fact = "it moves every base it fits further than a fine-tune would"
        lines.append(line("no-base", document["model"], f"{fact}; {_ADD}"))
    others = [each["base"] for each in near if each not in chosen]
    if others:
        lines.append(line("fits", ", ".join(others)))
    if adapter["unseen"]:
        lines.append(line("unseen", f"{adapter['unseen']} more bases were not looked at"))
    lines += [
        line("misfit", each["base"], wrong)
        for each in adapter["descents"]
        for wrong in each["misfits"][:_NAMED]
    ]
    return lines


def _touched(descent: Mapping[str, Any]) -> list[str]:
    found = [item for item in descent["touched"] if item["relative"]]
    if not found:
        return []
    most = max(found, key=lambda item: item["relative"])
    layers = _ranges(descent["change"]["layers"]) or "none"
    share = f"{100 * most['relative']:.3g} % of its norm"
    told = f"{len(found)} weights, layers {layers}; most {most['weight']} ({share})"
    return [line("touches", told)]


def kind_words(report: Mapping[str, Any]) -> str:
    """Return what a compatibility report says of lineage: the kind of change and how far."""
    kind = report["change"]["kind"]
    if kind == "identical":
        return "the base itself"
    return f"{kind} at distance {cell(report['lineage']['distance'])}"


def change_words(candidate: Mapping[str, Any]) -> str:
    """Return what was done to a base, with the figures that say so."""
    change = candidate["change"]
    told = _WORDS[change["kind"]](change["figures"], change["changed"])
    if change["kind"] not in {"identical", "cast", "vocabulary-extended"}:
        told = f"at distance {cell(candidate['distance'])}, {told}"
    added = change["added_tokens"]
    return told if not added else f"{told}; {added:+,} row{'s' * (abs(added) != 1)} of embeddings"


def _matrices(figures: Mapping[str, Any]) -> str:
    return f"{figures['matrices']} of {figures['of_matrices']} matrices"


def _fine_tune(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    return f"{_matrices(figures)} changed; a merge with a model that is not known here looks alike"


def _sparse_edit(figures: Mapping[str, Any], changed: Sequence[str]) -> str:
    count = f"{len(changed)} tensor{'s' * (len(changed) != 1)}"
    if not figures["changed_share"]:
        return f"{count} changed where no sample is, as the digests show"
    return (
        f"{_percent(figures, 'changed_share')} of the weights of {count} changed, by "
        f"{cell(figures['steps'])} of their dtype's steps"
    )


def _merged_lora(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    return f"a change of rank {figures['rank']} at most in {_matrices(figures)}"


def _merge(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    parents = {name: share for name, share in figures["parents"].items() if abs(share) >= _SHARE}
    shares = (f"{cell(share)} of the way to {name}" for name, share in parents.items())
    return f"{_percent(figures, 'merge_explained')} of the change is {' + '.join(shares)}"


def _abliterated(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    return (
        f"{_percent(figures, 'explained_by_direction')} of the change of {_matrices(figures)} is "
        "one direction of the residual stream"
    )


def _quantised(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    share = _percent(figures, "levels_share")
    return f"the levels of {figures['levels']} in {share} of the runs looked at"


def _beyond(figures: Mapping[str, Any], _: Sequence[str]) -> str:
    if "correlation" not in figures:
        return "and nothing says what was done"
    return f"weights correlated with the base's by {cell(figures['correlation'])}"


_WORDS: dict[str, Callable[[Mapping[str, Any], Sequence[str]], str]] = {
    "identical": lambda *_: "the base itself",
    "cast": lambda figures, _: f"every sample is the base's in another dtype ({figures['cast']})",
    "vocabulary-extended": lambda *_: "every sample is the base's, beside more embeddings",
    "fine-tune": _fine_tune,
    "sparse-edit": _sparse_edit,
    "merged-lora": _merged_lora,
    "merge": _merge,
    "abliterated": _abliterated,
    "quantised-int8": _quantised,
    "quantised-nf4": _quantised,
    "quantised-4bit": _quantised,
    "quantised-gguf": _quantised,
    "unrelated": _beyond,
    "unknown": _beyond,
}


def _percent(figures: Mapping[str, Any], name: str) -> str:
    return f"{100 * figures.get(name, 0.0):.3g} %"


def _details(parent: Mapping[str, Any]) -> list[str]:
    lines = [line("evidence", f"level {parent['level']}, {_LEVELS[parent['level']]}")]
    if parent["relation"] == "identical":
        return lines
    claimed = ", ".join(parent["claimed_by"])
    lines[0] += f"; {_DIRECTION[parent['direction']]}" + (f" ({claimed})" if claimed else "")
    change = parent["change"]
    if change["kind"] == "abliterated":
        figures = change["figures"]
        lines.append(
            line("direction", f"mean squared cosine {cell(figures['shared_direction'])} over all "
                 f"layers, {cell(figures['shared_in_layer'])} within a layer")
        )  # fmt: skip
    moved = [(parent["per_layer"][layer], layer) for layer in change["layers"]]
    if any(distance for distance, _ in moved) and None not in dict(moved):
        (least, _), (most, layer) = min(moved), max(moved)
        lines.append(
            line("layers", f"{_ranges(change['layers'])} changed; distance {cell(least)} to "
                 f"{cell(most)}, most in layer {layer}")
        )  # fmt: skip
    for word, name in (("added", "unexpected"), ("missing", "missing")):
        if parent[name]:
            rest = "" if len(parent[name]) <= _NAMED else f" and {len(parent[name]) - _NAMED} more"
            lines.append(line(word, ", ".join(parent[name][:_NAMED]) + rest))
    return lines + _named(change)


def _named(change: Mapping[str, Any]) -> list[str]:
    """Return the changed tensors where they are few enough to read."""
    changed = change["changed"]
    return [line("changed", ", ".join(changed))] if 0 < len(changed) <= _NAMED else []


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        line(
            "claim",
            f"{', '.join(claim['sources'])}: {claim['base']}",
            f"registered as {claim['registered_as']}" if claim["registered_as"] else
            "not registered",
        )
        for claim in claims
    ]  # fmt: skip


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
