"""What ``--format json`` and ``csv`` print is what ``schemas/output.v1`` and ``docs/output.md`` say."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import click
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support.cli_world import FEW, MEASURE, SMALL
from support.command_line import safelatch
from support.output_page import (
    MARK,
    PAGE,
    ROOT,
    SCHEMA,
    SHARED,
    csv_columns,
    definition_of,
    render,
    schema_of,
)

from registry.cli.main import cli
from registry.store.catalog import Registry as Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cli_world import World

OTHERS = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema))
    for schema in (
        json.loads((ROOT / "schemas" / f"{name}.v1.schema.json").read_text("utf-8"))
        for name in ("manifest", "audit_report")
    )
)
RUNS: dict[str, tuple[tuple[object, ...], ...]] = {
    "init": ((),),
    "base-add": (("BASE", "--name", "tiny"),),
    "base-list": ((), ("--db", "EMPTY")),
    "base-show": (("tiny",),),
    "list": ((), ("--db", "EMPTY")),
    "show": (("lock@1.0",), ("LOCK",), ("lock", "--db", "SIGNED"), ("SAVED",), ("RANGED",)),
    "log-show": ((), ("--limit", 1), ("--db", "EMPTY")),
    "log-head": (("--key", "AUDITOR", "--out", "NEW"),),
    "log-verify": (
        (),
        ("--db", "EMPTY"),
        ("--anchor", "blake3:" + "0" * 64),
        ("--head", "HEAD", "--trust", "AUDITORS"),
    ),
    "db-current": ((), ("--db", "BLANK")),
    "db-upgrade": ((), ("--db", "BLANK")),
    "db-check": ((), ("--db", "DAMAGED")),
    "gc": (("--grace", 0, "--dry-run", "--db", "LITTERED"), ("--db", "EMPTY")),
    "extract": (
        ("safety-lock", "tiny", "--out", "NEW", *SMALL),
        ("safety-layers", "LAYERED", "--out", "NEW", *FEW),
        ("esi-mask", "tiny", "--out", "NEW", "--limit", 4),
        ("esi-mask", "tiny", "--out", "NEW", "--limit", 2, "--no-halves"),
    ),
    "calibrate": (("LOCK", "--out", "NEW", *MEASURE),),
    "publish": (("LOCK", "--name", "lock", "--version", "1.0"),),
    "import": (
        ("SAFELOCK", "--out", "NEW"),
        ("SAFELOCK", "--base", "tiny", "--out", "NEW"),
        ("UNBOUND", "--base", "BASE", "--out", "NEW"),
        ("published:gemma-2b-it", "--base", "SHAPED", "--out", "NEW"),
        ("INDICES", "--out", "NEW"),
        ("INDICES", "--base", "tiny", "--out", "NEW"),
    ),
    "key-generate": (("--out", "NEW"),),
    "key-trust": (
        ("AUDITORS", "--for", "acme/*", "--label", "Acme", "--not-after", "2031-01-01"),
        ("AUDITORS", "--for", "*", "--not-before", "2031-01-01", "--db", "SIGNED"),
    ),
    "key-show": (("AUDITORS", "--db", "EMPTY"), ("AUDITORS", "--db", "SIGNED")),
    "key-list": ((), ("--db", "SIGNED"), ("--db", "EMPTY")),
    "key-revoke": (("ed25519:" + "0" * 64, "--reason", "stolen"),),
    "sign": (
        ("lock", "--key", "KEY", "--db", "SIGNED"),
        ("lock", "--key", "KEY", "--line-lifetime", "90d", "--db", "SIGNED"),
    ),
    "save": (("lock", "--out", "NEW"), ("lock", "--out", "NEW", "--db", "SIGNED")),
    "push": (
        ("lock", "NEW", "--db", "SIGNED"),
        ("lock@1.0", "NEW", "--dry-run", "--db", "SIGNED"),
        ("lock", "REMOTE", "--db", "SIGNED"),
    ),
    "pull": (("REMOTE", "--db", "SIGNED"), ("REMOTE", "--db", "READER")),
    "yank": (
        ("lock@1.0", "--reason", "too weak", "--key", "KEY", "--db", "SIGNED"),
        ("lock@1.0", "--undo", "--key", "KEY", "--db", "SIGNED"),
        ("lock@1.0", "--undo"),
    ),
    "revoke": (("withdrawn@1.0", "--reason", "leaked"),),
    "project": (
        ("TUNED", "MASKED", "--out", "NEW"),
        ("TUNED", "MASKED", "--out", "NEW", "--base", "tiny"),
    ),
    "fingerprint": (("BASE",),),
    "lineage": (("TUNED",), ("STRANGER",), ("BASE",)),
    "check": (
        ("lock@1.0", "TUNED"),
        ("lock@1.0", "STRANGER"),
        ("lock@1.0", "TUNED", "--measure", "--data", "PAIRS"),
    ),
    "inspect": (("TUNED",), ("TUNED", "LOCK"), ("TUNED", "MASKED")),
    "audit": (("MODELS", "/nowhere"),),
}
"""Definition of the schema to what is typed behind the command."""


def violations(document: Any, definition: str) -> list[str]:
    checker = Draft202012Validator(schema_of(definition), registry=OTHERS)
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(document)]


def leaves(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


def offered(path: tuple[str, ...]) -> list[str]:
    """Return the choices of a command's ``--format``."""
    command: Any = cli
    for name in path:
        command = command.commands[name]
    return next((list(o.type.choices) for o in command.params if o.name == "format"), ["text"])


