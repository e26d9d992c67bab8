"""The authors' index pickles: every name that a matrix has, the mask that results, every refusal."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.locks import read_record
from support.refusals import refusal
from support.tiny_models import (
    FAMILIES,
    llama_config,
    make_tensors,
    save_with_transformers,
    write_checkpoint,
)

from registry.artifact.bundle import Bundle, read_bundle, write_bundle
from registry.artifact.unbound import Unbound, write_unbound
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.digest import digest_bytes
from registry.errors import (
    DigestMismatchError,
    GeometryError,
    SchemaViolationError,
    UnsafeFormatError,
)
from registry.kinds import parse_body
from registry.kinds.esi_mask._imported import parse_imported
from registry.kinds.esi_mask._rules import IMPORTED_RULE, count_findings
from registry.kinds.esi_mask._sources import named_parts
from registry.kinds.esi_mask.body import MaskBody
from registry.settings import Settings
from registry.workflows.identify import Identified, identify
from registry.workflows.import_foreign import describe_unbound, import_file, open_file

if TYPE_CHECKING:
    from pathlib import Path

V = "model.layers.1.self_attn.v_proj.weight"
Q = "model.layers.0.self_attn.q_proj.weight"


def written(folder: Path, lists: dict[str, list[int]], protocol: int = 4) -> Path:
    """Write what the authors' code writes: ``pickle.dump`` of a dict of lists."""
    path = folder / "theirs.pkl"
    path.write_bytes(pickle.dumps(lists, protocol))
    return path


def of_family(folder: Path, family: str) -> Identified:
    config = {"model_type": family, **FAMILIES[family]}
    return identify(save_with_transformers(folder / family, config), settings=Settings.load())


def body_of(path: Path, base: Identified) -> MaskBody:
    made = import_file(path, base=base, base_name="tiny")
    assert isinstance(made, Bundle)
    body = parse_body(made)
    assert isinstance(body, MaskBody)
    return body


def selected(body: MaskBody) -> dict[str, list[int]]:
    return {name: body.indices(name).tolist() for name, count in body.counts.items() if count}


@pytest.fixture
def base(tmp_path: Path) -> Identified:
    config = llama_config(tie_word_embeddings=False)
    folder = write_checkpoint(tmp_path / "base", config, make_tensors(config))
    return identify(folder, settings=Settings.load())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_of_the_official_form_becomes_a_mask(
    tmp_path: Path, base: Identified, protocol: int
) -> None:
    lists = {Q: [7, 300, 0], V: [1535, 2], "lm_head.weight": [4607], "model.norm.weight": []}
    made = import_file(written(tmp_path, lists, protocol), base=base, base_name="tiny")
    assert isinstance(made, Bundle)
    body = parse_body(read_bundle(write_bundle(made, tmp_path / "mask")))
    assert selected(body) == {"lm_head.weight": [4607], Q: [0, 7, 300], V: [2, 1535]}
    document = made.manifest.body
    assert document["rule"] == "imported: the authors' rule, k of all parameters"
    assert document["rho"] == 6 / base.record.numel
    assert [document[name] for name in ("form", "selected", "values")] == ["mask", 6, False]
    assert [document[name] for name in ("score", "stability", "coverage", "mass", "delta")] == (
        [None] * 5
    )
    assert made.manifest.provenance["imported"]["name"] == "theirs.pkl"
    shown = body.describe()
    assert shown["rule"] == IMPORTED_RULE
    assert not {"score", "judge", "pairs", "jaccard"} & set(shown)
    assert shown["selected"].startswith("6 of ")
    with Checkpoint.open(base.path) as files:
        values = np.frombuffer(files.read(V), "<u4")[[2, 1535]]
    assert body.selected_digest(V) == digest_bytes(values.tobytes())


