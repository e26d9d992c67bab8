"""What a body of an ESI mask may say: each rule is broken once, alone, and said by its own line."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.locks import CREATED, read_record
from support.refusals import refusal
from support.tiny_models import (
    FAMILIES,
    llama_config,
    make_tensors,
    save_with_transformers,
    write_checkpoint,
)

from registry.artifact.bundle import Bundle, make_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.values import item_size
from registry.digest import digest_bytes
from registry.errors import (
    SafelatchError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)
from registry.kinds import parse_body
from registry.kinds.esi_mask._matrices import matrices, selection_size
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._topk import select
from registry.kinds.esi_mask._values import gather_values
from registry.kinds.esi_mask.body import MaskBody

if TYPE_CHECKING:
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.esi_mask._matrices import Matrix

RHO = 0.01
V = "model.layers.1.self_attn.v_proj.weight"
SCORE = {
    "name": "refusal-log-odds", "version": 1, "unit": "nats per answer token", "judge": None,
    "pairs": 5, "mean": 0.25, "seed": 7,
}  # fmt: skip
TRAINED = {
    "steps": 100, "optimizer": "AdamW", "learning_rate": 3e-5, "weight_decay": 0.01,
    "data": digest_bytes(b"data"), "seed": 7,
}  # fmt: skip


def scored(candidates: tuple[Matrix, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {m.name: random.random(m.numel, dtype=np.float32) for m in candidates}


def make_body(folder: Path, *, rho: float = RHO, **changes: Any) -> MaskBody:
    """Return a mask of random scores, with the base's values and every receipt there is."""
    record = read_record(folder)
    candidates = matrices(record.entries, sites_for(record.geometry.family), record.geometry)
    scores = scored(candidates)
    selected = select(lambda: sorted(scores.items()), selection_size(rho, candidates))
    mask = pack(selected, {m.name: m.numel for m in candidates}, what="test")
    with Checkpoint.open(folder) as base:

        def read(matrix: Matrix, indices: np.ndarray) -> bytes:
            raw = np.frombuffer(base.read(matrix.tensor), f"<u{item_size(matrix.dtype)}")
            return raw[matrix.in_tensor(indices)].tobytes()

        values, digests = gather_values(candidates, mask, read)
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for matrix in candidates:
        place = (-1 if matrix.layer is None else matrix.layer, matrix.component)
        empty = {"layer": matrix.layer, "component": matrix.component, "weights": 0, "selected": 0}
        row = rows.setdefault(place, {**empty, "sum": 0.0, "selected_sum": 0.0})
        row["weights"] += matrix.numel
        row["selected"] += selected[matrix.name].size
        row["sum"] += float(scores[matrix.name].sum())
        row["selected_sum"] += float(scores[matrix.name][selected[matrix.name]].sum())
    experts = {
        layer: 1 + max(m.expert for m in candidates if m.layer == layer and m.expert is not None)
        for layer in {m.layer for m in candidates if m.expert is not None}
    }
    body = MaskBody(
        matrices=candidates,
        mask=mask,
        rho=rho,
        family=record.geometry.family,
        score=SCORE,
        digests=digests,
        values=values,
        stability={"pairs": [3, 2], "jaccard": 0.5, "chance": 0.005},
        coverage=tuple(
            {"layer": layer, "tokens": [9] * (count - 1) + [0]}
            for layer, count in sorted(experts.items())
        )
        or None,
        mass=tuple(rows[place] for place in sorted(rows)),
    )
    return replace(body, **changes)


def bundled(record: BaseRecord, body: MaskBody) -> Bundle:
    manifest = Manifest(
        kind="esi-mask",
        created=CREATED,
        base=BaseIdentity(
            name="tiny-base", weights=record.weights, config=record.config_digest,
            tokenizer=record.tokenizer, chat_template=record.chat_template,
        ),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "test"}, "seed": 7, "data": []},
    )  # fmt: skip
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


@cache
def dense() -> tuple[BaseRecord, MaskBody]:
    """Return a Llama with a head of its own, and its mask; v_proj of layer 1 has BF16 weights."""
    config = llama_config(tie_word_embeddings=False)
    tensors = make_tensors(config)
    tensors[V] = make_tensors(config, dtype="BF16")[V]
    with TemporaryDirectory() as folder:
        base = write_checkpoint(Path(folder) / "base", config, tensors)
        return read_record(base), make_body(base)


