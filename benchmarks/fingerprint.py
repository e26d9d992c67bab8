"""The full pass over a checkpoint against its limit and its peers, in one run.

    pip install -r benchmarks/requirements-fingerprint.txt
    python benchmarks/fingerprint.py --make DIR --tokenizer MODEL    # 2.5 GB at random, once
    python benchmarks/fingerprint.py DIR [--rounds 5] [--threads N]

Rounds are interleaved, so that what else runs on the machine hits every row. A row is one kind of
work over the same files, in the page cache; GB/s are of the weights. A ratio is printed of the
fastest rounds, and as the median and range of the ratio within each round. "CPU" is what all
threads of a row used together: it depends less on what else runs. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import platform
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import PIECE, Checkpoint
from registry.checkpoint.texts import tokenizer_digest

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, HIDDEN, WIDE, HEADS, GROUPS, VOCABULARY = 16, 2048, 8192, 32, 8, 128_256
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": HIDDEN // HEADS,
    "vocab_size": VOCABULARY,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
}
READ = "read, 1 thread (the limit of one)"
BLAKE3 = "blake3, {} thread(s), update_mmap"
PIECES = "blake3, {} thread(s), in pieces"
SIGNING = "model-signing, default (sha256)"
SIGNING_BLAKE3 = "model-signing, blake3"
SHA256 = "sha256, hashlib, 1 thread"
OURS = "ours, full pass, {} thread(s)"
TOKENIZER = "  tokenizer, beside the weights"


def make(folder: Path, tokenizer: Path | None, shards: int) -> None:
    """Write a Llama of 16 layers of random bf16 weights, a few megabytes in memory at a time."""
    folder.mkdir(parents=True)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    narrow = HIDDEN // HEADS * GROUPS
    for layer in range(LAYERS):
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (narrow, HIDDEN),
            "self_attn.v_proj": (narrow, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (WIDE, HIDDEN),
            "mlp.up_proj": (WIDE, HIDDEN),
            "mlp.down_proj": (HIDDEN, WIDE),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    names, random, weight_map = list(shapes), np.random.default_rng(0), {}
    for shard in range(shards):
        part = names[shard::shards]
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        file = file if shards > 1 else "model.safetensors"
        weight_map |= dict.fromkeys(part, file)
        write_shard(folder / file, {name: shapes[name] for name in part}, random)
    if shards > 1:
        total = {"total_size": 2 * sum(map(prod, shapes.values()))}
        index = {"metadata": total, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json") if tokenizer else ():
        shutil.copyfile(tokenizer / name, folder / name)


def write_shard(
    path: Path, shapes: dict[str, tuple[int, ...]], random: np.random.Generator
) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for left in map(prod, shapes.values()):
            for start in range(0, left, PIECE):
                values = random.standard_normal(min(PIECE, left - start), dtype=np.float32) * 0.02
                out.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())


def read(files: list[Path], use: Callable[[memoryview], object] | None = None) -> None:
    buffer = memoryview(bytearray(PIECE))
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if use is not None:
                    use(buffer[:count])


def read_threads(files: list[Path], threads: int) -> None:
    def part(path: Path, start: int, stop: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        with path.open("rb", buffering=0) as file:
            for place in range(start, stop, PIECE):
                os.preadv(file.fileno(), [buffer[: min(PIECE, stop - place)]], place)

    with ThreadPoolExecutor(threads) as pool:
        for path in files:
            size = path.stat().st_size
            cuts = [size * index // threads for index in range(threads + 1)]
            list(pool.map(part, [path] * threads, *zip(*pairwise(cuts), strict=True)))


def mapped(files: list[Path], threads: int) -> None:
    for path in files:
        blake3(max_threads=threads).update_mmap(path).digest()


def sha256(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256").digest()


def kinds_of_work(model: Path, threads: int) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the rows, in the order of a round, and the bytes of the weights."""
    with Checkpoint.open(model) as checkpoint:
        folder = checkpoint.folder
        files = sorted({info.path for info in checkpoint.tensors.values()})

    def ours() -> None:
        with Checkpoint.open(model) as opened:
            fingerprint(opened, threads=threads)

    rows: dict[str, Callable[[], object]] = {
        READ: lambda: read(files),
        f"read, {threads} threads": lambda: read_threads(files, threads),
        PIECES.format(1): lambda: read(files, blake3().update),
        BLAKE3.format(1): lambda: mapped(files, 1),
        BLAKE3.format(threads): lambda: mapped(files, threads),
        OURS.format(threads): ours,
        TOKENIZER: lambda: tokenizer_digest(folder),
        SHA256: lambda: sha256(files),
    }
    try:
        from model_signing import hashing
    except ImportError as error:
        print(f"model-signing is left out: {error}")
    else:
        blake = hashing.Config().use_file_serialization(hashing_algorithm="blake3")
        rows[SIGNING] = lambda: hashing.Config().hash(model)
        rows[SIGNING_BLAKE3] = lambda: blake.hash(model)
    return rows, sum(path.stat().st_size for path in files)


