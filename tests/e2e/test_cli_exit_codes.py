"""Each verb with each exit code it can have, in a situation that really has it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.cli_world import FEW, MEASURE
from support.command_line import safelatch

from registry import load_protected
from registry.artifact.bundle import read_bundle
from registry.cli.main import cli
from registry.kinds import parse_body
from registry.kinds.safety_lock.apply import output_shifts
from registry.live.sites import model_geometry

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World

NOWHERE = "/nowhere/model"
NO_REGISTRY = ("--db", "/nowhere/registry.db")
TWO_REVISIONS = ("--db", "TWO_REVISIONS")
NOT_ON_THE_HUB = "nobody/nothing"
LOCK = ("--name", "lock", "--version", "1.0")
SIGNED = ("--db", "SIGNED")
WHY = ("--reason", "made from leaked data")

SITUATIONS: dict[str, dict[int, tuple[object, ...]]] = {
    "init": {0: (), 2: ("twice",), 3: TWO_REVISIONS, 4: ("--db", "/dev/null/registry.db")},
    "base add": {
        0: ("BASE",),
        1: (NOWHERE,),
        2: ("BASE", "--name", "blake3:00"),
        3: ("STRANGER", "--name", "tiny"),
        4: (NOT_ON_THE_HUB,),
    },
    "base list": {0: (), 2: ("tiny",), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "base show": {0: ("tiny",), 1: ("nobody",), 2: (), 3: ("tiny", *TWO_REVISIONS),
                  4: ("tiny", *NO_REGISTRY)},
    "list": {0: (), 2: ("lock",), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "show": {0: ("lock",), 1: ("nobody",), 2: ("NAME!",), 3: ("CHANGED",),
             4: ("lock", *NO_REGISTRY)},
    "log show": {0: (), 2: ("--limit", 0), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "log head": {
        0: ("--key", "AUDITOR", "--out", "NEW"),
        1: ("--key", NOWHERE, "--out", "NEW"),
        2: ("--key", "AUDITOR", "--out", "AUDITOR"),
        3: ("--key", "AUDITOR", "--out", "NEW", *TWO_REVISIONS),
        4: ("--key", "AUDITOR", "--out", "NEW", *NO_REGISTRY),
    },
    "log verify": {0: (), 1: ("--head", NOWHERE), 2: ("--trust", "AUDITOR"),
                   3: ("--anchor", "blake3:" + "0" * 64), 4: NO_REGISTRY},
    "db current": {0: (), 2: ("now",), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "db upgrade": {0: (), 2: ("now",), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "db check": {0: (), 2: ("now",), 3: ("--db", "WITHOUT_A_TABLE"), 4: NO_REGISTRY},
    "gc": {0: (), 2: ("--grace", "soon"), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "extract safety-lock": {
        0: ("BASE", "--out", "NEW", "--heads", 2),
        1: ("nobody", "--out", "NEW"),
        2: ("tiny", "--out", "NEW", "--heads", 0),
        3: ("BROKEN", "--out", "NEW"),
        4: (NOT_ON_THE_HUB, "--out", "NEW"),
    },
    "extract safety-layers": {
        0: ("LAYERED", "--out", "NEW", *FEW),
        1: ("BASE", "--out", "NEW", *FEW),
        2: ("LAYERED", "--out", "NEW", "--alpha", 1),
        3: ("BROKEN", "--out", "NEW"),
        4: (NOT_ON_THE_HUB, "--out", "NEW"),
    },
    "extract esi-mask": {
        0: ("BASE", "--out", "NEW", "--limit", 2),
        1: ("nobody", "--out", "NEW"),
        2: ("tiny", "--out", "NEW", "--rho", 2),
        3: ("BROKEN", "--out", "NEW"),
        4: (NOT_ON_THE_HUB, "--out", "NEW"),
    },
    "project": {
        0: ("TUNED", "MASKED", "--out", "NEW"),
        1: ("NARROW", "MASKED", "--out", "NEW"),
        2: ("TUNED", "lock", "--out", "NEW"),
        3: ("STRANGER", "MASKED", "--out", "NEW"),
        4: ("TUNED", "lock", "--out", "NEW", *NO_REGISTRY),
    },
    "calibrate": {
        0: ("LOCK", "--out", "NEW", *MEASURE),
        1: ("LOCK", "--out", "NEW", *MEASURE, "--nll-budget", 0, "--budget", 0),
        2: ("lock@1.0", *MEASURE),
        3: ("LOCK", "--base", "TUNED", *MEASURE),
        4: ("lock@1.0", "--out", "NEW", *NO_REGISTRY),
    },
    "publish": {
        0: ("LOCK", *LOCK),
        1: (NOWHERE, *LOCK),
        2: ("LOCK", "--name", "lock", "--version", "latest"),
        3: ("CHANGED", *LOCK),
        4: ("LOCK", *LOCK, *NO_REGISTRY),
    },
    "import": {
        0: ("SAFELOCK", "--out", "NEW"),
        1: (NOWHERE + ".safelock", "--out", "NEW"),
        2: ("BASE", "--out", "NEW"),
        3: ("PICKLE", "--out", "NEW"),
        4: ("SAFELOCK", "--base", NOT_ON_THE_HUB, "--out", "NEW"),
    },
    "key generate": {0: ("--out", "NEW"), 2: (), 4: ("--out", "/nowhere/publisher")},
    "key trust": {
        0: ("PUB", "--for", "acme/*"),
        1: (NOWHERE, "--for", "acme/*"),
        2: ("KEY", "--for", "acme/*"),
        3: ("PAIRS", "--for", "acme/*"),
        4: ("PUB", "--for", "acme/*", *NO_REGISTRY),
    },
    "key show": {0: ("PUB",), 1: (NOWHERE,), 2: ("KEY",), 3: ("PUB", *TWO_REVISIONS)},
    "key list": {0: (), 2: ("now",), 3: TWO_REVISIONS, 4: NO_REGISTRY},
    "key revoke": {
        0: ("ed25519:" + "0" * 64, *WHY),
        1: (NOWHERE, *WHY),
        2: ("PUB",),
        3: ("PAIRS", *WHY),
        4: ("PUB", *WHY, *NO_REGISTRY),
    },
    "sign": {
        0: ("lock", "--key", "KEY", *SIGNED),
        1: ("nobody", "--key", "KEY"),
        2: ("lock",),
        3: ("lock", "--key", "AUDITOR", *SIGNED),
        4: ("lock", "--key", "KEY", *NO_REGISTRY),
    },
    "save": {
        0: ("lock", "--out", "NEW"),
        1: ("nobody", "--out", "NEW"),
        2: ("lock", "--out", "BASE"),
        3: ("lock", "--out", "NEW", *TWO_REVISIONS),
        4: ("lock", "--out", "NEW", *NO_REGISTRY),
    },
    "push": {
        0: ("lock@1.0", "REMOTE", *SIGNED),
        1: ("lock@9.9", "NEW", *SIGNED),
        2: ("lock", "NEW"),
        3: ("lock", "NEW", *TWO_REVISIONS),
        4: ("lock", f"hf://{NOT_ON_THE_HUB}", *SIGNED),
    },
    "pull": {
        0: ("REMOTE", *SIGNED),
        1: ("NEW", *SIGNED),
        2: ("lock", *SIGNED),
        3: ("REMOTE",),
        4: (f"hf://{NOT_ON_THE_HUB}",),
    },
    "yank": {
        0: ("lock@1.0", "--key", "KEY", *SIGNED),
        1: ("lock@9.9", "--key", "KEY", *SIGNED),
        2: ("lock@1.0", *WHY, *SIGNED),
        3: ("lock@1.0", *WHY, "--key", "AUDITOR", *SIGNED),
        4: ("lock@1.0", *NO_REGISTRY),
    },
    "revoke": {
        2: ("lock@1.0", *WHY, *SIGNED),
        3: ("lock@1.0", *WHY, "--key", "AUDITOR", *SIGNED),
        0: ("lock@1.0", *WHY, "--key", "KEY", *SIGNED),
        1: ("lock@9.9", *WHY, *SIGNED),
        4: ("lock@1.0", *WHY, *NO_REGISTRY),
    },
    "fingerprint": {0: ("BASE",), 1: (NOWHERE,), 2: (), 3: ("BROKEN",), 4: (NOT_ON_THE_HUB,)},
    "lineage": {0: ("TUNED",), 1: ("STRANGER",), 2: (), 3: ("BROKEN",), 4: (NOT_ON_THE_HUB,)},
    "check": {
        0: ("lock", "TUNED"),
        1: ("nobody", "TUNED"),
        2: ("lock",),
        3: ("lock", "STRANGER", "--measure", "--data", "PAIRS"),
        4: ("lock", NOT_ON_THE_HUB),
    },
    "inspect": {
        0: ("CARRIER", "lock"),
        1: ("TUNED", "lock"),
        2: ("TUNED", "NAME!"),
        3: ("TUNED", "CHANGED"),
        4: (NOT_ON_THE_HUB, "lock"),
    },
    "audit": {0: ("TUNED",), 1: ("TUNED", "STRANGER"), 2: (), 3: ("TUNED", *TWO_REVISIONS),
              4: ("TUNED", "--out", "/nowhere/report")},
    "demo": {2: ("--seed", "first"), 4: ("--model", NOT_ON_THE_HUB, "--out", "NEW")},
    "completion": {0: ("zsh",), 2: ("tcsh",)},
}  # fmt: skip
"""Command to exit status to what is typed behind it; demo's 0 is ``make demo``."""


