from __future__ import annotations

from typing import Any

import pytest

from registry.report.lineage import change_words, kind_words, lineage_text


def candidate(kind: str, figures: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "base": "acme",
        "base_weights": "blake3:" + "0" * 64,
        "relation": "derived",
        "level": 3,
        "distance": 0.0123456,
        "per_layer": [0.01, 0.03, 0.02],
        "changed": 3,
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
    is_child = bool(found) and found[0]["change"] is not None
    return {
        "model": "./m",
        "weights": "blake3:" + "1" * 64,
        "base": "acme" if is_child else None,
        "claims": [],
        "descents": list(found),
        "metadata": None,
        "adapter": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("kind", "figures", "said"),
    [
        ("identical", {}, "the base itself"),
        ("cast", {"cast": "F32 to F16"}, "the base in another dtype (F32 to F16)"),
        (
            "fine-tune",
            {},
            (
                "at distance 0.01235, 2 of 7 matrices changed; a merge with a model that is not "
                "registered looks the same"
            ),
        ),
        (
            "sparse-edit",
            {"steps": 12.0},
            (
                "at distance 0.01235, 50 % of the weights of 2 of 7 matrices changed, by 12 of their "
                "dtype's steps"
            ),
        ),
        ("sparse-edit", {"changed_share": 0.0}, "3 tensors have other bits where no sample is"),
        (
            "merged-lora",
            {"rank": 8},
            "at distance 0.01235, a change of rank 8 at most in 2 of 7 matrices",
        ),
        (
            "merge",
            {"merge_explained": 0.98, "parents": {"one": 0.4, "two": 0.6}},
            (
                "at distance 0.01235, 98 % of the change is 0.4 of the way to one + 0.6 of the way to "
                "two"
            ),
        ),
        (
            "abliterated",
            {
                "explained_by_direction": 0.9984,
                "shared_direction": 1.0,
                "shared_in_layer": 0.5,
            },
            (
                "at distance 0.01235, 99.8 % of the change of 2 of 7 matrices is one direction of the "
                "residual stream (cosine squared 1 over all layers, 0.5 within a layer)"
            ),
        ),
        (
            "quantised-gguf",
            {"levels": "Q8_0", "levels_share": 0.995},
            "at distance 0.01235, the levels of Q8_0 in 99.5 % of the runs looked at",
        ),
        ("unknown", {}, "at distance 0.01235, and nothing says what was done"),
    ],
)
def test_a_change_is_told_with_its_figures(kind: str, figures: dict[str, Any], said: str) -> None:
    assert change_words(candidate(kind, figures)) == said


def test_added_embeddings_are_told_beside_the_change() -> None:
    child = candidate("fine-tune")
    child["change"]["added_tokens"] = 64
    assert change_words(child).endswith("; +64 rows of embeddings")


def test_the_answer_has_the_decision_the_evidence_and_a_row_for_each_base() -> None:
    lines = lineage_text(document(candidate("fine-tune"))).splitlines()
    assert lines[0].startswith("fine-tune  acme  at distance 0.01235")
    assert lines[1:4] == [
        "evidence  level 3, weights within bounds; which of the two came first is not known",
        "layers  0, 2 changed; distance 0.01 to 0.03, most in layer 1",
        "changed  a, b, c",
    ]
    assert lines[4].split() == [
        "relation", "kind", "base", "distance", "level", "direction", "changed", "base_weights"
    ]  # fmt: skip


def test_a_claim_is_shown_whatever_was_measured() -> None:
    claim = {
        "sources": ["README.md", "config.json"], "base": "org/x", "relation": None,
        "revision": None, "registered_as": None,
    }  # fmt: skip
    text = lineage_text(document(claims=[claim, claim | {"registered_as": "acme"}]))
    assert text.splitlines() == [
        "no-base  ./m  none of 0 bases of its geometry is within bounds",
        "claim  README.md, config.json: org/x  not registered",
        "claim  README.md, config.json: org/x  registered as acme",
    ]


def test_a_claimed_direction_names_the_files_that_claim_it() -> None:
    child = candidate("fine-tune", direction="claimed", claimed_by=["README.md"])
    assert lineage_text(document(child)).splitlines()[1] == (
        "evidence  level 3, weights within bounds; that the base came first is claimed, not "
        "measured (README.md)"
    )


def test_what_the_hub_states_is_told_as_that() -> None:
    stated = {
        "commit": "ab" * 20, "relation": "identical", "level": 4, "sha256_set": None,
        "evidence": "the Hub states the same SHA-256 for every weight file",
        "candidates": [], "header_bytes": 0,
    }  # fmt: skip
    text = lineage_text(document(base="acme", metadata=stated))
    assert text.splitlines()[0] == (
        "identical  acme  ./m@abababababab  the Hub states the same SHA-256 for every weight file"
    )


@pytest.mark.parametrize(
    ("kind", "words"), [("identical", "the base itself"), ("cast", "cast at distance 0.01235")]
)
def test_a_check_names_the_kind_of_change(kind: str, words: str) -> None:
    child = candidate(kind)
    assert kind_words({"change": child["change"], "lineage": child}) == words
    assert kind_words({"change": None, "lineage": child}) == "derived at distance 0.01235"


def adapter(*found: dict[str, Any], unseen: int = 0, base: str | None = "acme") -> dict[str, Any]:
    described = {"digest": "blake3:" + "2" * 64, "descents": list(found), "unseen": unseen}
    return document(base=base, adapter=described)


def fits(base: str, *, claimed: bool = False) -> dict[str, Any]:
    judged = candidate("merged-lora", {"rank": 4})
    weight = {"weight": "w", "layer": 2, "rank": 4, "norm": 1.0, "relative": 0.05}
    return {
        "base": base, "base_weights": judged["base_weights"], "level": 2,
        "claimed_by": ["adapter_config.json"] if claimed else [],
        "lineage": {"distance": 0.0123456}, "change": judged["change"], "touched": [weight],
        "misfits": [],
    }  # fmt: skip


def test_an_adapter_is_told_with_its_base_and_what_it_touches() -> None:
    text = lineage_text(adapter(fits("acme", claimed=True), fits("other"), unseen=3))
    assert text.splitlines() == [
        (
            "adapter  acme  merged-lora at distance 0.01235, a change of rank 4 at most in 2 of 7 "
            "matrices"
        ),
        "evidence  level 2, names and shapes agree; named by adapter_config.json",
        "touches  1 weights, layers 0, 2; most w (5 % of its norm)",
        "fits  other",
        "unseen  3 more bases were not looked at",
    ]


def test_an_adapter_that_fits_several_bases_and_names_none_has_no_base() -> None:
    text = lineage_text(adapter(fits("acme"), fits("other"), base=None))
    assert text.splitlines() == [
        "no-base  ./m  which of them it is for its bytes do not say",
        "fits  acme, other",
    ]


def test_an_adapter_for_another_base_is_told_why() -> None:
    wrong = fits("acme", claimed=True) | {
        "lineage": None, "change": None, "touched": [], "misfits": ["w: expected [1], got [2]"]
    }  # fmt: skip
    assert lineage_text(adapter(wrong, base=None)).splitlines() == [
        "no-base  ./m  no base has its shapes",
        "misfit  acme  w: expected [1], got [2]",
    ]
