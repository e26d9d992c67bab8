from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from support.command_line import safelatch

from registry import errors
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

HINT = "Do that: safelatch that"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes ``safelatch init`` raise."""

    def break_with(error: BaseException) -> None:
        def create(*_: Any, **__: Any) -> NoReturn:
            raise error

        monkeypatch.setattr(Registry, "create", create)

    return break_with


def every_error(root: type[Any] = errors.SafelatchError) -> list[type[Any]]:
    return [root, *(found for child in root.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_each_error_keeps_its_code_hint_and_exit_status(
    broken: Callable[[BaseException], None], kind: type[Any]
) -> None:
    listed = ([],) if issubclass(kind, errors.SchemaViolationError) else ()
    broken(kind("expected a, got b.", *listed, hint=HINT))
    outcome = safelatch("init")
    assert outcome.status == kind.exit_code
    assert outcome.out == ""
    assert outcome.err == f"error [{kind.code}]: expected a, got b.\nhint: {HINT}\n"
    machine = safelatch("init", "--format", "json")
    assert (machine.status, machine.err) == (kind.exit_code, "")
    assert machine.document == {
        "error": {"code": kind.code, "message": "expected a, got b.", "hint": HINT}
    }


def test_error_without_a_hint_prints_one_line(broken: Callable[[BaseException], None]) -> None:
    broken(errors.UsageError("expected a, got b."))
    assert safelatch("init").err == "error [usage]: expected a, got b.\n"


def test_message_with_control_characters_cannot_paint_the_terminal(
    broken: Callable[[BaseException], None],
) -> None:
    broken(errors.EvidenceError("got 'a\x1b[2J'.", hint="h\x07"))
    assert safelatch("init").err == "error [evidence]: got 'a\\x1b[2J'.\nhint: h\\x07\n"


def test_interrupt_ends_with_130(broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    outcome = safelatch("init")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "interrupted\n")


def test_interrupt_as_json_is_the_error_document(
    broken: Callable[[BaseException], None],
) -> None:
    broken(KeyboardInterrupt())
    outcome = safelatch("init", "--format", "json")
    assert (outcome.status, outcome.err) == (130, "")
    assert outcome.document["error"]["code"] == "interrupted"


@pytest.mark.parametrize("form", ["text", "json"])
def test_interrupt_while_what_was_typed_is_read_ends_with_130_too(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("registry.cli.main._Root.parse_args", interrupted)
    outcome = safelatch("list", "--format", form)
    assert outcome.status == 130
    assert outcome.err == ("\n" if form == "json" else "\ninterrupted\n")
    if form == "json":
        assert outcome.document["error"]["code"] == "interrupted"


def test_place_that_fails_is_an_environment_error_and_no_bug(
    broken: Callable[[BaseException], None],
) -> None:
    broken(OSError(28, "No space left on device", "/data/" + "x" * 500))
    outcome = safelatch("init")
    assert (outcome.status, outcome.out) == (4, "")
    first = outcome.err.splitlines()[0]
    assert first.startswith("error [environment]: expected to work at /data/xxx")
    assert first.endswith("x, got: No space left on device.")
    assert len(first) < 300
    assert "bug" not in outcome.err


def test_package_that_is_not_installed_is_no_bug(broken: Callable[[BaseException], None]) -> None:
    broken(ModuleNotFoundError("No module named 'blake3._x'", name="blake3._x"))
    outcome = safelatch("init")
    assert (outcome.status, outcome.out) == (4, "")
    assert outcome.err == (
        "error [missing-dependency]: expected the package blake3, found none.\n"
        "hint: Install it: pip install blake3\n"
    )


def test_bug_is_no_honest_no(broken: Callable[[BaseException], None]) -> None:
    broken(ZeroDivisionError("division by zero\nmore"))
    outcome = safelatch("init")
    assert (outcome.status, outcome.out) == (4, "")
    assert outcome.err.startswith("error [unexpected]: ZeroDivisionError: division by zero\nhint:")
    assert "--traceback" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), errors.CorruptStoreError("x")])
def test_traceback_shows_where_and_keeps_the_status(
    broken: Callable[[BaseException], None], error: Exception
) -> None:
    broken(error)
    plain, traced = safelatch("init"), safelatch("--traceback", "init")
    assert traced.status == plain.status
    assert "Traceback (most recent call last)" in traced.err
    assert "in create" in traced.err
    assert traced.err.endswith(plain.err)


def test_typed_wrong_is_2_also_as_json() -> None:
    outcome = safelatch("list", "--nothing")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        "error [usage]: No such option '--nothing'.\nhint: See how: safelatch list --help\n"
    )
    assert safelatch("nothing").status == 2
    machine = safelatch("log", "show", "--format", "json", "--limit", "0")
    assert (machine.status, machine.err) == (2, "")
    assert machine.document["error"]["code"] == "usage"
    assert "--help" in machine.document["error"]["hint"]


def test_wrong_url_is_typed_wrong_and_keeps_its_password() -> None:
    outcome = safelatch("--db", "mysql://me:secret@host/db", "list")
    assert outcome.status == 2
    assert "secret" not in outcome.err


@pytest.mark.parametrize("words", [("log", "show"), ("init",), ()])
def test_password_of_a_url_in_the_wrong_place_is_not_repeated(words: tuple[str, ...]) -> None:
    outcome = safelatch(*words, "https://me:secret@host/x")
    assert outcome.status == 2
    assert "https://...@host/x" in outcome.err
    assert "secret" not in outcome.err
