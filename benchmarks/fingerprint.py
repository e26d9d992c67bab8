"""The weights digest against SHA-256 of the same files and against just reading them.

    python benchmarks/fingerprint.py MODEL [--rounds 5]

Prints seconds and ratios of one run, rounds interleaved; the fastest round of each counts, since
other work on the machine only ever adds. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.texts import tokenizer_digest

if TYPE_CHECKING:
    from collections.abc import Callable


def read(files: list[Path]) -> None:
    buffer = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def sha256(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with Checkpoint.open(arguments.model) as checkpoint:
        folder = checkpoint.folder
        files = sorted({info.path for info in checkpoint.tensors.values()})
    size = sum(path.stat().st_size for path in files)

    def ours() -> None:
        with Checkpoint.open(arguments.model) as opened:
            fingerprint(opened)

    rows: dict[str, Callable[[], object]] = {
        "read the files (limit)": lambda: read(files),
        "sha256 of the files (hashlib)": lambda: sha256(files),
        "fingerprint: digest, layers, samples, tokenizer": ours,
        "  of which the tokenizer, whatever the model's size": lambda: tokenizer_digest(folder),
    }
    times = dict.fromkeys(rows, float("inf"))
    for _ in range(arguments.rounds):
        for name, work in rows.items():
            times[name] = min(times[name], seconds(work))
    peer = times["sha256 of the files (hashlib)"]
    print(f"{size / 1e6:.0f} MB, {os.cpu_count()} cores, {platform.python_version()}")
    for name, taken in times.items():
        rate, ratio = size / taken / 1e9, peer / taken
        print(f"{name:50} {taken:6.3f} s {rate:6.2f} GB/s {ratio:5.2f} x sha256")


if __name__ == "__main__":
    main()