@pytest.fixture(scope="module")
def databases(world: World) -> Path:
    """Return a folder of registries: an empty one, one with litter, one without a table."""
    folder = world.folder / "databases"
    folder.mkdir()
    for name in ("empty.db", "damaged.db"):
        assert safelatch("--db", folder / name, "init").status == 0
    with sqlite3.connect(folder / "damaged.db") as connection:
        connection.execute("DROP TABLE reports")
    (folder / "littered").mkdir()
    with Catalog.create(str(folder / "littered/registry.db")) as catalog:
        catalog._blobs.put(b"what a crashed publisher left")
    return folder


@pytest.fixture(scope="module")
def auditor(published: Path) -> Path:
    """Return the folder of a key pair, and of the log's head that it signed."""
    folder = published.with_name("auditor")
    folder.mkdir()
    key = folder / "auditor.key"
    assert safelatch("key", "generate", "--out", key.with_suffix("")).status == 0
    assert safelatch("log", "head", "--key", key, "--out", folder / "head.json").status == 0
    return folder


@pytest.fixture(scope="module")
def signed(published: Path) -> Path:
    """Return a folder of a registry whose line is signed, the publisher's keys, and a bundle."""
    folder = published.with_name("signed")
    shutil.copytree(published.with_name("home"), folder)
    key, db = folder / "publisher.key", ("--db", folder / "registry.db")
    reader = ("--db", folder / "reader.db")
    for step in (
        ("key", "generate", "--out", key.with_suffix("")),
        (*db, "key", "trust", key.with_suffix(".pub"), "--for", "*"),
        (*db, "sign", "lock", "--key", key),
        (*db, "save", "lock", "--out", folder / "saved"),
        (*db, "push", "lock", folder / "remote"),
        (*reader, "init"),
        (*reader, "key", "trust", key.with_suffix(".pub"), "--for", "*"),
        ("publish", published, "--name", "withdrawn", "--version", "1.0"),
    ):
        assert safelatch(*step).status == 0, step
    return folder


