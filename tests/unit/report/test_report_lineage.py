from __future__ import annotations

from typing import Any, get_args

import pytest

from registry.checkpoint._signs import ChangeKind
from registry.report.lineage import change_words, kind_words, lineage_table, lineage_text

ADD = "register its base: safelatch base add MODEL"


def candidate(kind: str, figures: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "base": "acme",
        "base_weights": "blake3:" + "0" * 64,
        "relation": "derived",
        "level": 3,
        "distance": 0.0123456,
        "per_layer": [0.01, 0.03, 0.02],
        "changed": 3,
        "missing": [],
        "unexpected": [],
        "direction": "unknown",
        "claimed_by": [],
        "change": {
            "kind": kind,
            "figures": {"matrices": 2, "of_matrices": 7, "changed_share": 0.5} | (figures or {}),
            "changed": ["a", "b", "c"],
            "layers": [0, 2],
            "added_tokens": 0,
        },
        **changes,
    }


def document(*found: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": "./m",
        "weights": "blake3:" + "1" * 64,
        "base": "acme" if found else None,
        "claims": [],
        "descents": list(found),
        "metadata": None,
        "adapter": None,
        **changes,
    }


FAR = "at distance 0.01235, "
LEVELS = {"levels": "Q8_0", "levels_share": 0.995}
SAID: list[tuple[str, dict[str, Any], str]] = [
    ("identical", {}, "the base itself"),
    ("cast", {"cast": "F32 to F16"}, "every sample is the base's in another dtype (F32 to F16)"),
    ("vocabulary-extended", {}, "every sample is the base's, beside more embeddings"),
    (
        "fine-tune",
        {},
        f"{FAR}2 of 7 matrices changed; a merge with a model that is not known here looks alike",
    ),
    (
        "sparse-edit",
        {"steps": 12.0},
        f"{FAR}50 % of the weights of 3 tensors changed, by 12 of their dtype's steps",
    ),
    (
        "sparse-edit",
        {"changed_share": 0.0},
        f"{FAR}3 tensors changed where no sample is, as the digests show",
    ),
    ("merged-lora", {"rank": 8}, f"{FAR}a change of rank 8 at most in 2 of 7 matrices"),
    (
        "merge",
        {"merge_explained": 0.98, "parents": {"one": 0.4, "two": 0.6, "none": -0.003}},
        f"{FAR}98 % of the change is 0.4 of the way to one + 0.6 of the way to two",
    ),
    (
        "abliterated",
        {"explained_by_direction": 0.9984, "shared_direction": 1.0, "shared_in_layer": 0.5},
        f"{FAR}99.8 % of the change of 2 of 7 matrices is one direction of the residual stream",
    ),
    *(
        (f"quantised-{form}", LEVELS, f"{FAR}the levels of Q8_0 in 99.5 % of the runs looked at")
        for form in ("int8", "nf4", "4bit", "gguf")
    ),
    ("unrelated", {"correlation": 0.001}, f"{FAR}weights correlated with the base's by 0.001"),
    ("unknown", {}, f"{FAR}and nothing says what was done"),
]


@pytest.mark.parametrize(("kind", "figures", "said"), SAID)
def test_a_change_is_told_with_its_figures(kind: str, figures: dict[str, Any], said: str) -> None:
    assert change_words(candidate(kind, figures)) == said


def test_every_kind_of_change_has_its_words() -> None:
    assert {kind for kind, _, _ in SAID} == set(get_args(ChangeKind))


@pytest.mark.parametrize(
    ("count", "words"), [(64, "+64 rows"), (1, "+1 row"), (-64, "-64 rows"), (1500, "+1,500 rows")]
)
def test_added_embeddings_are_told_beside_the_change(count: int, words: str) -> None:
    child = candidate("fine-tune")
    child["change"]["added_tokens"] = count
    assert change_words(child).endswith(f"; {words} of embeddings")


def test_the_answer_has_the_decision_the_evidence_and_a_row_for_each_base() -> None:
    lines = lineage_text(document(candidate("fine-tune"))).splitlines()
    assert lines[0].startswith("fine-tune  acme  at distance 0.01235")
    assert lines[1:4] == [
        "evidence  level 3, weights within bounds; which of the two came first is not known",
        "layers  0, 2 changed; distance 0.01 to 0.02, most in layer 2",
        "changed  a, b, c",
    ]
    assert lines[4].split() == [
        "relation", "kind", "base", "distance", "level", "direction", "changed", "base_weights"
    ]  # fmt: skip


def test_tensors_that_one_of_the_two_has_alone_are_named() -> None:
    added = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(7)]
    text = lineage_text(document(candidate("fine-tune", unexpected=added, missing=["x"])))
    assert f"added  {', '.join(added[:5])} and 2 more\nmissing  x\n" in text


def test_an_abliteration_says_how_far_the_direction_is_shared() -> None:
    figures = {"explained_by_direction": 0.99, "shared_direction": 0.998, "shared_in_layer": 1.0}
    text = lineage_text(document(candidate("abliterated", figures)))
    said = "direction  mean squared cosine 0.998 over all layers, 1 within a layer"
    assert said in text.splitlines()


def test_the_nearest_is_told_where_none_is_within_the_bounds() -> None:
    far = candidate("unrelated", {"correlation": 0.001}, relation="unrelated")
    far["change"]["changed"] = [str(number) for number in range(9)]
    assert lineage_text(document(far, base=None)).splitlines()[:2] == [
        f"no-base  ./m  none of the 1 nearest bases is within the bounds; {ADD}",
        f"nearest  acme: unrelated {FAR}weights correlated with the base's by 0.001",
    ]