@cache
def mixture() -> tuple[BaseRecord, MaskBody]:
    with TemporaryDirectory() as folder:
        config = {"model_type": "mixtral", **FAMILIES["mixtral"]}
        base = save_with_transformers(Path(folder) / "base", config)
        return read_record(base), make_body(base)


def changed_delta(body: MaskBody) -> MaskBody:
    """Return a delta whose new values are the base's with one bit flipped in each."""
    new = body.values.copy()  # type: ignore[union-attr]
    sizes = [item_size(m.dtype) for m in body.matrices for _ in range(body.counts[m.name])]
    new[np.cumsum([0, *sizes[:-1]])] ^= 1
    return replace(body, form="delta", new_values=new, delta=TRAINED)


@cache
def good() -> Bundle:
    return bundled(*dense())


@cache
def good_delta() -> Bundle:
    record, body = dense()
    return bundled(record, changed_delta(body))


def changed(*path: Any, to: Any, bundle: Bundle | None = None) -> Bundle:
    """Return the bundle with one member of its body exchanged, digests fresh."""
    bundle = good() if bundle is None else bundle
    document = copy.deepcopy(dict(bundle.manifest.body))
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    manifest = replace(bundle.manifest, body=document)
    return make_bundle(manifest, bundle.tensors(), bundle.base_tensors())


def with_tensors(bundle: Bundle | None = None, **tensors: Any) -> Bundle:
    """Return the bundle with these tensors, ``None`` for one that is left out."""
    bundle = good() if bundle is None else bundle
    every = {**bundle.tensors(), **tensors}
    kept = {name: array for name, array in every.items() if array is not None}
    return make_bundle(bundle.manifest, kept, bundle.base_tensors())


def violations(bundle: Bundle) -> list[str]:
    error = refusal(SchemaViolationError, lambda: parse_body(bundle))
    assert isinstance(error, SchemaViolationError)
    return error.violations


def member(*path: Any, bundle: Bundle | None = None) -> Any:
    inner: Any = (good() if bundle is None else bundle).manifest.body
    for step in path:
        inner = inner[step]
    return inner


def start_of(name: str) -> int:
    """Return where the values of a matrix begin in ``values``."""
    _, body = dense()
    before = [m for m in body.matrices if m.name < name]
    return sum(body.counts[m.name] * item_size(m.dtype) for m in before)


# What is read back


@pytest.mark.parametrize("made", [dense, mixture])
def test_a_body_is_read_back_as_it_was_made(made: Any) -> None:
    record, body = made()
    read = parse_body(bundled(record, body))
    assert (read.rho, read.form, read.family) == (body.rho, "mask", body.family)
    assert (read.matrices, read.score, read.stability) == (
        body.matrices, SCORE, body.stability
    )  # fmt: skip
    assert (read.mass, read.coverage) == (body.mass, body.coverage)
    assert read.counts == body.counts
    assert read.selected == body.selected == selection_size(RHO, body.matrices)
    for name in read.counts:
        assert np.array_equal(read.indices(name), body.indices(name))
    assert np.array_equal(read.values, body.values)
    assert read.to_manifest() == body.to_manifest()
    assert read.content == body.content


def test_values_are_the_base_s_at_the_selected_places_in_its_dtype() -> None:
    _, body = dense()
    tensors = make_tensors(llama_config(tie_word_embeddings=False))
    bf16 = make_tensors(llama_config(tie_word_embeddings=False), dtype="BF16")
    values = parse_body(good()).base_values()
    assert values.keys() == body.counts.keys()
    for name, raw in values.items():
        tensor = bf16[name] if name == V else tensors[name]
        bits = np.frombuffer(tensor.data, "<u2" if name == V else "<u4")
        assert raw.tobytes() == bits[body.indices(name)].tobytes()
        assert body.selected_digest(name) == digest_bytes(raw.tobytes())


def test_a_mask_without_values_keeps_their_digests() -> None:
    record, body = dense()
    read = parse_body(bundled(record, replace(body, values=None)))
    assert (read.values, read.base_values(), read.put_values()) == (None, {}, {})
    assert read.selected_digest(V) == body.selected_digest(V)
    assert read.content == body.content


def test_a_delta_has_new_values_for_what_its_mask_names() -> None:
    read, (_, body) = parse_body(good_delta()), dense()
    assert (read.form, read.delta) == ("delta", TRAINED)
    for name, raw in read.put_values().items():
        old = body.base_values()[name]
        assert raw.size == old.size
        assert np.count_nonzero(raw != old) == body.counts[name]
    assert read.content != body.content


