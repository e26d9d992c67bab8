"""What a model is to a base, in words: the kind of change with the numbers it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.report.table import Table, cell
from registry.report.verdicts import line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = ("relation", "kind", "base", "distance", "level", "direction", "changed", "base_weights")
_NAMED = 5
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
    found, stated = document["descents"], document["metadata"]
    lines = []
    if document["adapter"] is not None:
        lines += _adapter_lines(document)
    elif stated is not None:
        about = f"{document['model']}@{stated['commit'][:12]}"
        lines.append(line(stated["relation"], document["base"], about, stated["evidence"]))
        lines.append(_stated_table(stated["candidates"]).to_text())
    elif document["base"] is None:
        fact = f"none of {len(found)} bases of its geometry is within bounds"
        lines.append(line("no-base", document["model"], fact))
    else:
        parent = found[0]
        lines.append(line(parent["change"]["kind"], parent["base"], change_words(parent)))
        lines += _details(parent)
    lines += _claims(document["claims"])
    lines.append(lineage_table(found).to_text())
    return "\n".join(part for part in lines if part)


def _adapter_lines(document: Mapping[str, Any]) -> list[str]:
    adapter = document["adapter"]
    fitting = [each for each in adapter["descents"] if each["lineage"] is not None]
    lines = []
    for each in fitting:
        if each["base"] != document["base"]:
            continue
        told = change_words({**each["lineage"], "change": each["change"]})
        lines.append(line("adapter", each["base"], f"{each['change']['kind']} {told}"))
        named = f"named by {', '.join(each['claimed_by'])}" if each["claimed_by"] else "not named"
        lines.append(line("evidence", f"level {each['level']}, {_LEVELS[each['level']]}; {named}"))
        lines += _touched(each)
    others = [each["base"] for each in fitting if each["base"] != document["base"]]
    if not lines:
        fact = (
            "which of them it is for its bytes do not say" if others else "no base has its shapes"
        )
        lines.append(line("no-base", document["model"], fact))
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
    found = [item for item in descent["touched"] if item["relative"] is not None]
    if not found:
        return []
    most = max(found, key=lambda item: item["relative"])
    layers = _ranges(descent["change"]["layers"]) or "none"
    share = f"{100 * most['relative']:.2g} % of its norm"
    told = f"{len(found)} weights, layers {layers}; most {most['weight']} ({share})"
    return [line("touches", told)]


def _stated_table(candidates: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each base that names and shapes were compared with."""
    columns = ("base", "level", "missing", "unexpected", "reshaped", "config_differences")
    rows = [
        (each["base"], each["level"], *(len(each[name]) for name in columns[2:]))
        for each in candidates
    ]
    return Table(columns, tuple(rows))


def lineage_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each base: how far, what was done, on what evidence."""
    rows = [
        {**each, "kind": None if each["change"] is None else each["change"]["kind"]}
        for each in found
    ]
    return Table(COLUMNS, tuple(tuple(row[name] for name in COLUMNS) for row in rows))


def kind_words(report: Mapping[str, Any]) -> str:
    """Return what a compatibility report says of lineage: the kind of change and how far."""
    change, distance = report["change"], cell(report["lineage"]["distance"])
    if change is None:
        return f"{report['lineage']['relation']} at distance {distance}"
    if change["kind"] == "identical":
        return "the base itself"
    return f"{change['kind']} at distance {distance}"


def change_words(candidate: Mapping[str, Any]) -> str:
    """Return what was done to a base, with the figures that say so."""
    change, far = candidate["change"], cell(candidate["distance"])
    figures = change["figures"]
    matrices = f"{figures.get('matrices')} of {figures.get('of_matrices')} matrices"
    words = {
        "identical": "the base itself",
        "cast": f"the base in another dtype ({figures.get('cast')})",
        "fine-tune": f"at distance {far}, {matrices} changed; a merge with a model that is not "
        "registered looks the same",
        "sparse-edit": f"at distance {far}, {_percent(figures, 'changed_share')} of the weights "
        f"of {matrices} changed, by {cell(figures.get('steps'))} of their dtype's steps",
        "merged-lora": f"at distance {far}, a change of rank {figures.get('rank')} at most in "
        f"{matrices}",
        "merge": f"at distance {far}, {_percent(figures, 'merge_explained')} of the change is "
        f"{_parents(figures.get('parents', {}))}",
        "vocabulary-extended": "the base's weights with another number of embeddings",
        "abliterated": f"at distance {far}, {_percent(figures, 'explained_by_direction')} of the "
        f"change of {matrices} is one direction of the residual stream (cosine squared "
        f"{cell(figures.get('shared_direction'))} over all layers, "
        f"{cell(figures.get('shared_in_layer'))} within a layer)",
        "unknown": f"at distance {far}, and nothing says what was done",
    }
    if change["kind"] == "sparse-edit" and not figures.get("changed_share"):
        words["sparse-edit"] = _unseen(change["changed"])
    levels = f"the levels of {figures.get('levels')} in {_percent(figures, 'levels_share')}"
    told = words.get(change["kind"], f"at distance {far}, {levels} of the runs looked at")
    added = change["added_tokens"]
    return told if not added else f"{told}; {added:+,} rows of embeddings"


def _percent(figures: Mapping[str, Any], name: str) -> str:
    return f"{100 * figures.get(name, 0.0):.3g} %"


def _unseen(changed: Sequence[str]) -> str:
    if len(changed) == 1:
        return "1 tensor has other bits where no sample is"
    return f"{len(changed)} tensors have other bits where no sample is"


def _parents(shares: Mapping[str, float]) -> str:
    return " + ".join(f"{cell(share)} of the way to {name}" for name, share in shares.items())


def _details(parent: Mapping[str, Any]) -> list[str]:
    lines = [line("evidence", f"level {parent['level']}, {_LEVELS[parent['level']]}")]
    if parent["relation"] == "identical":
        return lines
    claimed = ", ".join(parent["claimed_by"])
    lines[0] += f"; {_DIRECTION[parent['direction']]}" + (f" ({claimed})" if claimed else "")
    change = parent["change"]
    per_layer = [value for value in parent["per_layer"] if value is not None]
    if change["layers"] and any(per_layer) and len(per_layer) == len(parent["per_layer"]):
        most = max(range(len(per_layer)), key=per_layer.__getitem__)
        least, largest = cell(min(per_layer)), cell(per_layer[most])
        lines.append(
            line("layers", f"{_ranges(change['layers'])} changed; distance {least} to {largest}, "
                 f"most in layer {most}")
        )  # fmt: skip
    if 0 < len(change["changed"]) <= _NAMED:
        lines.append(line("changed", ", ".join(change["changed"])))
    return lines


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
