"""What people get wrong: each is one clear error with the repair, and nothing is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.locks import bundle_of, make_lock, read_record
from support.tiny_models import llama_config, write_checkpoint

from registry.artifact.bundle import write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = "a" * 5000
EXTRACT = ("extract", "safety-lock")
LINE = ("--name", "x", "--version", "1")

TABLE: tuple[tuple[tuple[str, ...], int, str, str], ...] = (
    # a verb, an option, a kind, that are not there
    (("lsit",), 2, "No such command 'lsit'. Did you mean 'list'?", "Run: safelatch list"),
    (("base", "lst"), 2, "Did you mean 'list'?", "Run: safelatch base list"),
    (("xyzzy",), 2, "No such command 'xyzzy'.", "See how: safelatch --help"),
    (("load", "./m"), 2, "'load'", "That is Python: from registry import load_protected"),
    (("protect", "./m"), 2, "'protect'", "That is Python: from registry import protect"),
    (("list", "--fromat", "csv"), 2, "Did you mean '--format'?", "See how: safelatch list --help"),
    (("--format", "csv", "list"), 2, "No such option '--format'.",
     "It stands after the verb: safelatch VERB --format json"),
    (("extract", "safety-lok", "./m"), 2, "'safety-layers', 'safety-lock'",
     "Run: safelatch extract safety-lock"),
    (("list", "--format", "yaml"), 2, "'yaml' is not one of 'text', 'json', 'csv'",
     "See how: safelatch list --help"),
    (("check", "x", "./m", "--format", "csv"), 2, "'csv' is not one of 'text', 'json'",
     "See how: safelatch check --help"),
    # too little and too much
    (("fingerprint",), 2, "Missing argument 'MODEL'.", "See how: safelatch fingerprint --help"),
    (("check", "lock"), 2, "Missing argument 'MODEL'.", "See how: safelatch check --help"),
    (("audit",), 2, "Missing argument 'TARGET...'.", "See how: safelatch audit --help"),
    (("publish", "{LOCK}"), 2, "Missing option '--name'.", "See how: safelatch publish --help"),
    (("completion",), 2, "Choose from: bash, zsh, fish", "See how: safelatch completion --help"),
    (("fingerprint", "my", "model"), 2, "Got unexpected extra argument (model)",
     "See how: safelatch fingerprint --help"),
    # nothing, where something belongs: an unset variable
    (("fingerprint", ""), 2, "expected a value after 'fingerprint', got an empty one", "--help"),
    (("publish", "", *LINE), 2, "after 'publish', got an empty one", "--help"),
    (("--db", "", "list"), 2, "after '--db', got an empty one", "--help"),
    (("list", "--db="), 2, "after '--db', got an empty one", "--help"),
    # a file for a folder, a folder for a file, standard input
    (("publish", "{FILE}", *LINE), 2, "Directory '{FILE}' is a file.", "safelatch publish --help"),
    ((*EXTRACT, "{MODEL}", "--out", "{FILE}"), 2, "Directory '{FILE}' is a file.", "--help"),
    ((*EXTRACT, "{MODEL}", "--out", "{FOLDER}"), 2, "expected a new folder", "rm -r {FOLDER}"),
    ((*EXTRACT, "{MODEL}", "--out", "{NEW}", "--data", "{FOLDER}"), 2, "'{FOLDER}' is a directory", "--help"),
    (("extract", "esi-mask", "{MODEL}", "--out", "{NEW}", "--rho", "some"), 2, "'some' is not a valid float", "safelatch extract esi-mask --help"),
    (("extract", "safety-layers", "{MODEL}", "--out", "{NEW}", "--norms", "melted"), 2, "'melted' is not one of 'frozen', 'trainable'", "--help"),
    # what was published
    (("import", "published:phi-3", "--base", "{MODEL}", "--out", "{NEW}"), 2,
     "expected one of phi-3-mini-4k-instruct, llama-2-7b-chat, llama-3-8b-instruct, gemma-2b-it after published:, got 'phi-3'.",
     "safelatch import published:phi-3-mini-4k-instruct --base BASE --out DIR"),
    (("import", "published:", "--out", "{NEW}"), 2, "after published:, got ''.", "safelatch import"),
    (("import", "published:gemma-2b-it", "--out", "{NEW}"), 2,
     "expected a base for published:gemma-2b-it, got none",
     "safelatch import published:gemma-2b-it --base BASE --out DIR"),
    # configs of trainings
    (("show", "lock", "--as", "peft"), 2,
     "expected an artifact that is kept while training (safety-layers), got lock@1.0, a safety-lock",
     "registry.load_protected(MODEL)"),
    (("show", "lock", "--as", "peft", "--field", "digest"), 2, "expected --field or --as, got both",
     "safelatch show --help"),
    (("show", "lokc", "--as", "peft"), 1, "Did you mean lock?", "safelatch list"),
    (("log", "verify", "--anchor", "abc"), 2, "after --anchor, got 'abc'", "safelatch log verify"),
    (("audit", "{MODEL}", "--out", "{FOLDER}"), 2, "File '{FOLDER}' is a directory.", "--help"),
    (("audit", "{MODEL}", "--out", "/nowhere/r"), 4, "expected to write /nowhere/r", "--out FILE"),
    (("fingerprint", "{FILE}"), 1, "expected a folder or a .safetensors file, got {FILE}", "hf download"),
    (("fingerprint", "-"), 1, "expected a checkpoint at -", "Name a folder"),
    (("publish", "-", *LINE), 1, "expected a bundle", "safelatch extract"),
    (("show", "-"), 2, "got '-'.", "safelatch list"),
    # references
    (("show", "lokc"), 1, "Did you mean lock?", "safelatch list"),
    (("show", "lock@"), 2, "got 'lock@'.", "safelatch list"),
    (("show", "lock@2.0"), 1, "expected a version of lock (1.0), got '2.0'.", "safelatch show lock"),
    (("show", "my lock"), 2, "got 'my lock'.", "safelatch list"),
    (("show", "https://host/lock"), 2, "got 'https://host/lock'.", "safelatch list"),
    (("show", "hf://ns/lock"), 4, "on the Hub, got: offline mode.", "unset HF_HUB_OFFLINE"),
    (("show", "lock", "--field", "alpha"), 2, "got 'alpha'.",
     "Run: safelatch show lock --field contents.alpha"),
    (("show", "lock", "--field", "digset"), 2, "got 'digset'.",
     "Run: safelatch show lock --field digest"),
    (("show", "lock", "--field", "base.weihgts"), 2, "at base, got 'weihgts'.",
     "Run: safelatch show lock --field base.weights"),
    (("show", "lock", "--field", "digest.more"), 2, "at digest, got 'more'.",
     "Run: safelatch show lock --field digest"),
    (("show", LONG), 2, "got 'aaaa", "safelatch list"),
    (("base", "show", "tyni"), 1, "Did you mean tiny?", "safelatch base list"),
    (("base", "show", "two words"), 1, "got 'two words'.", "safelatch base list"),
    # models
    (("fingerprint", "https://huggingface.co/org/model/tree/main"), 2, "got a URL (https://...).",
     "Name it by its Hub id: org/model"),
    (("audit", "hf://org/model"), 2, "got a URL (hf://...).", "Name it by its Hub id: org/model"),
    (("lineage", "https://me:secret@host/model"), 2, "got a URL (https://...).",
     "Name it by a folder of this machine."),
    (("fingerprint", "org/model"), 4, "expected all of the model org/model", "org/model"),
    (("fingerprint", LONG), 3, "File name too long.", "folder that can be read"),
    ((*EXTRACT, "tyni", "--out", "{NEW}"), 1, "Did you mean tiny?", "safelatch base list"),
    # numbers
    (("log", "show", "--limit", "0"), 2, "0 is not in the range x>=1.", "log show --help"),
    (("calibrate", "{LOCK}", "--budget", "5"), 2, "5.0 is not in the range 0<=x<=1.", "--help"),
    ((*EXTRACT, "{MODEL}", "--out", "{NEW}", "--seed", "x"), 2, "'x' is not a valid integer.", "--help"),
    # databases
    (("--db", "{FOLDER}", "list"), 2, "got the folder {FOLDER}.", "--db {FOLDER}/registry.db"),
    (("list", "--db", "{FOLDER}/none.db"), 4, "found none.",
     "Make one: safelatch --db {FOLDER}/none.db init"),
    (("--db", "{FILE}", "list"), 4, "file is not a database.", "Name the registry's own file"),
    (("db", "check", "--db", "{FILE}"), 4, "file is not a database.", "--db FILE"),
    (("--db", "mysql://me:secret@host/d", "list"), 2, "got 'mysql://...'.", "--db URL"),
    (("--db", "mysql://host/d?password=p@secret", "list"), 2, "got 'mysql://...'.", "--db URL"),
    (("--db", "postgresql://me:secret@host:port/d", "list"), 2, "got 'postgresql://...'.",
     "--db URL"),
    (("--db", "sqlite://", "list"), 2, "got 'sqlite://...'.", "--db URL"),
)  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a base ``tiny`` and its ``lock@1.0``; made once, every mistake leaves it."""
    home = tmp_path_factory.mktemp("stage")
    model = write_checkpoint(home / "model", llama_config())
    lock = write_bundle(bundle_of(read_record(model), make_lock()), home / "draft")
    (home / "folder").mkdir()
    (home / "folder/file").write_text("nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELATCH_HOME", str(home))
        patch.setenv("SAFELATCH_CACHE", str(home / "cache"))
        for words in (
            ("init",), ("base", "add", model, "--name", "tiny"),
            ("publish", lock, "--name", "lock", "--version", "1.0"),
        ):  # fmt: skip
            assert safelatch(*words).status == 0, words
    return home


