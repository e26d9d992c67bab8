"""The README's first screen and its table of commands, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.cli_world import FEW, MEASURE, SMALL
from support.command_line import safelatch

if TYPE_CHECKING:
    import pytest
    from support.cli_world import World

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
QUICK: dict[str, tuple[object, ...]] = {
    "extract": SMALL, "calibrate": MEASURE, "safety-layers": FEW, "esi-mask": ("--limit", 2),
}  # fmt: skip
ANSWER_IS_NO = {"inspect", "audit"}
"""A plain fine-tune carries nothing, and was not loaded protected."""


def test_the_commands_of_the_table_work_in_the_order_they_stand_in(
    world: World,
    imports: tuple[Path, Path],
    layered: Path,
    ranged: Path,
    shaped: Path,
    indices: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    table = README.partition("## The commands")[2].partition("## ")[0]
    lines = re.findall(r"`safelatch ([^`]+)`", "\n".join(re.findall(r"^\|.*", table, re.MULTILINE)))
    meant: dict[str, object] = {
        "DIR": tmp_path / "lock", "NAME": "lock", "V": "1.0", "NAME@V": "lock@1.0",
        "KEY": tmp_path / "publisher.key",
        "PUB": tmp_path / "publisher.pub", "NAMESPACE": "base",
        "HEAD": tmp_path / "head.json", "REF": "base", "SHELL": "zsh", "TARGET...": world.tuned,
        "REMOTE": tmp_path / "remote",
    }  # fmt: skip
    files = iter((imports[0], indices))
    mask = ("publish", tmp_path / "mask", "--name", "mask", "--version", "1.0")
    by_verb: dict[str, dict[str, object]] = {
        "key": {"NAME": tmp_path / "publisher"},
        "save": {"DIR": tmp_path / "saved"},
        "project": {"DIR": tmp_path / "projected", "NAME@V": "mask@1.0"},
    }
    by_word: dict[str, dict[str, object]] = {
        "safety-layers": {"BASE": layered, "DIR": tmp_path / "layers"},
        "esi-mask": {"DIR": tmp_path / "mask"},
        "published:gemma-2b-it": {"MODEL": shaped, "DIR": tmp_path / "published"},
    }
    ran: list[str] = []
    for line in lines:
        verb, *words = shlex.split(line)
        model = world.base if verb in {"base", "fingerprint"} else world.tuned
        places: dict[str, object] = {**meant, "MODEL": model, "BASE": world.base}
        if verb == "demo":
            continue
        if words[:1] == ["FILE"]:
            places |= {"FILE": next(files), "DIR": tmp_path / f"imported-{len(ran)}"}
        places |= by_verb.get(verb, {}) | by_word.get(words[0] if words else "", {})
        if "--as" in words:
            places["NAME@V"] = ranged
        if words == ["MODEL", "NAME@V"]:
            places["NAME@V"] = "mask@1.0"
        quick = QUICK.get(words[0] if words else "", QUICK.get(verb, ()))
        outcome = safelatch(verb, *(places.get(word, word) for word in words), *quick)
        assert outcome.status == (1 if verb in ANSWER_IS_NO else 0), (line, outcome)
        assert outcome.out or verb == "gc", line
        if (
            verb == "sign"
        ):  # a key is trusted for the base: what is not signed is not put into models
            assert safelatch(*mask, "--key", meant["KEY"]).status == 0
        ran.append(verb)
    assert len(ran) > 15


def test_the_first_screen_runs(world: World, published: Path) -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", README.partition("## ")[0], re.DOTALL | re.MULTILINE
    )
    assert '"path/to/my-finetune"' in code
    names: dict[str, Any] = {}
    exec(code.replace('"path/to/my-finetune"', repr(str(world.tuned))), names)  # noqa: S102
    report = names["model"].safelatch
    assert report.verified is True
    assert report.to_dict()["applied"]


def test_the_training_that_keeps_layers_runs(ranged: Path) -> None:
    from transformers import AutoModelForCausalLM

    section = README.partition("## Keep it while training")[2].partition("## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert '"my-layers@1.0.0"' in code
    model = AutoModelForCausalLM.from_pretrained(ranged.with_name("base"))
    names: dict[str, Any] = {"model": model}
    exec(code.replace('"my-layers@1.0.0"', repr(str(ranged))), names)  # noqa: S102
    assert names["g"].verified_at is not None
    assert not model.get_parameter("model.layers.4.mlp.up_proj.weight").requires_grad
    assert model.get_parameter("model.layers.8.mlp.up_proj.weight").requires_grad