@pytest.fixture
def typed(
    world: World,
    published: Path,
    databases: Path,
    imports: tuple[Path, Path],
    auditor: Path,
    signed: Path,
    layered: Path,
    ranged: Path,
    shaped: Path,
    masked: Path,
    indices: Path,
    tmp_path: Path,
) -> Any:
    """Return a function from a definition and words of ``RUNS`` to what is typed."""
    (tmp_path / "blank.db").touch()
    places = {
        "BASE": world.base, "TUNED": world.tuned, "STRANGER": world.stranger,
        "MODELS": world.base.parent, "PAIRS": world.pairs, "LOCK": published, "NEW": tmp_path / "new",
        "EMPTY": databases / "empty.db", "BLANK": tmp_path / "blank.db",
        "DAMAGED": databases / "damaged.db", "LITTERED": databases / "littered/registry.db",
        "SAFELOCK": imports[0], "UNBOUND": imports[1],
        "AUDITOR": auditor / "auditor.key", "AUDITORS": auditor / "auditor.pub",
        "HEAD": auditor / "head.json", "SIGNED": signed / "registry.db",
        "KEY": signed / "publisher.key", "SAVED": signed / "saved",
        "REMOTE": signed / "remote", "READER": signed / "reader.db",
        "LAYERED": layered, "RANGED": ranged, "SHAPED": shaped,
        "MASKED": masked, "INDICES": indices,
    }  # fmt: skip
    return lambda definition, words: [
        *definition.split("-"), *(places.get(str(word), word) for word in words)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("definition", "words"), [(name, words) for name, runs in RUNS.items() for words in runs]
)
def test_json_of_every_command_follows_its_schema(
    typed: Any, definition: str, words: tuple[object, ...]
) -> None:
    outcome = safelatch(*typed(definition, words), "--format", "json")
    assert outcome.status in {0, 1, 3}
    assert outcome.out.endswith("]\n" if outcome.out.startswith("[") else "}\n")
    assert violations(outcome.document, definition) == []
    assert "error" not in outcome.document


def test_json_of_an_import_without_a_base_has_a_schema_of_its_own(typed: Any) -> None:
    document = safelatch(*typed("show", ("UNBOUND",)), "--format", "json").document
    assert violations(document, "unbound") == []
    assert violations(document, "show")


@pytest.mark.parametrize("engine", ["axolotl", "peft", "trl"])
def test_json_of_a_training_config_has_a_schema_of_its_own(typed: Any, engine: str) -> None:
    words = typed("show", ("RANGED", "--as", engine))
    document = safelatch(*words, "--format", "json").document
    assert violations(document, "training-config") == []
    assert document["engine"] == engine
    assert violations(document, "show")


@pytest.mark.parametrize(
    ("definition", "words"),
    [(name, words) for name, runs in RUNS.items() for words in runs if csv_columns(name)],
)
def test_csv_of_every_table_has_the_columns_it_says(
    typed: Any, definition: str, words: tuple[object, ...]
) -> None:
    outcome = safelatch(*typed(definition, words), "--format", "csv")
    header, *rows = csv.reader(io.StringIO(outcome.out))
    assert header == csv_columns(definition)
    assert all(len(row) == len(header) for row in rows)
    assert bool(rows) == ("EMPTY" not in words)


def test_every_command_that_prints_json_has_a_definition_and_a_run() -> None:
    machine = {path: definition_of(path) for path in leaves() if "json" in offered(path)}
    assert set(machine.values()) == set(RUNS), "an entry in schemas/output.v1 and one in RUNS"
    assert set(RUNS) == set(SCHEMA["$defs"]) - set(SHARED)


def test_every_table_offers_csv_and_says_its_columns() -> None:
    for path in leaves():
        definition = definition_of(path)
        columns = None if definition is None else csv_columns(definition)
        assert ("csv" in offered(path)) == (columns is not None), path


def test_a_member_that_is_new_or_gone_is_a_violation() -> None:
    document = {"before": None, "after": "0001"}
    assert violations(document, "db-upgrade") == []
    assert violations({**document, "more": 1}, "db-upgrade")
    assert violations({"after": "0001"}, "db-upgrade")


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--nothing"), ("--nothing",), ("nothing",), ("base",), ("show",), ("show", ""),
        ("list", "--db", "/nowhere/registry.db"), ("show", "NAME!"), ("fingerprint", "/nowhere"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", [("--format", "json"), ("--format=json",)])
def test_an_error_of_any_sort_is_the_error_document_on_stdout(
    world: World, arguments: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    plain, machine = safelatch(*arguments), safelatch(*arguments, *asked)
    assert plain.out == machine.err == ""
    assert plain.status == machine.status != 0
    assert violations(machine.document, "error") == []
    assert machine.out.endswith("}\n")


def test_the_page_on_output_is_the_schemas() -> None:
    text = PAGE.read_text("utf-8")
    assert text[text.index(MARK) :] == render(), "run: python tests/support/output_page.py"


def test_the_page_shows_the_error_document_as_it_is_printed(world: World, published: Path) -> None:
    shown = PAGE.read_text("utf-8").partition("```json\n")[2].partition("```")[0]
    assert safelatch("show", "lokc", "--format", "json").out == shown