def machine() -> str:
    """Return what a number is worth only together with."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("blake3", "numpy"))
    now = dt.datetime.now(dt.timezone.utc)
    python = f"Python {platform.python_version()}, {packages}"
    return f"{os.cpu_count()} cores of {cpu}; {python}; {now:%F}"


def report(
    times: dict[str, list[float]], used: dict[str, list[float]], size: int, threads: int
) -> None:
    print(f"{'':38} {'best':>8} {'median':>8} {'slowest':>8} {'CPU':>8} {'GB/s':>6}")
    for name, taken in times.items():
        best, middle, worst = min(taken), statistics.median(taken), max(taken)
        rate = "" if name == TOKENIZER else f"{size / best / 1e9:6.2f}"
        print(f"{name:38} {best:7.3f}s {middle:7.3f}s {worst:7.3f}s {min(used[name]):7.3f}s {rate}")
    print("\nratio of the time of ours to          best   median of rounds (range)")
    ours = times[OURS.format(threads)]
    for name in (SIGNING, SIGNING_BLAKE3, SHA256, BLAKE3.format(threads), PIECES.format(1)):
        if name in times:
            rounds = sorted(mine / peer for mine, peer in zip(ours, times[name], strict=True))
            best, middle = min(ours) / min(times[name]), statistics.median(rounds)
            print(f"  {name:34} {best:6.2f}   {middle:.2f} ({rounds[0]:.2f} to {rounds[-1]:.2f})")
    spread = max(times[READ]) / min(times[READ])
    print(
        f"\nThe slowest plain read took {spread:.1f} times as long as the fastest; load average "
        f"now {os.getloadavg()[0]:.1f}.\nWhere others want the cores, rows of several threads lose "
        "more than rows of one: believe\nthe fastest rounds, and those only if that factor is "
        "near 1."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--make", type=Path, help="write a model of 2.5 GB there and end")
    parser.add_argument("--tokenizer", type=Path, help="the folder that --make copies one from")
    parser.add_argument("--shards", type=int, default=1, help="the files that --make writes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1))
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.tokenizer, arguments.shards)
        return
    if arguments.model is None:
        parser.error("name a MODEL, or make one: --make DIR")
    rows, size = kinds_of_work(arguments.model, arguments.threads)
    print(f"{size / 1e9:.2f} GB of weights, in the page cache; {machine()}")
    print(f"load average before: {os.getloadavg()[0]:.1f}\n")
    times: dict[str, list[float]] = {name: [] for name in rows}
    used: dict[str, list[float]] = {name: [] for name in rows}
    rows[READ]()  # into the page cache
    for _ in range(arguments.rounds):
        for name, work in rows.items():
            start, cpu = time.perf_counter(), time.process_time()
            work()
            times[name].append(time.perf_counter() - start)
            used[name].append(time.process_time() - cpu)
    report(times, used, size, arguments.threads)


if __name__ == "__main__":
    main()
