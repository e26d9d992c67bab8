"""From a name in a paper to a draft of a registered base; never to one of another geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import safelatch
from support.ranges import gemma_2b_shaped
from support.refusals import refusal

from registry.artifact.bundle import read_bundle
from registry.errors import GeometryError, UsageError
from registry.kinds import KINDS, parse_body, present
from registry.settings import Settings
from registry.workflows.identify import identify
from registry.workflows.import_foreign import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from registry.store.catalog import Registry


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma_2b_shaped(tmp_path_factory.mktemp("shaped") / "gemma-2b-it")


def test_a_published_range_becomes_a_draft_of_a_registered_base(
    registry: Registry, gemma: Path, tmp_path: Path
) -> None:
    assert safelatch("base", "add", gemma, "--name", "gemma-2b-it").status == 0
    out = tmp_path / "layers"
    done = safelatch("import", "published:gemma-2b-it", "--base", "gemma-2b-it", "--out", out)
    assert done.status == 0, done
    assert done.out.startswith(f"imported  {out}  safety-layers  for gemma-2b-it\n")
    assert "published, not re-measured" in done.out
    assert f"next, publish it: safelatch publish {out} --name NAME --version V" in done.err
    for word in ("calibrate", "uncalibrated"):
        assert word not in done.out + done.err
    assert safelatch("publish", out, "--name", "gemma-layers", "--version", "1.0").status == 0
    shown = safelatch("show", "gemma-layers").out
    assert "6..11 of 0..17, both included" in shown
    assert "range(6, 12); begin 5, end 12, both excluded" in shown
    bundle = read_bundle(out)
    body = parse_body(bundle)
    assert {body.protects(f"model.layers.{layer}.mlp.up_proj.weight") for layer in body.range} == {
        True
    }
    assert len(body.protected) == 6 * 9
    assert bundle.manifest.provenance["imported"]["name"] == "published:gemma-2b-it"
    assert [receipt["type"] for receipt in bundle.manifest.receipts] == ["import"]
    assert present(bundle).grids == ()


def test_its_json_says_a_draft_without_a_strength(
    registry: Registry, gemma: Path, tmp_path: Path
) -> None:
    words = ("import", "published:Gemma-2B-it", "--base", gemma, "--out", tmp_path / "layers")
    document = safelatch(*words, "--format", "json").document
    assert (document["kind"], document["state"]) == ("safety-layers", "draft")
    assert document["contents"]["alpha"] is None
    assert document["contents"]["origin"] == "published, not re-measured"
    assert document["source"]["name"] == "published:gemma-2b-it"


@pytest.mark.parametrize("name", KINDS["safety-layers"].published)
def test_a_base_of_another_geometry_is_refused_and_nothing_is_written(
    world: Any, registry: Registry, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.iterdir())
    words = ("import", f"published:{name}", "--base", world.base, "--out", tmp_path / "out")
    outcome = safelatch(*words)
    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err.startswith("error [geometry]: expected a base of the geometry of ")
    assert f"  layers: expected {18 if 'gemma' in name else 32}, got 2\n" in outcome.err
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "cache"] == before


def test_the_same_refusal_without_the_command_line(world: Any) -> None:
    base = identify(world.base, settings=Settings.load())
    opened = open_source("published:llama-2-7b-chat")
    refusal(GeometryError, lambda: opened.bound(base, "planted-base"), "heads: expected 32, got 4")


def test_without_a_base_there_is_nothing_to_write(tmp_path: Path) -> None:
    refusal(
        UsageError,
        lambda: open_source("published:gemma-2b-it").unbound(),
        "expected a base for published:gemma-2b-it, got none",
    )
    assert safelatch("import", "published:gemma-2b-it", "--out", tmp_path / "x").status == 2
    assert not (tmp_path / "x").exists()


def test_a_typo_is_told_the_four_names() -> None:
    refusal(
        UsageError,
        lambda: open_source("published:gemma"),
        "expected one of phi-3-mini-4k-instruct, llama-2-7b-chat, llama-3-8b-instruct, gemma-2b-it "
        "after published:, got 'gemma'.",
    )


def test_help_names_what_there_is() -> None:
    shown = safelatch("import", "--help").out
    for name in KINDS["safety-layers"].published:
        assert f"published:{name}" in shown


def test_a_file_of_such_a_name_is_reached_by_its_path(tmp_path: Path) -> None:
    """``published:`` is a word of ours only at the beginning."""
    refusal(
        UsageError,
        lambda: open_source(str(tmp_path / "published:gemma-2b-it")),
        "expected a file that ends in .pickle, .pkl, .safelock, got 'published:gemma-2b-it'.",
    )