def test_a_mask_is_described() -> None:
    record, body = dense()
    assert parse_body(good()).describe() == {
        "form": "mask",
        "selected": "460 of 46,080 weights (1.00%)",
        "matrices": "15 of 15",
        "score": "refusal-log-odds",
        "pairs": 5,
        "halves_jaccard": 0.5,
        "halves_jaccard_by_chance": 0.005,
        "values": "the base's are in the bundle",
    }
    judge = {
        "name": "guard", "weights": None, "chat_template": digest_bytes(b"t"),
        "verdicts": {"safe": "safe", "unsafe": "unsafe"}, "estimator": "one",
    }  # fmt: skip
    bare = replace(body, values=None, stability=None, score={**SCORE, "judge": judge})
    described = parse_body(bundled(record, bare)).describe()
    assert described["judge"] == "guard"
    assert described["values"] == "left out"
    assert "halves_jaccard" not in described
    assert parse_body(bundled(*mixture())).describe()["experts_without_tokens"] == 2


# Every rule


def test_a_body_of_another_version_is_unsupported() -> None:
    other = changed("schema", to="safelatch/esi-mask/v2")
    refusal(UnsupportedSchemaVersionError, lambda: parse_body(other), "esi-mask/v2")


def other_digest() -> str:
    return digest_bytes(b"another")


BROKEN: dict[str, tuple[Any, Any]] = {
    "another rule of candidates": (
        lambda: changed("rule", to="all/1"),
        lambda: [
            (
                "rule: expected 'layer matrices and a stored head, without routers/1' as the base "
                "has, got 'all/1'"
            )
        ],
    ),
    "more matrices than the base has": (
        lambda: changed("candidates", "matrices", to=16),
        lambda: ["candidates.matrices: expected 15 as the base has, got 16"],
    ),
    "more weights than the base has": (
        lambda: changed("candidates", "weights", to=46_081),
        lambda: ["candidates.weights: expected 46080 as the base has, got 46081"],
    ),
    "a count that is not the stated share": (
        lambda: changed("selected", to=461),
        lambda: ["selected: expected 460 as the base has, got 461"],
    ),
    "a share that is not the count": (
        lambda: changed("rho", to=0.02),
        lambda: ["selected: expected 921 as the base has, got 460"],
    ),
    "a share of no weight": (
        lambda: changed("selected", to=0, bundle=changed("rho", to=1e-9)),
        lambda: ["rho: expected a share of at least one weight, got 1e-09"],
    ),
    "the digest of another mask": (
        lambda: changed("mask", to=other_digest()),
        lambda: [f"mask: expected digest {other_digest()}, got {member('mask')}"],
    ),
    "halves of other pairs": (
        lambda: changed("stability", "pairs", to=[3, 3]),
        lambda: ["stability.pairs: expected 5 in both halves, got [3, 3]"],
    ),
    "a component without a row of mass": (
        lambda: changed("mass", to=member("mass")[1:]),
        lambda: ["mass: expected a row for each of 15 components, in order"],
    ),
    "rows of mass in another order": (
        lambda: changed("mass", to=member("mass")[::-1]),
        lambda: ["mass: expected a row for each of 15 components, in order"],
    ),
    "a row of mass of other weights": (
        lambda: changed("mass", 0, "weights", to=1),
        lambda: [
            (
                "mass: lm_head of layer None: expected weights and selected "
                f"(4608, {member('mass', 0, 'selected')}), got (1, {member('mass', 0, 'selected')})"
            )
        ],
    ),
    "a row of mass that counts what the mask does not": (
        lambda: changed("mass", 3, "selected", to=0),
        lambda: [
            (
                "mass: mlp.up_proj of layer 0: expected weights and selected "
                f"(3840, {member('mass', 3, 'selected')}), got (3840, 0)"
            )
        ],
    ),
    "more mass selected than there is": (
        lambda: changed("mass", 3, "selected_sum", to=12345.5),
        lambda: [
            (
                "mass: mlp.up_proj of layer 0: expected a selected sum of at most "
                f"{member('mass', 3, 'sum')!r}, got 12345.5"
            )
        ],
    ),
    "experts of a model that has none": (
        lambda: changed("coverage", to=[{"layer": 0, "tokens": [1, 2]}]),
        lambda: ["coverage: expected (layer, experts) [], got [(0, 2)]"],
    ),
    "a layer whose experts are left out": (
        lambda: changed(
            "coverage", to=[{"layer": 0, "tokens": [1, 2, 3]}], bundle=bundled(*mixture())
        ),
        lambda: ["coverage: expected (layer, experts) [(0, 3), (1, 3)], got [(0, 3)]"],
    ),
    "a tensor nobody asked for": (
        lambda: with_tensors(more=np.zeros(1, np.uint8)),
        lambda: ["unexpected tensor 'more'"],
    ),
    "new values of a mask": (
        lambda: with_tensors(new_values=good().tensors()["values"]),
        lambda: ["unexpected tensor 'new_values'"],
    ),
    "values that were not announced": (
        lambda: changed("values", to=False),
        lambda: ["unexpected tensor 'values'"],
    ),
    "values that are not there": (
        lambda: with_tensors(values=None),
        lambda: ["values: expected uint8 [bytes], got nothing"],
    ),
    "a delta without new values": (
        lambda: with_tensors(good_delta(), new_values=None),
        lambda: ["new_values: expected uint8 [bytes], got nothing"],
    ),
    "no table": (
        lambda: with_tensors(table=None),
        lambda: ["table: expected uint64 [15, 3], got nothing"],
    ),
    "a table of signed numbers": (
        lambda: with_tensors(table=good().tensors()["table"].astype(np.int64)),
        lambda: ["table: expected uint64 [15, 3], got int64 [15, 3]"],
    ),
    "a table of fewer rows": (
        lambda: with_tensors(table=good().tensors()["table"][:-1]),
        lambda: ["table: expected uint64 [15, 3], got uint64 [14, 3]"],
    ),
    "frames in two dimensions": (
        lambda: with_tensors(frames=good().tensors()["frames"][None]),
        lambda: [f"frames: expected uint8 [bytes], got uint8 [1, {good().tensors()['frames'].size}]"],
    ),
    "digests of fewer bytes": (
        lambda: with_tensors(digests=good().tensors()["digests"][:, :16].copy()),
        lambda: ["digests: expected uint8 [15, 32], got uint8 [15, 16]"],
    ),
    "values as floats": (
        lambda: with_tensors(values=np.zeros(460, np.float32)),
        lambda: ["values: expected uint8 [bytes], got float32 [460]"],
    ),
    "one value too few": (
        lambda: with_tensors(values=good().tensors()["values"][:-4]),
        lambda: [f"values: expected {size():,} bytes, got {size() - 4:,}"],
    ),
    "one new value too many": (
        lambda: with_tensors(good_delta(), new_values=np.zeros(size() + 4, np.uint8)),
        lambda: [f"new_values: expected {size():,} bytes, got {size() + 4:,}"],
    ),
}  # fmt: skip