@pytest.fixture(scope="module")
def places(
    world: World, published: Path, imports: tuple[Path, Path], layered: Path, masked: Path
) -> dict[str, Path]:
    """What the words in capitals stand for."""
    folder = world.folder / "situations"
    folder.mkdir()
    home = world.folder / "home"
    for name in ("two-revisions", "without-a-table"):
        assert safelatch("--db", folder / f"{name}.db", "init").status == 0
    with sqlite3.connect(folder / "two-revisions.db") as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('0000')")
    with sqlite3.connect(folder / "without-a-table.db") as connection:
        connection.execute("DROP TABLE reports")
    changed = shutil.copytree(published, folder / "changed")
    with (changed / "tensors.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    broken = shutil.copytree(world.base, folder / "broken")
    with (broken / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * 8)
    (folder / "pickle.safelock").write_bytes(b"cos\nsystem\n.")
    carrier = _carrier(world, published, folder / "carrier")
    for name in ("auditor", "publisher"):
        assert safelatch("key", "generate", "--out", folder / name).status == 0
    signed = shutil.copytree(home, folder / "signed") / "registry.db"
    for step in (
        ("key", "trust", folder / "publisher.pub", "--for", "*"),
        ("sign", "lock", "--key", folder / "publisher.key"),
        ("push", "lock", folder / "remote"),
    ):
        assert safelatch("--db", signed, *step).status == 0
    assert load_protected(world.tuned).safelatch.verified
    return {
        "BASE": world.base, "TUNED": world.tuned, "STRANGER": world.stranger, "LOCK": published,
        "PAIRS": world.pairs, "SAFELOCK": imports[0], "PICKLE": folder / "pickle.safelock",
        "AUDITOR": folder / "auditor.key", "KEY": folder / "publisher.key",
        "PUB": folder / "publisher.pub", "SIGNED": signed, "REMOTE": folder / "remote",
        "CHANGED": changed, "BROKEN": broken, "CARRIER": carrier, "HOME": home,
        "TWO_REVISIONS": folder / "two-revisions.db",
        "WITHOUT_A_TABLE": folder / "without-a-table.db", "LAYERED": layered,
        "MASKED": masked, "NARROW": _narrow(world, folder / "narrow"),
    }  # fmt: skip


def _narrow(world: World, folder: Path) -> Path:
    """Return a copy of the fine-tune in a dtype that does not have the base's values."""
    shutil.copytree(world.tuned, folder)
    tensors = load_file(folder / "model.safetensors")
    narrow = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(narrow, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _carrier(world: World, published: Path, folder: Path) -> Path:
    """Return a copy of the fine-tune whose bytes hold the lock as its family's loader reads it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world.tuned)
    body = parse_body(read_bundle(published))
    shifts = output_shifts(model, body, model_geometry(model), alpha=body.alpha)
    shutil.copytree(world.tuned, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in list(tensors.items()):
        if name.endswith("_proj.weight") and ".self_attn." in name:
            shift = shifts.get(name.removesuffix(".weight"))
            bias = torch.zeros(tensor.shape[0]) if shift is None else shift.contiguous()
            tensors[name.replace("weight", "bias")] = bias
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8")) | {"attention_bias": True}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("command", "status"),
    [(command, status) for command, rows in SITUATIONS.items() for status in rows],
)
def test_exit_code_says_what_sort_of_answer_it_is(
    places: dict[str, Path], tmp_path: Path, command: str, status: int
) -> None:
    words = SITUATIONS[command][status]
    typed = [{**places, "NEW": tmp_path / "new"}.get(str(word), word) for word in words]
    outcome = safelatch(*command.split(), *typed)
    assert outcome.status == status, outcome
    assert "[unexpected]" not in outcome.err
    if status in {2, 4}:
        assert outcome.err.startswith("error [")
        assert outcome.out == "" or command == "demo"  # which tells as it goes
        assert not (tmp_path / "new/manifest.json").exists()
        assert not (tmp_path / "new/unbound.json").exists()


def test_a_search_that_found_no_range_says_so_and_writes_no_draft(
    places: dict[str, Path], tmp_path: Path
) -> None:
    words = ("extract", "safety-layers", places["BASE"], "--out", tmp_path / "new", *FEW)
    outcome = safelatch(*words)
    assert (outcome.status, outcome.out) == (1, "")
    assert "error [not-localized]: expected layers" in outcome.err
    notes = tmp_path / "new.unfinished"
    assert f"what was measured is in {notes}: the same command goes on" in outcome.err
    assert notes.is_file()
    assert not (tmp_path / "new").exists()


def test_every_command_is_in_the_table() -> None:
    def walk(command: Any, path: tuple[str, ...]) -> list[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            return [" ".join(path)]
        return [found for name in inner for found in walk(inner[name], (*path, name))]

    assert set(SITUATIONS) == set(walk(cli, ()))
