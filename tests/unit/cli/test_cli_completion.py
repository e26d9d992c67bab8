from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ShellComplete,
    ZshComplete,
    get_completion_class,
)
from support.command_line import safelatch
from support.store_builders import make_record, publish
from support.terminal import on_terminal

from registry.cli.invocation import Invocation
from registry.cli.main import cli
from registry.store.catalog import Registry

ROOT = Path(__file__).resolve().parents[3]
SHELLS = ("bash", "zsh", "fish")


def offered(line: str) -> list[Any]:
    """Return what TAB offers at the end of ``line``."""
    *words, last = line.split(" ")[1:]
    complete = ShellComplete(cli, {"obj": Invocation()}, "safelatch", "_SAFELATCH_COMPLETE")
    return complete.get_completions(words, last)


def values(line: str) -> list[str]:
    return [item.value for item in offered(line) if item.type == "plain"]


def types(line: str) -> set[str]:
    return {item.type for item in offered(line)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two lines and a base whose name a shell would take apart."""
    folder = tmp_path_factory.mktemp("made")
    with Registry.create(str(folder / "registry.db")) as registry:
        publish(registry, "lock", "1.0.0")
        old = publish(registry, "lock", "1.1.0", tensors=b"other")
        bad = publish(registry, "lock", "1.2.0", tensors=b"bad")
        publish(registry, "guard", "0.1", tensors=b"third")
        registry.set_state(old, "yanked", "too weak")
        registry.set_state(bad, "revoked", "harmful")
        registry.add_base("two words", make_record("two words"), b"record of two words")
    return folder


@pytest.fixture
def names(made: Path, home: Path) -> Path:
    """A copy of it, where the command looks."""
    shutil.copytree(made, home, dirs_exist_ok=True)
    return home / "registry.db"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_is_clicks_own(shell: str) -> None:
    kinds = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    outcome = safelatch("completion", shell)
    assert (outcome.status, outcome.err) == (0, "")
    script = kinds[shell](cli, {}, "safelatch", "_SAFELATCH_COMPLETE").source()
    assert outcome.out.strip() == script.strip()


def test_help_says_how_each_shell_takes_the_script() -> None:
    shown = safelatch("completion", "--help").out
    assert all(f"safelatch completion {shell}" in shown for shell in SHELLS)
    assert "completion" in safelatch("--help").out


def test_verbs_options_and_choices_are_completed() -> None:
    assert values("safelatch in") == ["init", "inspect"]
    assert values("safelatch log ") == ["head", "show", "verify"]
    assert values("safelatch extract sa") == ["safety-layers", "safety-lock"]
    assert "--format" in values("safelatch list --fo")
    assert values("safelatch list --format ") == ["text", "json", "csv"]
    assert values("safelatch check x y --format ") == ["text", "json"]
    assert values("safelatch completion ") == list(SHELLS)
    assert {"--db", "--quiet", "--traceback"} <= set(values("safelatch list --"))


def test_artifacts_are_completed_with_the_versions_that_can_be_used(names: Path) -> None:
    expected = ["guard", "guard@0.1", "lock", "lock@1.1.0", "lock@1.0.0"]
    for line in ("show ", "check ", "calibrate ", "inspect ./model "):
        assert values(f"safelatch {line}") == expected
    assert values("safelatch show lock@1") == ["lock@1.1.0", "lock@1.0.0"]
    helps = {item.value: item.help for item in offered("safelatch show lock@") if item.help}
    assert helps["lock@1.1.0"].startswith("yanked ")


def test_a_line_to_sign_is_completed_without_versions(names: Path) -> None:
    assert values("safelatch sign ") == ["guard", "lock"]
    assert values("safelatch yank lock@1") == ["lock@1.1.0", "lock@1.0.0"]


def test_keys_are_completed_beside_files_until_they_are_revoked(names: Path) -> None:
    trusted, revoked = (f"ed25519:{digit * 64}" for digit in "12")
    with Registry.open(str(names)) as registry:
        registry.trust_key(trusted, label="Acme", namespaces=["*"])
        registry.revoke_key(revoked, "stolen")
    for verb in ("revoke", "trust"):
        assert values(f"safelatch key {verb} ") == [trusted]
        assert types(f"safelatch key {verb} ") == {"file", "plain"}
    assert values("safelatch key revoke ed") == [trusted]
    assert values("safelatch key revoke pub") == []
    assert types("safelatch sign lock --key ") == {"file"}


def test_bases_are_completed_unless_a_shell_would_take_the_name_apart(names: Path) -> None:
    assert values("safelatch base show ") == ["base"]
    assert values("safelatch extract safety-lock b") == ["base"]


@pytest.mark.parametrize(
    "line",
    ["fingerprint ", "lineage ", "base add ", "audit ./a ", "check lock ", "inspect ",
     "publish ", "extract safety-lock x --out ", "calibrate ./lock --out ", "demo --out ",
     "extract safety-lock ./", "show ./", "show /", "calibrate ~"],
)  # fmt: skip
def test_places_are_completed_by_the_shell_as_folders(names: Path, line: str) -> None:
    assert types(f"safelatch {line}") == {"dir"}


def test_files_are_completed_by_the_shell_as_files() -> None:
    assert types("safelatch audit ./a --out ") == {"file"}
    assert types("safelatch extract safety-lock x --data ") == {"file"}


def test_tab_makes_no_registry_and_no_folder(home: Path) -> None:
    before = sorted(home.rglob("*"))
    assert values("safelatch show ") == []
    assert values("safelatch base show ") == []
    assert sorted(home.rglob("*")) == before


def test_tab_reads_the_registry_that_the_line_names(names: Path, home: Path) -> None:
    names.rename(home / "team.db")
    assert values("safelatch show g") == []
    assert values(f"safelatch --db {home / 'team.db'} show g") == ["guard", "guard@0.1"]
    assert values(f"safelatch show --db {home / 'team.db'} g") == ["guard", "guard@0.1"]


def test_tab_changes_no_byte_of_the_registry(names: Path, home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert values("safelatch show g")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "content", [b"", b"no database", b"SQLite format 3\0" + bytes(84)], ids=["empty", "text", "cut"]
)
def test_tab_says_nothing_about_a_registry_that_cannot_be_read(
    home: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "registry.db").write_bytes(content)
    assert values("safelatch show ") == []
    assert capfd.readouterr() == ("", "")
    assert (home / "registry.db").read_bytes() == content


@pytest.mark.parametrize("url", ["postgresql://u:p@localhost:1/d", "mysql://h/d", "x" * 5000])
def test_tab_asks_no_server_and_takes_any_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELATCH_DB", url)
    monkeypatch.setenv("SAFELATCH_BLOBS", "/nowhere")
    assert values("safelatch show ") == []


@pytest.mark.parametrize(
    "line", ["", "nothing ", "show a b c d ", "list --format xml --db ", "--db ", "-", "help b"]
)
def test_tab_behind_anything_typed_is_no_error(line: str) -> None:
    offered(f"safelatch {line}")


def asked(shell: str, words: str, current: object) -> dict[str, str]:
    return {
        **os.environ,
        "_SAFELATCH_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(current),
        "PYTHONPATH": str(ROOT),
    }


LOADED = """
import sys
sys.argv = ["safelatch"]
try:
    from registry.cli.main import main; main()
except SystemExit as end:
    print("status", end.code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def through_the_command(shell: str, words: str, current: object) -> tuple[list[str], list[str]]:
    """Return what the real command answers a shell, and which packages it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=asked(shell, words, current),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *answer, last = done.stdout.splitlines()
    status, code, *modules = last.split()
    assert (status, code, done.stderr) == ("status", "0", "")
    return answer, modules


@pytest.mark.parametrize(
    ("shell", "words", "current", "answer"),
    [
        ("bash", "safelatch\nsh", 1, ["plain,show"]),
        ("bash", "safelatch\nlist\n--form", 2, ["plain,--format"]),
        ("zsh", "safelatch list --format j", 3, ["plain", "json", "_"]),
        ("fish", "safelatch completion z", "z", ["plain,zsh"]),
    ],
)
def test_verbs_and_options_are_completed_without_the_database(
    names: Path, shell: str, words: str, current: object, answer: list[str]
) -> None:
    got, modules = through_the_command(shell, words, current)
    assert got == answer
    outside = set(modules) - set(sys.stdlib_module_names) - {"__main__", "click", "registry"}
    assert not {"sqlalchemy", "torch", "numpy", "rich", "transformers", "alembic"} & outside


def test_without_a_registry_the_database_is_not_even_loaded(home: Path) -> None:
    got, modules = through_the_command("zsh", "safelatch show gu", 2)
    assert got == ["dir", "gu", "_"]
    assert "sqlalchemy" not in modules


def test_names_are_completed_without_torch(names: Path) -> None:
    got, modules = through_the_command("zsh", "safelatch show gu", 2)
    assert got[3:] == ["plain", "guard", "safety_lock", "plain", "guard@0.1", "active safety_lock"]
    assert not {"torch", "transformers", "huggingface_hub", "rich"} & set(modules)


def test_a_bug_on_tab_is_silent(home: Path) -> None:
    code = LOADED.replace(
        "    from registry.cli.main",
        "    import registry.cli.completion as c; c.Invocation.settings = 1 / 1 and None\n"
        "    from registry.cli.main",
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=asked("zsh", "safelatch show ", 2),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split()[:2] == ["status", "4"]


@pytest.mark.parametrize(
    ("words", "current", "answer"),
    [
        ("safelatch\nshow\nlock\n@", 3, ["@1.1.0", "@1.0.0"]),
        ("safelatch\nshow\nlock\n@\n1.0", 4, ["@1.0.0"]),
        ("safelatch\nshow\nlock@1.0", 2, ["lock@1.0.0"]),  # "@" taken out of COMP_WORDBREAKS
        ("safelatch\nlist\n--format\n=\nj", 4, ["json"]),
        ("safelatch\nlist\n--format\n=", 3, ["text", "json", "csv"]),
    ],
)
def test_bash_answers_fit_the_piece_that_bash_replaces(
    names: Path, monkeypatch: pytest.MonkeyPatch, words: str, current: int, answer: list[str]
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(current))
    kind = get_completion_class("bash")
    shown = kind(cli, {"obj": Invocation()}, "safelatch", "X").complete().splitlines()
    assert [line.partition(",")[2] for line in shown if line.startswith("plain")] == answer


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_a_real_bash_completes_verbs_names_and_folders(names: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin/safelatch"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from registry.cli.main import main; main()\n"
    )
    program.chmod(0o755)
    (tmp_path / "model-folder").mkdir()
    path = f"{program.parent}:{os.environ['PATH']}"
    env = {"PS1": "> ", "TERM": "dumb", "INPUTRC": "/dev/null", "PATH": path}
    bash = ("bash", "--norc", "--noprofile", "-i")
    with on_terminal(bash, cwd=tmp_path, env=env, stdin=True) as terminal:
        terminal.type('eval "$(safelatch completion bash)"; echo re""ady\n')
        terminal.read_until("ready")
        for typed, completed in (
            ("safelatch sho", "safelatch show "),
            ("safelatch show gu", "safelatch show guard"),
            ("safelatch show guard@", "safelatch show guard@0.1 "),
            ("safelatch list --format=js", "safelatch list --format=json "),
            ("safelatch check guard@0.1 mod", "safelatch check guard@0.1 model-folder/"),
        ):
            terminal.type(f"{typed}\t")
            terminal.read_until(completed[-2:])
            terminal.type("\x01echo '\x05'\n")  # what stands in the line, printed
            assert completed in terminal.read_until("\n> "), typed
