"""``safelatch lineage`` of models, adapters and what is on the Hub; ``check`` of an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from support.adapters import EMBEDDING, Q0, factors, lora_config, write_adapter
from support.command_line import safelatch
from support.hub import client_at, serving
from support.output_page import schema_of
from support.tiny_models import fine_tune, llama_config, make_tensors, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = llama_config()


@pytest.fixture
def base(home: Path) -> Path:
    folder = write_checkpoint(home / "base", CONFIG)
    safelatch("init")
    assert safelatch("base", "add", folder, "--name", "tiny").status == 0
    return folder


@pytest.fixture
def adapter(home: Path) -> Path:
    tensors = factors(Q0, 64, 48) | factors(EMBEDDING, 96, 48)
    tensors = {name: item for name, item in tensors.items() if "embed" not in name}
    return write_adapter(home / "lora", tensors, lora_config(base_model_name_or_path="tiny"))


def lineage(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Return the JSON of a lineage, which is what the schema says."""
    outcome = safelatch("lineage", *arguments, "--format", "json")
    assert outcome.status == status, outcome
    errors = Draft202012Validator(schema_of("lineage")).iter_errors(outcome.document)
    assert [error.message for error in errors] == []
    document: dict[str, Any] = outcome.document
    return document


def test_the_kind_of_change_is_the_first_word(base: Path, home: Path) -> None:
    child = write_checkpoint(home / "child", CONFIG, fine_tune(make_tensors(CONFIG), 0.02))
    text = safelatch("lineage", child).out.splitlines()
    assert text[0].startswith("fine-tune  tiny  at distance 0.0")
    document = lineage(child)
    assert document["descents"][0]["change"]["kind"] == "fine-tune"
    assert (document["metadata"], document["adapter"]) == (None, None)
    header, row = safelatch("lineage", child, "--format", "csv").out.splitlines()
    assert header == "relation,kind,base,distance,level,direction,changed,base_weights"
    assert row.startswith("derived,fine-tune,tiny,0.0")


def test_a_lineage_report_names_the_kind(base: Path, home: Path) -> None:
    from registry.store.catalog import Registry

    digest = safelatch("fingerprint", base).out.strip()
    lineage(base)
    with Registry.open() as registry:
        (report,) = registry.reports(digest, "lineage")
    assert (report.verdict, report.body["base"]) == ("identical", "tiny")


def test_an_adapter_is_judged_as_merged_into_the_base_it_names(base: Path, adapter: Path) -> None:
    text = safelatch("lineage", adapter)
    assert text.status == 0
    assert text.out.startswith("adapter  tiny  merged-lora at distance ")
    document = lineage(adapter)
    assert (document["base"], document["weights"]) == ("tiny", None)
    assert document["adapter"]["descents"][0]["level"] == 2
    assert document["claims"][0]["registered_as"] == "tiny"


def test_an_adapter_of_no_registered_base_is_no_answer(base: Path, home: Path) -> None:
    other = write_adapter(home / "other", factors(Q0, 32, 24), lora_config())
    assert lineage(other, status=1)["base"] is None


def test_a_model_on_the_hub_is_recognised_without_its_weights(base: Path, home: Path) -> None:
    with serving() as hub, client_at(hub.url, home / "hub-cache"):
        hub.add("org/copy", base)
        document = lineage("org/copy", "--no-download")
        text = safelatch("lineage", "org/copy", "--no-download")
        assert hub.weight_bytes == 0
    assert document["base"] == "tiny"
    assert document["metadata"]["relation"] == "identical"
    assert text.out.startswith("identical  tiny  org/copy@")


def test_a_folder_has_nothing_to_ask_the_hub_about(base: Path) -> None:
    outcome = safelatch("lineage", base, "--no-download")
    assert outcome.status == 2
    assert "expected a model on the Hub (NS/NAME) for --no-download" in outcome.err
    assert f"safelatch lineage {base}" in outcome.err


def test_a_pickled_adapter_is_never_told_to_be_loaded(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    outcome = safelatch("lineage", adapter)
    assert outcome.status == 1
    assert "found adapter_model.bin, a pickle." in outcome.err
    assert "Pickled weights are never opened." in outcome.err
    assert "merge_and_unload" not in outcome.err


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--revision", "main"], "--revision"),
        (["--no-cache"], "--no-cache"),
        (["--no-cache", "--revision", "main"], "--revision and --no-cache"),
        (["--no-download", "--no-cache"], "--no-cache"),
    ],
)
def test_an_option_that_an_adapter_has_no_use_for_is_refused(
    base: Path, adapter: Path, options: list[str], given: str
) -> None:
    outcome = safelatch("lineage", adapter, *options)
    assert outcome.status == 2
    assert f"got {given} for {adapter}." in outcome.err