def test_experts_are_found_by_their_names_in_files_and_live(tmp_path: Path) -> None:
    """In transformers 5 the experts of a layer are one parameter: [experts, gate and up, hidden]."""
    base = of_family(tmp_path, "mixtral")
    tensors = {entry.name: entry.shape for entry in base.record.entries}
    stored = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    rows, cols = tensors[stored]
    live = sites_for("mixtral").place_of(stored)
    assert (live.index, live.part, live.parts) == (2, 1, 2)
    flat = (2 * 2 * rows + rows) * cols  # past two experts of two matrices, and the gate of this
    gate = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    by_file = body_of(written(tmp_path, {stored: [0, rows * cols - 1], gate: [5]}), base)
    by_live = body_of(written(tmp_path, {live.name: [flat + rows * cols - 1, 5, flat]}), base)
    assert selected(by_file) == {gate: [5], stored: [0, rows * cols - 1]}
    assert selected(by_live) == selected(by_file)
    assert by_live.content == by_file.content


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_place_of_each_parameter_is_one_place_of_one_matrix(
    tmp_path: Path, family: str
) -> None:
    base = of_family(tmp_path, family)
    path = written(tmp_path, {"x": [0]})
    foreign = open_file(path).contents
    assert foreign.describe()["parameters"] == 1
    body = body_of(written(tmp_path, {_a_name(base): [0]}), base)
    for name, parts in named_parts(body.matrices, body.sites).items():
        size = sum(part.matrix.numel for part in parts)
        every = np.arange(size)
        found = [part.inside(every) for part in parts]
        assert [each.tolist() for each in found] == [
            list(range(part.matrix.numel)) for part in parts
        ], name
    stored = {name: parts for name, parts in named_parts(body.matrices, body.sites).items()
              if name == parts[0].matrix.tensor}  # fmt: skip
    random = np.random.default_rng(0)
    for parts in stored.values():
        for part in parts:
            inner = np.sort(random.choice(part.matrix.numel, 9, replace=False))
            assert part.inside(part.matrix.in_tensor(inner)).tolist() == inner.tolist()


def _a_name(base: Identified) -> str:
    return next(e.name for e in base.record.entries if "layers.0" in e.name or "h.0" in e.name
                if len(e.shape) == 2 and "gate.weight" not in e.name and "attn" in e.name)  # fmt: skip


def test_a_fused_qkv_is_taken_apart(tmp_path: Path) -> None:
    base = of_family(tmp_path, "phi3")
    name = "model.layers.0.self_attn.qkv_proj.weight"
    queries, keys, hidden = 64, 32, 48
    body = body_of(
        written(tmp_path, {name: [3, queries * hidden, (queries + keys) * hidden + 1]}), base
    )
    assert selected(body) == {f"{name}#q": [3], f"{name}#k": [0], f"{name}#v": [1]}


def test_indices_that_are_none_are_all_told_at_once(tmp_path: Path) -> None:
    lists = {Q: [-1, -1, 4, 4, 4], V: [-7, -2, 9], "x": [0]}
    error = refusal(
        SchemaViolationError,
        lambda: import_file(written(tmp_path, lists)),
        "theirs.pkl: expected indices of weights, 3 rule(s) are broken; nothing of it was executed.",
    )
    assert isinstance(error, SchemaViolationError)
    assert list(error.violations) == [
        f"{Q!r}: expected each index once, got 2 again",
        f"{Q!r}: expected no padding, got -1 2 times: fewer weights were found than were asked for",
        f"{V!r}: expected indices of at least 0, got 2 below -1 down to -7",
    ]


def test_a_file_without_an_index_is_refused(tmp_path: Path) -> None:
    for lists in ({}, {Q: []}):
        refusal(SchemaViolationError, lambda lists=lists: import_file(written(tmp_path, lists)),
                "expected indices of weights", "expected at least one index, got none")  # fmt: skip


def test_parameters_that_the_base_does_not_have_are_all_told_at_once(
    tmp_path: Path, base: Identified
) -> None:
    lists = {
        Q: [0, 3072, 4000], "model.layers.7.mlp.up_proj.weight": [0], "model.norm.weight": [1],
        "model.embed_tokens.weight": [1],
    }  # fmt: skip
    refusal(
        GeometryError,
        lambda: import_file(written(tmp_path, lists), base=base, base_name="tiny"),
        "expected a base that has the parameters of this mask, 4 rule(s) are broken:",
        f"{Q!r}: expected indices below 3,072, got 2 others up to 4,000",
        "'model.layers.7.mlp.up_proj.weight': expected a parameter of the base, it has none of "
        "this name",
        "'model.norm.weight': expected a matrix that a mask is of, the base has it as an embedding, a "
        "norm, a bias or a router",
        "'model.embed_tokens.weight': expected a matrix that a mask is of",
    )


@pytest.mark.parametrize("is_live", [True, False])
def test_routers_that_the_authors_code_keeps_are_refused_with_the_repair(
    tmp_path: Path, is_live: bool
) -> None:
    """Their filter knows the router of Qwen by its name, and not the one of Mixtral."""
    base = of_family(tmp_path, "mixtral")
    router = "model.layers.0.block_sparse_moe.gate.weight"
    assert router in {entry.name for entry in base.record.entries}
    name = sites_for("mixtral").place_of(router).name if is_live else router
    lists = {name: [0], "model.layers.0.block_sparse_moe.experts.0.w1.weight": [0]}
    error = refusal(
        GeometryError,
        lambda: import_file(written(tmp_path, lists), base=base, base_name="x"),
        "expected a base that has the parameters of this mask, 1 rule(s) are broken:",
        f"{name!r}: expected a matrix that a mask is of, the base has it as an embedding, a norm, "
        "a bias or a router",
    )
    assert "leave these parameters out (the authors' code keeps Mixtral's routers)" in error.hint


