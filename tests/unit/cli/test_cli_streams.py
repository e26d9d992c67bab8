"""The command among other programs: pipes, files, terminals, signals. Real processes throughout."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.store_builders import make_record
from support.terminal import on_terminal
from support.tiny_models import llama_config, tensor_shapes, write_checkpoint

from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
SAFELATCH = (sys.executable, "-m", "registry")
COLOUR = re.compile(r"\x1b\[[0-9;]*[349][0-7][0-9;]*m")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in (
        "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONUNBUFFERED"
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose log is longer than a pipe holds, and a base with letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("made")
    with Registry.create(str(folder / "registry.db")) as registry:
        registry.add_base("modèle-日本", make_record("base"), b"record of base")
        for number in range(12):
            registry.append_event("test.event", "x" * 10_000, {"n": number})
    return folder


@pytest.fixture
def filled(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELATCH_HOME", str(made))
    return made


@pytest.fixture
def model(home: Path) -> Path:
    return write_checkpoint(home / "model", llama_config())


@pytest.fixture
def huge(home: Path) -> Path:
    """A model of 20 GB that takes no room: its file is a hole behind the header."""
    config = llama_config(num_hidden_layers=24, intermediate_size=1 << 20)
    header, end = {}, 0
    for name, shape in sorted(tensor_shapes(config).items()):
        begin, size = end, 4
        for width in shape:
            size *= width
        end += size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder = home / "huge"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [*SAFELATCH, *map(str, arguments)],
        env=environment, check=False, **{"capture_output": True, **options},
    )  # fmt: skip


def files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("words", [(), ("--format", "json")])
def test_interrupt_in_the_middle_of_reading_weights(
    huge: Path, home: Path, words: tuple[str, ...]
) -> None:
    out, before = home / "out", sorted(files(home))
    command = (*SAFELATCH, "fingerprint", huge, *words)
    with on_terminal(command, cwd=home, env={"TERM": "xterm"}, stdout=out) as terminal:
        assert "reading weights" in terminal.read_until("reading weights")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 130
    assert "Traceback" not in terminal.seen
    assert sorted(files(home)) == sorted([*before, "out"])
    if words:
        assert json.loads(out.read_bytes())["error"]["code"] == "interrupted"
        assert "interrupted" not in terminal.seen
    else:
        assert out.read_bytes() == b""
        assert terminal.seen.endswith("\r\ninterrupted\r\n")


@pytest.mark.parametrize("words", [("log", "show"), ("log", "show", "--format", "json")])
def test_reader_that_leaves_early_ends_the_command_without_a_word(
    filled: Path, words: tuple[str, ...]
) -> None:
    with subprocess.Popen(
        [*SAFELATCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_error_document_whose_reader_has_gone_is_said_on_stderr(home: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run("list", "--format", "json", stdout=write_end, stderr=subprocess.PIPE,
               capture_output=False)  # fmt: skip
    os.close(write_end)
    assert done.returncode == 4
    assert done.stderr.startswith(b"error [registry-missing]: ")
    assert done.stderr.count(b"\n") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("form", ["text", "json"])
def test_full_disk_behind_stdout_is_an_environment_error(model: Path, form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("fingerprint", model, "--format", form, stdout=full, stderr=subprocess.PIPE,
                   capture_output=False)  # fmt: skip
    assert done.returncode == 4
    assert done.stderr == (
        b"error [environment]: expected to print the result, stdout says: "
        b"No space left on device.\n"
        b"hint: Send it to a place that takes it: safelatch ... > FILE\n"
    )


def test_closed_stdout_is_an_environment_error(model: Path) -> None:
    line = f"{sys.executable} -m registry fingerprint {model} --format json >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
    assert done.returncode == 4
    assert done.stderr == (
        b"error [environment]: expected to print the result, stdout is closed.\n"
        b"hint: Send it to a place that takes it: safelatch ... > FILE\n"
    )


@pytest.mark.parametrize(
    "env",
    [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
     {"PYTHONIOENCODING": "latin-1"}],
    ids=["C", "latin-1"],
)  # fmt: skip
def test_terminal_without_our_letters_still_shows_every_row(
    filled: Path, env: dict[str, str]
) -> None:
    done = run("base", "list", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u65e5\u672c" in done.stdout or "日本".encode() in done.stdout


def test_csv_is_utf8_wherever_it_goes(filled: Path) -> None:
    done = run("base", "list", "--format", "csv", env={"PYTHONIOENCODING": "latin-1"})
    assert "modèle-日本" in done.stdout.decode("utf-8")


def test_nothing_but_the_result_where_stderr_is_a_file(model: Path, home: Path) -> None:
    env = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm-256color"}
    done = run("fingerprint", model, "--no-cache", env=env)
    assert done.stderr == b""
    assert re.fullmatch(rb"blake3:[0-9a-f]{64}\n", done.stdout)


@pytest.mark.parametrize(
    ("words", "env", "is_seen"),
    [
        ((), {"TERM": "xterm-256color"}, True),
        ((), {"TERM": "xterm-256color", "NO_COLOR": "1"}, True),
        (("--quiet",), {"TERM": "xterm-256color"}, False),
        ((), {"TERM": "dumb", "FORCE_COLOR": "1"}, False),
    ],
)
def test_a_bar_is_drawn_on_a_terminal_and_taken_away(
    model: Path, home: Path, words: tuple[str, ...], env: dict[str, str], *, is_seen: bool
) -> None:
    command = (*SAFELATCH, "fingerprint", model, "--no-cache", *words)
    with on_terminal(command, cwd=home, env=env, stdout=home / "out") as terminal:
        assert terminal.wait() == 0
    assert ("reading weights" in terminal.seen) == is_seen
    assert is_seen or not terminal.seen
    after = terminal.seen.rpartition("\x1b[2K")[2]  # what is left when the line was wiped
    assert not re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", after).strip()
    assert bool(COLOUR.search(terminal.seen)) == (is_seen and "NO_COLOR" not in env)
    assert (home / "out").read_text().startswith("blake3:")


def test_results_and_errors_have_no_colour_on_a_terminal(filled: Path, home: Path) -> None:
    for command in (("base", "list"), ("base", "show", "日本"), ("--help",)):
        with on_terminal((*SAFELATCH, *command), cwd=home, env={"TERM": "xterm"}) as terminal:
            terminal.wait()
        assert terminal.seen
        assert "\x1b" not in terminal.seen