def size() -> int:
    return int(good().tensors()["values"].size)


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_that_is_broken_is_one_finding(broken: str) -> None:
    bundle, expected = (make() for make in BROKEN[broken])
    assert violations(bundle) == expected


def test_all_findings_come_at_once() -> None:
    bundle = changed("candidates", "weights", to=1, bundle=changed("selected", to=1))
    without = make_bundle(
        bundle.manifest,
        {k: v for k, v in bundle.tensors().items() if k != "values"},
        bundle.base_tensors(),
    )
    assert violations(without) == [
        "candidates.weights: expected 46080 as the base has, got 1",
        "selected: expected 460 as the base has, got 1",
        "values: expected uint8 [bytes], got nothing",
    ]


def test_a_value_that_is_not_the_base_s_is_found_in_its_matrix() -> None:
    values = good().tensors()["values"].copy()
    values[start_of(V)] ^= 1
    _, body = dense()
    got = digest_bytes(values[start_of(V) :][: 2 * body.counts[V]].tobytes())
    assert violations(with_tensors(values=values)) == [
        f"values: {V}: expected digest {body.selected_digest(V)}, got {got}"
    ]


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1], ids=["infinity", "minus", "nan"])
def test_new_values_that_are_not_finite_are_found_in_bf16(bits: int) -> None:
    new = good_delta().tensors()["new_values"].copy()
    new[start_of(V) :][:2] = [bits & 0xFF, bits >> 8]
    assert violations(with_tensors(good_delta(), new_values=new)) == [
        f"new_values: {V}: 1 not finite"
    ]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_new_values_that_are_not_finite_are_found_in_f32(value: float) -> None:
    new = good_delta().tensors()["new_values"].copy()
    new[:4] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
    assert violations(with_tensors(good_delta(), new_values=new)) == [
        "new_values: lm_head.weight: 1 not finite"
    ]