def test_an_expert_named_twice_is_refused(tmp_path: Path) -> None:
    base = of_family(tmp_path, "mixtral")
    stored = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    live = sites_for("mixtral").place_of(stored).name
    refusal(
        GeometryError,
        lambda: import_file(written(tmp_path, {stored: [0], live: [1]}), base=base, base_name="x"),
        f"expected each matrix once, got {stored} again under another name",
    )


def test_without_a_base_it_says_what_it_is_and_is_bound_later(
    tmp_path: Path, base: Identified
) -> None:
    path = written(tmp_path, {V: [2, 1], Q: [5]})
    made = import_file(path)
    assert isinstance(made, Unbound)
    folder = write_unbound(made, tmp_path / "unbound")
    assert describe_unbound(folder)["contents"] == {
        "form": "mask", "rule": IMPORTED_RULE, "selected": "3 weights", "parameters": 2,
        "first": Q, "last": V,
    }  # fmt: skip
    assert selected(body_of(folder, base)) == selected(body_of(path, base)) == {Q: [5], V: [1, 2]}


def tensors_of(path: Path) -> dict[str, Any]:
    made = import_file(path)
    assert isinstance(made, Unbound)
    return made.tensors()


def test_indices_take_four_bytes_each_where_the_last_fits(tmp_path: Path) -> None:
    for last, dtype in ((1 << 32) - 1, "uint32"), (1 << 32, "int64"):
        tensors = tensors_of(written(tmp_path, {Q: [last, 5, 70_000], V: [3]}))
        assert tensors["indices"].dtype == dtype
        assert parse_imported(tensors).indices[Q].tolist() == [5, 70_000, last]


def test_tensors_of_an_unbound_import_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    good = tensors_of(written(tmp_path, {Q: [1, 2], V: [3]}))
    assert parse_imported(good).selected == 3
    i8, u4 = np.int64, np.uint32
    cases: list[tuple[dict[str, Any], str]] = [
        ({"counts": np.array([2, 2], i8)}, "counts: expected a sum of 3, each above 0"),
        ({"counts": np.array([3, 0], i8)}, "counts: expected a sum of 3, each above 0"),
        ({"counts": np.array([3], i8)}, "names: expected 1 different texts in order"),
        ({"indices": np.array([2, 1, 3], u4)}, f"{Q!r}: expected sorted indices, got others"),
        ({"indices": np.array([1, 1, 3], u4)}, f"{Q!r}: expected each index once, got 1 again"),
        ({"more": good["counts"]}, "more: expected None, got ('int64', 1)"),
        (
            {"indices": np.array([1, 2, 3], np.int32)},
            "indices: expected ('uint32', 1), got ('int32', 1)",
        ),
        (
            {"indices": np.array([-1, 1, 3], i8)},
            f"{Q!r}: expected no padding, got -1 1 times: fewer weights were found",
        ),
    ]
    for change, said in cases:
        refusal(
            SchemaViolationError,
            lambda change=change: parse_imported(good | change),
            "expected the tensors of an imported mask, 1 rule(s) are broken.",
            said,
        )
    names = np.frombuffer(b"[1", np.uint8)
    refusal(UnsafeFormatError, lambda: parse_imported(good | {"names": names}), "names")


def test_a_base_that_changed_since_it_was_read_is_refused(tmp_path: Path, base: Identified) -> None:
    config = llama_config(tie_word_embeddings=False)
    write_checkpoint(base.path, config, make_tensors(config, seed=5))
    refusal(
        DigestMismatchError,
        lambda: import_file(written(tmp_path, {Q: [0]}), base=base, base_name="tiny"),
        "the files changed since they were read.",
    )


def test_an_imported_body_that_claims_a_measurement_is_refused(
    tmp_path: Path, base: Identified
) -> None:
    body = body_of(written(tmp_path, {Q: [0, 1]}), base)
    document = body.to_manifest()
    numel = read_record(base.path).numel
    assert count_findings(document, body.matrices, numel) == []
    claims = {"score": {"name": "x"}, "mass": [], "coverage": [], "rho": 0.5}
    for name, value in claims.items():
        findings = count_findings(document | {name: value}, body.matrices, numel)
        assert [finding.partition(":")[0] for finding in findings] == [name]
        assert "of an imported mask, got" in findings[0]
