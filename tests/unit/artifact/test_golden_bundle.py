"""Wire format v2, frozen: the same values give these bytes, and these bytes give these values.

A changed byte here is a changed format: old bundles would get other digests. Then the next version
gets a folder of its own; these are never edited. ``v1`` is what was written before the first release
(docs/decisions/0006); it is refused. Made once by ``python tests/unit/artifact/<this file>``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pytest
from support.tiny_models import Tensor, llama_config, tensor_shapes, write_checkpoint

from registry.artifact.bundle import Bundle, make_bundle, read_bundle, write_bundle
from registry.artifact.manifest import BaseIdentity, Manifest
from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.errors import UnsupportedSchemaVersionError
from registry.kinds import parse_body
from registry.kinds.safety_lock.body import LockBody

GOLDEN = Path(__file__).parents[2] / "golden" / "v2" / "safety-lock"
BEFORE = GOLDEN.parents[1] / "v1" / "safety-lock"
WEIGHTS = "blake3:45e943119e69cbcc0cf3d0969228da1926a3d2fa704e71f4cfae48f7019ad29d"
ARTIFACT = "blake3:dabdec280348b2ca56b7d1692fea0cb5d98f2e2de9c27f3ebd94ad9603c31d3b"


def golden_record(folder: Path) -> BaseRecord:
    config = llama_config()
    tensors: dict[str, Tensor] = {}
    for number, (name, shape) in enumerate(sorted(tensor_shapes(config).items())):
        count = int(np.prod(shape))
        bits = ((np.arange(count, dtype=np.uint64) * 40503 + number * 977) % 2048 + 15360).astype(
            "<u2"
        )
        tensors[name] = Tensor("BF16", shape, bits.tobytes())
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


def test_the_same_values_give_the_frozen_bytes(tmp_path: Path) -> None:
    made = golden_bundle(tmp_path / "model")
    for name, data in made.files.items():
        assert data == (GOLDEN / name).read_bytes(), f"{name} has other bytes than format v2"


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
    with tempfile.TemporaryDirectory() as work:
        golden = golden_bundle(Path(work) / "model")
    write_bundle(golden, GOLDEN)
    print("WEIGHTS  =", golden.manifest.base_weights)
    print("ARTIFACT =", golden.manifest.digest)