def test_the_largest_finite_value_is_one() -> None:
    new = good_delta().tensors()["new_values"].copy()
    new[:4] = np.frombuffer(np.float32(np.finfo(np.float32).max).tobytes(), np.uint8)
    assert parse_body(with_tensors(good_delta(), new_values=new)).form == "delta"


def few(rho: float) -> tuple[BaseRecord, MaskBody]:
    """Return a mask so small that most matrices have no weight in it."""
    with TemporaryDirectory() as folder:
        base = write_checkpoint(Path(folder) / "base", llama_config())
        return read_record(base), make_body(base, rho=rho)


def test_a_matrix_without_selected_weights_has_the_digest_of_no_values() -> None:
    record, body = few(1e-4)
    row = next(n for n, m in enumerate(body.matrices) if not body.counts[m.name])
    assert parse_body(bundled(record, body)).selected == 4
    digests = body.digests.copy()
    digests[row] = 0
    assert violations(bundled(record, replace(body, digests=digests))) == [
        f"digests: {body.matrices[row].name}: expected that of no values, got blake3:{'0' * 64}"
    ]


def test_a_mask_with_more_weights_than_it_says_is_refused() -> None:
    record, body = dense()
    numels = {m.name: m.numel for m in body.matrices}
    chosen = {name: body.indices(name) for name in body.counts}
    chosen[V] = np.unique(np.append(chosen[V], np.setdiff1d(np.arange(99), chosen[V])[:1]))
    more = pack(chosen, numels, what="test")
    tensors = {**good().tensors(), "table": more.table, "frames": more.frames}
    manifest = replace(
        good().manifest, body={**good().manifest.body, "mask": more.digest(), "mass": None}
    )
    bundle = make_bundle(manifest, tensors, record.to_tensors())
    assert violations(bundle) == ["table: expected 460 selected, got 461"]


def test_frames_of_another_mask_are_refused() -> None:
    frames = good().tensors()["frames"].copy()
    frames[frames.size // 2] ^= 0xFF
    with pytest.raises(
        (UnsafeFormatError, SchemaViolationError), match=r"zstd|mask: expected digest"
    ):
        parse_body(with_tensors(frames=frames))


def test_a_table_for_another_base_is_refused() -> None:
    """The sizes are those of the record in the bundle, whatever else the bundle says."""
    _, body = dense()
    table = body.mask.table.copy()
    table[0, 0] = 1 << 40
    error = refusal(UnsafeFormatError, lambda: parse_body(with_tensors(table=table)))
    assert "'lm_head.weight': expected at most 4,608 selected weights" in error.message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rho",), 0), (("rho",), -0.01), (("rho",), 1.5), (("rho",), "0.01"), (("rho",), True),
        (("form",), "both"), (("form",), "delta"), (("delta",), TRAINED), (("selected",), -1),
        (("selected",), 460.5), (("mask",), "blake3:0"), (("values",), 1), (("extra",), 1),
        (("score", "pairs"), 0), (("score", "judge"), {}), (("score", "extra"), 1),
        (("stability", "jaccard"), 1.5), (("stability", "pairs"), [5]), (("coverage",), []),
        (("mass",), []), (("mass", 0, "sum"), -1.0), (("mass", 0, "component"), ""),
        (("candidates", "weights"), -1),
    ],
)  # fmt: skip
def test_a_body_that_breaks_its_schema_is_refused(path: tuple[Any, ...], value: Any) -> None:
    error = refusal(SchemaViolationError, lambda: parse_body(changed(*path, to=value)))
    assert "does not follow schema esi_mask.v1" in error.message


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
JUNK = (
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text("abc", max_size=2), SCALARS)
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_body_with_any_member_exchanged_is_refused_or_read(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(good().manifest.body)))
    value = data.draw(JUNK)
    with suppress(SafelatchError):
        parse_body(changed(name, to=value))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_body_with_any_byte_of_a_tensor_flipped_is_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["table", "frames", "digests", "values"]))
    array = good().tensors()[name]
    raw = bytearray(array.tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    other = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    try:
        parse_body(with_tensors(**{name: other}))
    except (UnsafeFormatError, SchemaViolationError):
        return
    assert name == "frames", (
        "only zstd may have bits that say nothing; the mask's digest is checked"
    )
