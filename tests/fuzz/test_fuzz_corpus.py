"""Every input that a fuzzer started from or found, checked without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import fuzz_manifest
import fuzz_tensorfile
import pytest

CORPUS = Path(__file__).parent / "corpus"
TARGETS = {"tensorfile": fuzz_tensorfile.check, "manifest": fuzz_manifest.check}
INPUTS = [path for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_is_accepted_as_its_name_says(path):
    assert TARGETS[path.parent.name](path.read_bytes()) == path.name.startswith("valid-")
