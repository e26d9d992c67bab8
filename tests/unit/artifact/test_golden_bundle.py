"""Wire format v2, frozen: the same values give these bytes, and these bytes give these values.

A changed byte here is a changed format: old bundles would get other digests. Then the next version
gets a folder of its own; these are never edited. ``v1`` is what was written before the first release
(docs/decisions/0006); it is refused. Made once by ``python tests/unit/artifact/<this file>``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pytest
from support.tiny_models import Tensor, llama_config, tensor_shapes, write_checkpoint

from registry.artifact.bundle import Bundle, make_bundle, read_bundle, write_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.errors import UnsupportedSchemaVersionError
from registry.kinds import parse_body
from registry.kinds.esi_mask._matrices import matrices, selection_size
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._values import gather_values
from registry.kinds.esi_mask.body import MaskBody
from registry.kinds.safety_layers.body import LayersBody
from registry.kinds.safety_lock.body import LockBody

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.kinds.esi_mask._matrices import Matrix

GOLDEN = Path(__file__).parents[2] / "golden" / "v2" / "safety-lock"
LAYERS = GOLDEN.with_name("safety-layers")
MASK = GOLDEN.with_name("esi-mask")
BEFORE = GOLDEN.parents[1] / "v1" / "safety-lock"
WEIGHTS = "blake3:45e943119e69cbcc0cf3d0969228da1926a3d2fa704e71f4cfae48f7019ad29d"
ARTIFACT = "blake3:dabdec280348b2ca56b7d1692fea0cb5d98f2e2de9c27f3ebd94ad9603c31d3b"
LAYERS_WEIGHTS = "blake3:f3f4c5d3f12429adbe4e891bce9c48e1e32646eed6dd9e50886d003fe70cc953"
LAYERS_ARTIFACT = "blake3:da7ba248294c7136107f197d7c6029acc8abc6a16bdc2cf5c60f58e8520454a1"
LAYERS_CONTENT = "blake3:81b41ee7d0bc411688cdf668033a6ddfe246441affda00ed79139f4ce05e8c9e"
"""Digest of what the range puts on a model."""
MASK_ARTIFACT = "blake3:694ee6532fd30963e884d9f7ba0e6238cc6a1b5549633cf14998e91e9339a572"
MASK_CONTENT = "blake3:958cc08517806173a8e7b8915ee0bba011670bb8dbecd91dee39b71d3ef049eb"
"""Digest of what the mask is of, whichever zstd packed it."""


def golden_tensors(**changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = llama_config(**changes)
    tensors: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(sorted(tensor_shapes(config).items())):
        count = int(np.prod(shape))
        bits = ((np.arange(count, dtype=np.uint64) * 40503 + number * 977) % 2048 + 15360).astype(
            "<u2"
        )
        tensors[name] = Tensor("BF16", shape, bits.tobytes())
    return config, tensors


def golden_record(folder: Path, **changes: Any) -> BaseRecord:
    config, tensors = golden_tensors(**changes)
    write_checkpoint(folder, config, tensors)
    with Checkpoint.open(folder) as checkpoint:
        return fingerprint(checkpoint)


def golden_bundle(folder: Path) -> Bundle:
    record = golden_record(folder)
    directions = np.zeros((2, record.geometry.head_dim), dtype=np.float32)
    directions[0, 0], directions[1, 1], directions[1, 2] = 1.0, 0.6, -0.8
    body = LockBody(
        heads=((1, 3), (0, 0)),
        directions=directions,
        sigma=np.array([0.5, 0.25], dtype=np.float32),
        head_dim=record.geometry.head_dim,
        alpha=1.5,
        alpha_range=(0.0, 2.0),
        answer_tokens=5,
        shift_norms=(0.125, 2.5),
        probe={
            "method": "golden",
            "folds": 5,
            "repeats": 1,
            "accuracy": [1, 0.9375],
            "standard_error": [0, 1e-7],
            "median_accuracy": 0.5,
        },
    )
    manifest = Manifest(
        kind="safety-lock",
        name="golden",
        version="1.0",
        created="2026-11-21T00:00:00Z",
        base=BaseIdentity("a bäse \u2603", record.weights, record.config_digest, None, None),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "0.1.0"}, "seed": 7, "data": []},
        receipts=({"type": "extraction", "created": "2026-11-21T00:00:00Z", "pairs_used": 2},),
        license="CC0-1.0",
    )
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


SWEEP = (
    ("baseline", None, None, 1.0, 1), ("alpha", 1, 2, 0.8, 0), ("alpha", 1, 2, 1.25, 10),
    ("upper", 1, 1, 1.25, 4), ("upper", 1, 2, 1.25, 10), ("upper", 1, 3, 1.25, 7),
    ("lower", 0, 2, 1.25, 6), ("lower", 1, 2, 1.25, 10), ("lower", 2, 2, 1.25, 5),
    ("control", 0, 1, 1.25, 1), ("control", 2, 3, 1.25, 2),
)  # fmt: skip
"""Step, first, last, alpha and refused, of 12 prompts."""


def golden_layers(folder: Path) -> Bundle:
    record = golden_record(folder, num_hidden_layers=4)
    members = ("step", "first", "last", "alpha", "refused")
    rising, flat = [0.5, 8.25, 30.0, 31.0], [0.25, 1.0, 1.5, 2.0]
    cosines = {"mean": [0.9375, 0.875, 0.5, 0.4375], "std": [0.125, 0.0625, 1e-7, 0.0]}
    rows = {"version": "1", "digest": WEIGHTS, "split": "make", "rows": 12}
    body = LayersBody(
        first=1,
        last=2,
        layers=4,
        family="llama",
        norms="trainable",
        measurement={
            "template": {"name": "chat template", "digest": None},
            "scorer": "opening/1",
            "max_new_tokens": 16,
            "prompts": {name: rows | {"name": name} for name in ("harmful", "harmless", "scary")},
            "n": 12,
            "curves": dict.fromkeys(("harmless", "harmful", "between"), cosines),
            "gap": {"degrees": rising, "low": flat, "high": rising, "paper": flat},
            "controls": {
                name: {"degrees": flat, "low": flat, "high": flat} for name in ("form", "scary")
            },
            "initial": {"first": 1, "last": 2, "rule": "by hand", "from_curves": True},
            "scaling": {
                "mode": "weights",
                "alpha": 1.25,
                "attention_output": False,
                "rule": "by hand",
            },
            "points": [dict(zip(members, row, strict=True)) for row in SWEEP],
            "resampled": {
                "resamples": 4,
                "first": [{"value": 1, "share": 1.0}],
                "last": [{"value": 2, "share": 0.75}, {"value": 3, "share": 0.25}],
            },
            "effect": {
                "baseline": 1,
                "range": 10,
                "p": 2 / 2**9,
                "control": {"first": 2, "last": 3, "refused": 2},
                "control_p": 2 / 2**8,
            },
            "seed": 7,
        },
        refused=np.array([[n < row[-1] for n in range(12)] for row in SWEEP], dtype=np.uint8),
    )
    manifest = Manifest(
        kind="safety-layers",
        name="golden-layers",
        version="1.0",
        created="2026-11-21T00:00:00Z",
        base=BaseIdentity("a bäse \u2603", record.weights, record.config_digest, None, None),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "0.1.0"}, "seed": 7, "data": []},
        license="CC0-1.0",
    )
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


def golden_mask(folder: Path) -> Bundle:
    """Return a mask of every 100th weight, counted through the matrices by their names."""
    record, (_, tensors) = golden_record(folder), golden_tensors()
    candidates = matrices(record.entries, sites_for("llama"), record.geometry)
    numels = {matrix.name: matrix.numel for matrix in candidates}
    ends = np.cumsum(list(numels.values()))
    places = np.arange(selection_size(0.01, candidates), dtype=np.int64) * 100
    selected = {
        name: places[(end - numels[name] <= places) & (places < end)] - (end - numels[name])
        for name, end in zip(numels, ends, strict=True)
    }
    mask = pack(selected, numels, what="golden")

    def read(matrix: Matrix, indices: np.ndarray) -> bytes:
        return np.frombuffer(tensors[matrix.tensor].data, "<u2")[indices].tobytes()

    values, digests = gather_values(candidates, mask, read)
    rows = sorted((-1 if m.layer is None else m.layer, m.component, m.name) for m in candidates)
    score = {"name": "golden", "version": 1, "unit": "nats per answer token", "judge": None}
    body = MaskBody(
        matrices=candidates,
        mask=mask,
        rho=0.01,
        family="llama",
        score=score | {"pairs": 12, "mean": 1e-7, "seed": 7},
        digests=digests,
        values=values,
        stability={"pairs": [6, 6], "jaccard": 0.25, "chance": 0.0078125},
        mass=tuple(
            {
                "layer": None if layer < 0 else layer,
                "component": component,
                "weights": numels[name],
                "selected": mask.counts[name],
                "sum": 0.5 * (1 + layer) * numels[name],
                "selected_sum": 0.25 * (1 + layer) * mask.counts[name],
            }
            for layer, component, name in rows
        ),
    )
    manifest = Manifest(
        kind="esi-mask",
        name="golden-mask",
        version="1.0",
        created="2026-11-21T00:00:00Z",
        base=BaseIdentity("a bäse \u2603", record.weights, record.config_digest, None, None),
        geometry=record.geometry.to_dict(),
        body=body.to_manifest(),
        files={},
        provenance={"tool": {"safelatch": "0.1.0"}, "seed": 7, "data": []},
        license="CC0-1.0",
    )
    return make_bundle(manifest, body.to_tensors(), record.to_tensors())


MADE = [(golden_bundle, GOLDEN), (golden_layers, LAYERS)]


@pytest.mark.parametrize(("make", "golden"), MADE, ids=("safety-lock", "safety-layers"))
def test_the_same_values_give_the_frozen_bytes(
    tmp_path: Path, make: Callable[[Path], Bundle], golden: Path
) -> None:
    made = make(tmp_path / "model")
    for name, data in made.files.items():
        assert data == (golden / name).read_bytes(), f"{name} has other bytes than format v2"


def test_the_same_mask_is_the_frozen_one_whichever_zstd_packs_it(tmp_path: Path) -> None:
    made, frozen = golden_mask(tmp_path / "model"), read_bundle(MASK)
    assert made.files["base.safetensors"] == (MASK / "base.safetensors").read_bytes()
    assert made.manifest.body == frozen.manifest.body
    for name in ("digests", "values"):
        assert np.array_equal(made.tensors()[name], frozen.tensors()[name])
    assert parse_body(made).content == MASK_CONTENT


def test_the_frozen_bytes_give_the_frozen_digests_and_values() -> None:
    bundle = read_bundle(GOLDEN)
    body = parse_body(bundle)
    assert bundle.manifest.digest == ARTIFACT
    assert bundle.manifest.base_weights == WEIGHTS
    assert BaseRecord.from_tensors(bundle.base_tensors()).weights == WEIGHTS
    assert bundle.manifest.base.name == "a bäse \u2603"
    assert body.heads == ((1, 3), (0, 0))
    assert [round(float(value), 6) for value in body.directions[1][:3]] == [0, 0.6, -0.8]
    assert (body.alpha, body.alpha_range, body.sigma.tolist()) == (1.5, (0.0, 2.0), [0.5, 0.25])


def test_the_frozen_layers_give_the_frozen_digests_and_values() -> None:
    bundle = read_bundle(LAYERS)
    body = parse_body(bundle)
    assert bundle.manifest.digest == LAYERS_ARTIFACT
    assert bundle.manifest.base_weights == LAYERS_WEIGHTS
    assert (body.first, body.last, body.layers, body.norms) == (1, 2, 4, "trainable")
    assert body.refused.sum(axis=1).tolist() == [row[-1] for row in SWEEP]
    assert body.measurement["curves"]["between"]["std"] == [0.125, 0.0625, 1e-7, 0]
    assert len(body.protected) == 2 * 7
    assert body.protected[0].name == "model.layers.1.mlp.down_proj.weight"
    assert body.content == LAYERS_CONTENT


def test_the_frozen_mask_gives_the_frozen_digests_and_values() -> None:
    bundle = read_bundle(MASK)
    body = parse_body(bundle)
    assert bundle.manifest.digest == MASK_ARTIFACT
    assert bundle.manifest.base_weights == WEIGHTS
    assert body.content == MASK_CONTENT
    assert (body.form, body.rho, body.score["mean"]) == ("mask", 0.01, 1e-7)
    assert body.selected == body.weights // 100
    first = body.matrices[0]
    _, tensors = golden_tensors()
    raw = np.frombuffer(tensors[first.tensor].data, "<u2")
    assert body.indices(first.name).tolist() == list(range(0, first.numel, 100))
    assert body.base_values()[first.name].tobytes() == raw[::100].tobytes()


def test_a_bundle_from_before_the_first_release_is_refused_with_the_way_out() -> None:
    bundle = read_bundle(BEFORE)
    with pytest.raises(UnsupportedSchemaVersionError) as caught:
        BaseRecord.from_tensors(bundle.base_tensors())
    assert caught.value.message == (
        "base record: expected samples {'version': 2}, got {'per_tensor': 1024, 'version': 1}."
    )
    assert caught.value.hint is not None
    assert "Measure the base again" in caught.value.hint


if __name__ == "__main__":
    for make_golden, place in (*MADE, (golden_mask, MASK)):
        with tempfile.TemporaryDirectory() as work:
            golden = make_golden(Path(work) / "model")
        write_bundle(golden, place)
        print(place.name, "WEIGHTS  =", golden.manifest.base_weights)
        print(place.name, "ARTIFACT =", golden.manifest.digest)