@pytest.fixture
def places(stage: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the words in braces mean."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SAFELATCH_HOME", str(stage))
    monkeypatch.setenv("SAFELATCH_CACHE", str(stage / "cache"))
    monkeypatch.setenv("SAFELATCH_BLOBS", str(stage / "blobs"))
    before = _times(stage)
    yield {
        "MODEL": str(stage / "model"), "LOCK": str(stage / "draft"), "NEW": str(stage / "new"),
        "FOLDER": str(stage / "folder"), "FILE": str(stage / "folder/file"),
    }  # fmt: skip
    assert _times(stage) == before


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".db"}


@pytest.mark.parametrize(
    ("words", "status", "fact", "repair"), TABLE, ids=[" ".join(row[0])[:60] for row in TABLE]
)
def test_mistake_is_one_error_with_its_repair(
    places: dict[str, str], words: tuple[str, ...], status: int, fact: str, repair: str
) -> None:
    def meant(text: str) -> str:
        for word, place in places.items():
            text = text.replace(f"{{{word}}}", place)
        return text

    outcome = safelatch(*map(meant, words))
    assert (outcome.status, outcome.out) == (status, "")
    first, hint = outcome.err.splitlines()
    assert first.startswith("error [")
    assert meant(fact) in first
    assert hint.startswith("hint: ")
    assert meant(repair) in hint
    assert "unexpected]" not in first
    assert "secret" not in outcome.err
    assert len(first) < 500


@pytest.mark.parametrize("url", ["postgresql://me:secret@h/d", "mysql://h/d?password=s@secret"])
def test_server_without_a_folder_for_blobs_keeps_its_password(home: Path, url: str) -> None:
    outcome = safelatch("list", "--db", url)
    assert outcome.status == 2
    assert "expected a folder for the blobs of a" in outcome.err
    assert "secret" not in outcome.err


def test_what_is_done_twice_is_no_mistake(places: dict[str, str]) -> None:
    for words, decision in (
        (("init",), "opened  "),
        (("base", "add", places["MODEL"]), "tiny  "),
        (("publish", places["LOCK"], "--name", "lock", "--version", "1.0"), "already published  "),
        (("db", "upgrade"), "already  "),
    ):
        outcome = safelatch(*words)
        assert outcome.status == 0
        assert outcome.out.startswith(decision)
