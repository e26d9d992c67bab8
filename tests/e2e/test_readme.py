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
QUICK = {"extract": SMALL, "calibrate": MEASURE}
ANSWER_IS_NO = {"inspect", "audit"}
"""A plain fine-tune carries nothing, and was not loaded protected."""


def test_the_commands_of_the_table_work_in_the_order_they_stand_in(
    world: World,
    imports: tuple[Path, Path],
    layered: Path,
    ranged: Path,
    shaped: Path,
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
        "FILE": imports[0], "REMOTE": tmp_path / "remote",
    }  # fmt: skip
    ran = []
    for line in lines:
        verb, *words = shlex.split(line)
        model = world.base if verb in {"base", "fingerprint"} else world.tuned
        places = {**meant, "MODEL": model, "BASE": world.base}
        if verb == "demo":
            continue
        if verb == "import":
            places["DIR"] = tmp_path / "imported"
        quick = QUICK.get(verb, ())
        if words[:1] == ["safety-layers"]:
            places |= {"BASE": layered, "DIR": tmp_path / "layers"}
            quick = FEW
        if words[:1] == ["esi-mask"]:
            places["DIR"] = tmp_path / "mask"
            quick = ("--limit", 2)
        if words[:1] == ["published:gemma-2b-it"]:
            places |= {"MODEL": shaped, "DIR": tmp_path / "published"}
        if "--as" in words:
            places["NAME@V"] = ranged
        if verb == "key":
            places["NAME"] = tmp_path / "publisher"
        if verb == "save":
            places["DIR"] = tmp_path / "saved"
        outcome = safelatch(verb, *(places.get(word, word) for word in words), *quick)
        assert outcome.status == (1 if verb in ANSWER_IS_NO else 0), (line, outcome)
        assert outcome.out or verb == "gc", line
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