def test_a_claim_is_shown_whatever_was_measured() -> None:
    claim = {
        "sources": ["README.md", "config.json"], "base": "org/x", "relation": None,
        "revision": None, "registered_as": None,
    }  # fmt: skip
    text = lineage_text(document(claims=[claim, claim | {"registered_as": "acme"}]))
    assert text.splitlines() == [
        f"no-base  ./m  no base of its geometry is registered; {ADD}",
        "claim  README.md, config.json: org/x  not registered",
        "claim  README.md, config.json: org/x  registered as acme",
    ]


def test_a_claimed_direction_names_the_files_that_claim_it() -> None:
    child = candidate("fine-tune", direction="claimed", claimed_by=["README.md"])
    assert lineage_text(document(child)).splitlines()[1] == (
        "evidence  level 3, weights within bounds; that the base came first is claimed, not "
        "measured (README.md)"
    )


def stated(**changes: Any) -> dict[str, Any]:
    known = {
        "base": "acme", "base_weights": "blake3:" + "0" * 64, "level": 4, "missing": [],
        "unexpected": [], "reshaped": [],
        "config_differences": [{"field": "rope_theta", "expected": 1.0, "got": 2.0}],
    }  # fmt: skip
    return {
        "commit": "ab" * 20, "relation": "identical", "level": 4, "sha256_set": None,
        "evidence": "the Hub states the same SHA-256 for every weight file",
        "candidates": [known], "header_bytes": 0, **changes,
    }  # fmt: skip


def test_what_the_hub_states_is_told_as_that() -> None:
    text = lineage_text(document(base="acme", metadata=stated()))
    assert text.splitlines()[:2] == [
        "identical  acme  ./m@abababababab  the Hub states the same SHA-256 for every weight file",
        "differs  acme  config rope_theta: expected 1.0, got 2.0",
    ]


def adapter(*found: dict[str, Any], unseen: int = 0, base: str | None = "acme") -> dict[str, Any]:
    described = {"digest": "blake3:" + "2" * 64, "descents": list(found), "unseen": unseen}
    return document(base=base, adapter=described)


def fits(base: str, *, claimed: bool = False, relation: str = "derived") -> dict[str, Any]:
    judged = candidate("merged-lora", {"rank": 4})
    weight = {"weight": "w", "layer": 2, "rank": 4, "norm": 1.0, "relative": 0.05}
    return {
        "base": base, "base_weights": judged["base_weights"], "level": 2,
        "claimed_by": ["adapter_config.json"] if claimed else [],
        "lineage": {"relation": relation, "distance": 0.0123456, "changed": 1},
        "change": judged["change"], "touched": [weight, weight | {"relative": 0.0}],
        "misfits": [],
    }  # fmt: skip


def decisions(text: str) -> list[str]:
    """Return the lines before the table."""
    lines = text.splitlines()
    return lines[: next(n for n, each in enumerate(lines) if each.startswith("relation "))]


def test_an_adapter_is_told_with_its_base_and_what_it_touches() -> None:
    text = lineage_text(adapter(fits("acme", claimed=True), fits("other"), unseen=3))
    assert decisions(text) == [
        f"adapter  acme  merged-lora {FAR}a change of rank 4 at most in 2 of 7 matrices",
        "evidence  level 2, names and shapes agree; named by adapter_config.json",
        "touches  1 weights, layers 0, 2; most w (5 % of its norm)",
        "fits  other",
        "unseen  3 more bases were not looked at",
    ]


def test_an_adapter_that_fits_several_bases_and_names_none_has_no_base() -> None:
    assert decisions(lineage_text(adapter(fits("acme"), fits("other"), base=None))) == [
        f"no-base  ./m  its bytes do not say which of the bases it fits it is for; {ADD}",
        "fits  acme, other",
    ]


def test_an_adapter_that_moves_its_base_too_far_is_for_none() -> None:
    assert decisions(lineage_text(adapter(fits("acme", relation="unrelated"), base=None))) == [
        f"no-base  ./m  it moves every base it fits further than a fine-tune would; {ADD}"
    ]


def test_an_adapter_for_another_base_is_told_why() -> None:
    wrong = fits("acme", claimed=True) | {
        "lineage": None, "change": None, "touched": [], "misfits": ["w: expected [1], got [2]"]
    }  # fmt: skip
    assert decisions(lineage_text(adapter(wrong, base=None))) == [
        f"no-base  ./m  no registered base has its shapes; {ADD}",
        "misfit  acme  w: expected [1], got [2]",
    ]


def test_the_table_has_a_row_for_each_base_whatever_was_asked() -> None:
    assert [row[:3] for row in lineage_table(document(candidate("cast"))).rows] == [
        ("derived", "cast", "acme")
    ]
    assert [row[:5] for row in lineage_table(document(metadata=stated())).rows] == [
        ("identical", None, "acme", None, 4)
    ]
    assert [row[:5] for row in lineage_table(adapter(fits("acme"), fits("other"))).rows] == [
        ("derived", "merged-lora", "acme", 0.0123456, 2),
        ("derived", "merged-lora", "other", 0.0123456, 2),
    ]


@pytest.mark.parametrize(
    ("kind", "words"), [("identical", "the base itself"), ("cast", "cast at distance 0.01235")]
)
def test_a_check_names_the_kind_of_change(kind: str, words: str) -> None:
    child = candidate(kind)
    assert kind_words({"change": child["change"], "lineage": child}) == words
