"""Hostile names: of artifacts, tensors, folders and cards. docs/hostile-inputs.md is the list."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from support.command_line import safelatch
from support.locks import bundle_of, make_lock, read_record
from support.refusals import refusal
from support.tiny_models import llama_config, make_tensors, tensor, write_checkpoint, write_file

from registry.artifact.bundle import write_bundle
from registry.errors import (
    CheckpointNotFoundError,
    ReferenceSyntaxError,
    UnsafeFormatError,
    UsageError,
)
from registry.reference import Reference, is_name, require_name, skeleton, suggest_name
from registry.store.catalog import Registry
from registry.workflows.publish import publish

CONFIG = llama_config()
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"
DEVICES = ["con", "nul", "prn", "aux", "com1", "lpt9", "con.txt", "nul.lock.v2"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundle_of(
        read_record(write_checkpoint(tmp_path_factory.mktemp("names"), CONFIG)), make_lock()
    )


def shown(outcome):
    """Return everything a command printed, after checking that no terminal obeys it."""
    text = outcome.out + outcome.err
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    return text


# Names of artifacts


@pytest.mark.parametrize("name", [*DEVICES, "CON", "Com1", "LPT9.txt"])
def test_artifact_named_like_a_device_of_windows(name):
    error = refusal(ReferenceSyntaxError, lambda: require_name(name), f"got {name!r}")
    assert is_name(suggest_name(name))
    assert suggest_name(name) in error.hint
    refusal(ReferenceSyntaxError, lambda: Reference.parse(f"{name}@1.0"))


@pytest.mark.parametrize(
    "name",
    [
        "lock.", "lock..", ".lock", "lock ", " lock", "-lock", "lo/ck", "lo\\ck", "..", "", "a" * 97,
        "l\u043eck", "loc\u212a", "caf\u00e9", "cafe\u0301", "\u202elock", "lo\u200bck", "lo\x00ck",
        "lo\x1b[2Jck", "lock\n", "\uff4cock", "lo\ud800ck", "l\u0131ck",
    ],
    ids=ascii,
)  # fmt: skip
def test_artifact_name_that_looks_like_another(name):
    refusal(ReferenceSyntaxError, lambda: require_name(name), "a-z 0-9 . _ -")
    refusal(ReferenceSyntaxError, lambda: Reference.parse(f"{name}@1.0"))


@pytest.mark.parametrize("name", ["My-Lock", "MY-LOCK", "my-locK", "my-loc\u212a"])
def test_artifact_name_that_differs_in_case_alone(bundle, tmp_path, name):
    folder = write_bundle(bundle, tmp_path / "lock")
    with Registry.create() as registry:
        publish(registry, folder, name="my-lock", version="1.0")
        refusal(
            ReferenceSyntaxError, lambda: publish(registry, folder, name=name, version="1.0"), name
        )
        assert [line.name for line in registry.lines()] == ["my-lock"]
    assert unicodedata.normalize("NFKC", name).lower() == "my-lock"


@pytest.mark.parametrize("name", ["my_lock", "my.lock", "my-_lock", "my--lock"])
def test_artifact_name_that_differs_in_separators_alone(bundle, tmp_path, name):
    folder = write_bundle(bundle, tmp_path / "lock")
    assert skeleton(name) == "my-lock"
    with Registry.create() as registry:
        publish(registry, folder, name="my-lock", version="1.0")
        said = f"expected a name that is taken for no other line's, got {name} beside my-lock"
        refusal(UsageError, lambda: publish(registry, folder, name=name, version="1.0"), said)
        assert [line.name for line in registry.lines()] == ["my-lock"]
        assert publish(registry, folder, name="my-lock", version="1.1").is_new
        assert publish(registry, folder, name="my-lock2", version="1.0").is_new


# Names of tensors, folders and cards on a terminal


def test_escape_sequence_in_a_tensor_name_reaches_no_terminal(tmp_path):
    folder = write_checkpoint(tmp_path / "model", CONFIG)
    write_file(folder / "model.safetensors", make_tensors(CONFIG) | {ESCAPES: tensor(np.ones(1))})
    outcome = safelatch("fingerprint", folder)
    assert outcome.status == UnsafeFormatError.exit_code
    assert "\\x1b[2J" in shown(outcome)


def test_escape_sequence_in_a_config_reaches_no_terminal(tmp_path):
    folder = write_checkpoint(tmp_path / "model", llama_config(model_type=ESCAPES))
    outcome = safelatch("fingerprint", folder)
    assert outcome.status == 3
    assert "\\x1b[2J" in shown(outcome)


@pytest.mark.parametrize("name", [ESCAPES.encode(), b"\xff\xfe", b"a\nhint: rm -rf ~"], ids=ascii)
def test_folder_name_that_is_hostile_reaches_no_terminal(tmp_path, name):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    write_checkpoint(folder, CONFIG)
    fingerprint = safelatch("fingerprint", folder)
    assert (fingerprint.status, len(fingerprint.out)) == (0, 72)
    safelatch("init")
    for arguments in (("base", "add", folder), ("base", "list"), ("lineage", folder),
                      ("audit", folder)):  # fmt: skip
        outcome = safelatch(*arguments)
        assert outcome.status in {0, 1}, outcome
        shown(outcome)
    (folder / "config.json").unlink()
    outcome = safelatch("fingerprint", folder)
    assert outcome.status == CheckpointNotFoundError.exit_code
    assert shown(outcome).count("\nhint: ") == 1


def test_escape_sequence_in_a_model_card_reaches_no_terminal(tmp_path):
    folder = write_checkpoint(tmp_path / "model", CONFIG)
    card = f"---\nbase_model: evil{ESCAPES}name\n---\n# safelatch {ESCAPES}\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    safelatch("init")
    os.truncate(folder / "README.md", 1 << 40)
    for form in ("text", "json", "csv"):
        outcome = safelatch("audit", folder, "--format", form)
        assert outcome.status in {0, 1}
        assert ("evil\\" in shown(outcome)) == (form != "text")


def test_folder_name_that_is_no_text_has_a_reference_that_leads_back(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b"))
    reference = Reference.of_folder(folder)
    assert str(reference).endswith("/%FF%1B")
    assert Reference.parse(str(reference)) == reference
    assert json.dumps(str(reference)).encode("utf-8")


@pytest.mark.parametrize("path", ["./a\0b", "~nobody-of-this-name/lock"])
def test_path_of_a_bundle_that_no_system_has(path):
    refusal(ReferenceSyntaxError, lambda: Reference.parse_or_path(path), "the path of a folder")


def test_link_in_a_circle_as_the_path_of_a_bundle(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "lock")
    assert Reference.parse_or_path(f"{tmp_path}/lock").location == f"{tmp_path}/lock"
