"""``show --as``: what a trainer pastes, and nothing else; it means what the tool reads in it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest
import yaml
from support.command_line import safelatch
from support.locks import read_record
from support.ranges import a_base, a_body, range_bundle

from registry.artifact.bundle import write_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def layers(home: Path) -> Path:
    """A draft of layers 4 to 7 of 12, published as ``layers@1.0``."""
    record = read_record(a_base(home / "base"))
    folder = write_bundle(range_bundle(record, a_body()), home / "draft")
    for step in (("init",), ("publish", folder, "--name", "layers", "--version", "1.0")):
        assert safelatch(*step).status == 0
    return folder


def test_peft_gets_the_layers_outside_and_nothing_else(layers: Path) -> None:
    outcome = safelatch("show", "layers", "--as", "peft")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("# layers@1.0: ")
    (call,) = [node for node in ast.walk(ast.parse(outcome.out)) if isinstance(node, ast.Call)]
    given = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert given["layers_to_transform"] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_peft_takes_what_is_printed(layers: Path) -> None:
    names: dict[str, object] = {}
    exec(safelatch("show", "layers", "--as", "peft").out, names)  # noqa: S102
    assert getattr(names["config"], "layers_to_transform", None) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_axolotl_gets_yaml(layers: Path) -> None:
    document = yaml.safe_load(safelatch("show", "layers", "--as", "axolotl").out)
    assert list(document) == ["unfrozen_parameters"]


def test_trl_gets_a_callback_that_names_the_artifact(layers: Path) -> None:
    assert 'SafetyCallback("layers@1.0")' in safelatch("show", "layers", "--as", "trl").out


def test_a_draft_is_called_as_it_was_typed(layers: Path) -> None:
    outcome = safelatch("show", layers, "--as", "trl")
    assert f'SafetyCallback("{layers}")' in outcome.out
    assert "(draft)" not in outcome.out


def test_json_has_the_same_text(layers: Path) -> None:
    text = safelatch("show", "layers@1.0", "--as", "peft").out
    document = safelatch("show", "layers@1.0", "--as", "peft", "--format", "json").document
    assert document == {
        "artifact": "layers@1.0", "kind": "safety-layers", "engine": "peft",
        "config": text.removesuffix("\n"),
    }  # fmt: skip


def test_another_engine_is_told_which_there_are(layers: Path) -> None:
    outcome = safelatch("show", "layers", "--as", "unsloth")
    assert (outcome.status, outcome.out) == (2, "")
    assert "expected one of axolotl, peft, trl, got 'unsloth'." in outcome.err
