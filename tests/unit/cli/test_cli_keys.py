"""``safelatch key``, and how a verb reads the keys that sign."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch
from support.terminal import on_terminal

from registry.artifact.signing import is_encrypted, read_private_key, read_public_key
from registry.errors import ConfirmationRequiredError
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from conftest import Locks

PASSPHRASE = "SAFELATCH_KEY_PASSPHRASE"
MISSING = (
    "hint: Name the file that its owner gave you, NAME.pub, or the key's id, "
    "ed25519:<64 hex digits>.\n"
)


@pytest.fixture
def key(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a new key, ``publisher``, in the current folder; and an empty registry."""
    monkeypatch.chdir(home)
    assert safelatch("init").status == 0
    return str(make("publisher"))


def make(name: str) -> str:
    return str(safelatch("key", "generate", "--out", name, "--format", "json").document["key_id"])


def listed() -> list[dict[str, object]]:
    found: list[dict[str, object]] = safelatch("key", "list", "--format", "json").document
    return found


def actions() -> list[str]:
    return [e["action"] for e in safelatch("log", "show", "--format", "json").document]


def test_generate_makes_one_file_to_keep_and_one_to_give(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    outcome = safelatch("key", "generate", "--out", "publisher")
    private, public = Path("publisher.key"), Path("publisher.pub")
    key_id = read_private_key(private).key_id
    assert read_public_key(public) == key_id
    assert (outcome.status, outcome.out) == (0, f"made  publisher.key  publisher.pub  {key_id}\n")
    assert outcome.err == (
        "keep publisher.key to yourself; whoever loads what it signs runs: "
        "safelatch key trust publisher.pub --for NAMESPACE\n"
    )
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert not is_encrypted(private)
    assert not (home / "registry.db").exists()


@pytest.mark.parametrize("there", [(".key", ".pub"), (".key",), (".pub",)])
def test_a_key_that_is_there_is_never_overwritten(key: str, there: tuple[str, ...]) -> None:
    for suffix in {".key", ".pub"} - set(there):
        Path(f"publisher{suffix}").unlink()
    before = {path.name: path.read_bytes() for path in Path().glob("publisher.*")}
    outcome = safelatch("key", "generate", "--out", "publisher")
    names = " and ".join(f"publisher{suffix}" for suffix in there)
    assert (outcome.status, outcome.out, outcome.err) == (
        2, "",
        (f"error [usage]: expected names that are free, got {names}: a key that is overwritten "
        "cannot be brought back.\n"
        "hint: Choose another name: safelatch key generate --out NAME\n"),
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in Path().glob("publisher.*")} == before


def test_a_dangling_link_is_no_free_name(key: str) -> None:
    Path("link.pub").symlink_to("nowhere")
    outcome = safelatch("key", "generate", "--out", "link")
    assert (outcome.status, outcome.err.partition(":")[0]) == (2, "error [usage]")
    assert not Path("link.key").exists()


@pytest.mark.parametrize("out", ["/", ".", "..", "keys/", "../"])
def test_a_folder_is_no_name_of_a_key(key: str, out: str) -> None:
    before = sorted(Path().rglob("*"))
    outcome = safelatch("key", "generate", "--out", out)
    assert (outcome.status, outcome.err) == (
        2,
        (
            f"error [usage]: expected a name for two new files, got the folder {out!r}.\n"
            f"hint: Name them in it: safelatch key generate --out {Path(out) / 'NAME'}\n"
        ),
    )
    assert sorted(Path().rglob("*")) == before


def test_a_place_that_is_not_there_is_not_made(key: str) -> None:
    outcome = safelatch("key", "generate", "--out", "typo/publisher")
    assert (outcome.status, outcome.err) == (
        4,
        (
            "error [environment]: expected to write typo/publisher.key, got: no such folder, or no "
            "right to write there.\n"
            "hint: Name a file in a folder that exists and can be written: --out FILE\n"
        ),
    )
    assert not Path("typo").exists()


def test_no_private_key_stays_where_the_public_one_cannot_be_written(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry import wholefile

    real = wholefile.write_file

    def full(path: Path, data: bytes, **rest: int) -> None:
        if path.suffix == ".pub":
            raise OSError(28, "No space left on device")
        real(path, data, **rest)

    monkeypatch.setattr("registry.wholefile.write_file", full)
    outcome = safelatch("key", "generate", "--out", "second")
    assert (outcome.status, outcome.err.partition("\n")[0]) == (
        4,
        (
            "error [environment]: expected a place where a key can be written at ., got: No space "
            "left on device."
        ),
    )
    assert not list(Path().glob("second*"))


def test_an_encrypted_key_takes_the_passphrase_of_the_environment(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = safelatch("key", "generate", "--out", "kept", "--encrypt")
    assert (without.status, without.err) == (
        2,
        (
            "error [usage]: expected a passphrase to encrypt the key with, got none.\n"
            f"hint: Give it: export {PASSPHRASE}=..., or run this on a terminal.\n"
        ),
    )
    assert not list(Path().glob("kept*"))
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    made = safelatch("key", "generate", "--out", "kept", "--encrypt", "--format", "json").document
    assert made["encrypted"] is True
    assert is_encrypted(Path("kept.key"))
    assert stat.S_IMODE(Path("kept.key").stat().st_mode) == 0o600
    assert read_private_key(Path("kept.key"), "correct horse").key_id == made["key_id"]
    with pytest.raises(ConfirmationRequiredError):
        read_private_key(Path("kept.key"), "battery staple")


def test_a_passphrase_is_asked_for_on_a_terminal_and_never_shown(key: str, home: Path) -> None:
    run = [sys.executable, "-c", "from registry.cli.main import main; main()"]
    with on_terminal(
        [*run, "key", "generate", "--out", "typed", "--encrypt"], cwd=home, env={}, stdin=True
    ) as terminal:
        for _ in range(2):
            terminal.read_until(": ")
            terminal.type("correct horse\n")
        assert terminal.wait() == 0
    assert "Passphrase of the new key" in terminal.seen
    head = ("log", "head", "--key", "typed.key", "--out", "head.json")
    safelatch("key", "trust", "typed.pub", "--for", "*")  # an event for the head
    with on_terminal([*run, *head], cwd=home, env={}, stdin=True) as second:
        second.read_until(": ")
        second.type("correct horse\n")
        assert second.wait() == 0
    assert "Passphrase of typed.key: " in second.seen
    assert "horse" not in terminal.seen + second.seen


def test_trust_takes_a_file_or_the_key_itself(key: str) -> None:
    outcome = safelatch("key", "trust", "publisher.pub", "--for", "acme/*", "--label", "Acme")
    assert (outcome.status, outcome.out) == (0, f"trusted  {key}  for acme/*\n")
    assert safelatch("key", "trust", key, "--for", "acme/*", "--label", "Acme").status == 0
    assert actions().count("key.trust") == 1  # the same again is no news
    found = safelatch(
        "key", "trust", key, "--for", "tiny", "--for", "acme/*", "--replace",
        "--not-before", "2020-01-01", "--not-after", "2100-02-03T04:05:06Z", "--format", "json",
    ).document  # fmt: skip
    assert found == {
        "key_id": key, "state": "trusted", "label": None, "namespaces": ["acme/*", "tiny"],
        "not_before": "2020-01-01T00:00:00Z", "not_after": "2100-02-03T04:05:06Z",
        "trusted_at": found["trusted_at"], "revoked_at": None, "reason": None,
    }  # fmt: skip
    assert listed() == [found]
    assert actions().count("key.trust") == 2


FIRST = ("--for", "tiny", "--for", "acme/*", "--label", "Acme", "--not-after", "2100-01-01")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--for", "other"), "for other"),
        (("--for", "*", *FIRST[4:]), "for *, label Acme, until 2100-01-01T00:00:00Z"),
        (FIRST[:6], "for acme/*, tiny, label Acme"),
        ((*FIRST, "--not-before", "2020-01-01"), ("for acme/*, tiny, label Acme, from "
         "2020-01-01T00:00:00Z, until 2100-01-01T00:00:00Z")),
        ((*FIRST, "--label", "Evil"), ("for acme/*, tiny, label Evil, until "
         "2100-01-01T00:00:00Z")),
    ],
)  # fmt: skip
def test_what_a_key_is_trusted_for_is_not_replaced_by_the_way(
    key: str, asked: tuple[str, ...], told: str
) -> None:
    assert safelatch("key", "trust", key, *FIRST).status == 0
    before = listed()
    outcome = safelatch("key", "trust", "publisher.pub", *asked)
    assert (outcome.status, outcome.out, outcome.err) == (
        2, "",
        (f"error [confirmation-required]: {key}: expected what it is trusted for already (for "
        f"acme/*, tiny, label Acme, until 2100-01-01T00:00:00Z), got {told}.\n"
        "hint: To replace it, give all of it with --replace: safelatch key trust PUB --for "
        "NAMESPACE --replace\n"),
    )  # fmt: skip
    assert listed() == before
    assert safelatch("key", "trust", key, *reversed_pairs(FIRST)).status == 0  # no news
    assert actions().count("key.trust") == 1


def reversed_pairs(words: tuple[str, ...]) -> list[str]:
    return [word for at in range(len(words) - 2, -1, -2) for word in words[at : at + 2]]


def test_replacing_says_what_is_dropped(key: str) -> None:
    assert safelatch("key", "trust", key, *FIRST).status == 0
    outcome = safelatch("key", "trust", key, "--for", "tiny", "--label", "Acme Inc", "--replace")
    assert (outcome.status, outcome.err, outcome.out) == (
        0, "",
        (f"trusted  {key}  for tiny  no longer: acme/*, label Acme, until "
        "2100-01-01T00:00:00Z\n"),
    )  # fmt: skip
    assert [(one["namespaces"], one["label"], one["not_after"]) for one in listed()] == [
        (["tiny"], "Acme Inc", None)
    ]
    more = ("--for", "tiny", "--for", "*", "--label", "Acme Inc", "--replace")
    assert safelatch("key", "trust", key, *more).out == f"trusted  {key}  for *, tiny\n"
    new = make("second")
    assert safelatch("key", "trust", new, "--for", "*", "--replace").out == (
        f"trusted  {new}  for *\n"
    )


@pytest.mark.parametrize(
    ("dates", "told"),
    [
        (("--not-after", "2020-01-01"), "valid until 2020-01-01T00:00:00Z, it is "),
        (("--not-before", "2100-01-01"), "valid from 2100-01-01T00:00:00Z on, it is "),
    ],
)
def test_trusting_a_key_outside_its_dates_says_so(
    key: str, dates: tuple[str, ...], told: str
) -> None:
    outcome = safelatch("key", "trust", key, "--for", "*", *dates)
    assert (outcome.status, outcome.out) == (0, f"trusted  {key}  for *\n")
    assert outcome.err.startswith(f"{key} does not count now: {told}")


def test_show_says_whether_a_key_is_trusted(key: str) -> None:
    def shown() -> str:
        by_file, by_id = (safelatch("key", "show", name) for name in ("publisher.pub", key))
        assert by_file == by_id
        assert (by_file.status, by_file.err) == (0, "")
        return by_file.out

    assert shown() == f"unknown here  {key}\n"
    unknown = safelatch("key", "show", key, "--format", "json").document
    assert (unknown["key_id"], unknown["state"], unknown["namespaces"]) == (key, "unknown here", [])
    safelatch("key", "trust", key, *FIRST)
    for_what = "for acme/*, tiny, label Acme, until 2100-01-01T00:00:00Z"
    assert shown() == f"trusted  {key}  {for_what}\n"
    assert [safelatch("key", "show", key, "--format", "json").document] == listed()
    safelatch("key", "trust", key, "--for", "*", "--not-after", "2020-01-01", "--replace")
    assert shown() == f"not valid now  {key}  for *, until 2020-01-01T00:00:00Z\n"
    safelatch("key", "revoke", key, "--reason", "stolen laptop")
    assert shown() == f"revoked  {key}  stolen laptop\n"
    assert [safelatch("key", "show", key, "--format", "json").document] == listed()


def test_show_needs_no_registry_and_makes_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    key = make("publisher")
    outcome = safelatch("key", "show", "publisher.pub")
    assert (outcome.status, outcome.out) == (0, f"unknown here  {key}\n")
    assert not (home / "registry.db").exists()
    private = safelatch("key", "show", "publisher.key")
    assert (private.status, private.err.splitlines()[-1]) == (
        2, "hint: Name the public one: publisher.pub",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dates", "state"),
    [
        (("--not-before", "2100-01-01"), "not valid now"),
        (("--not-after", "2020-01-01"), "not valid now"),
        (("--not-before", "2020-01-01", "--not-after", "2100-01-01"), "trusted"),
    ],
)
def test_a_key_outside_its_dates_is_not_valid_now(
    key: str, dates: tuple[str, ...], state: str
) -> None:
    assert safelatch("key", "trust", key, "--for", "*", *dates).status == 0
    assert [one["state"] for one in listed()] == [state]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (
            ("publisher.key", "--for", "*"), 2,
            ("error [usage]: expected a public key at publisher.key, got a private one, which only "
            "its owner may have.\nhint: Name the public one: publisher.pub\n"),
        ),
        (
            ("publisher.pub", "--for", "acme*"), 2,
            ("error [usage]: expected a namespace such as acme/*, acme/base-7b, a digest or '*', "
            "got 'acme*'.\nhint: Name what the key may speak for: --for 'acme/*'\n"),
        ),
        (
            ("publisher.pub",), 2,
            ("error [usage]: Missing option '--for'.\n"
            "hint: See how: safelatch key trust --help\n"),
        ),
        (
            ("nobody.pub", "--for", "*"), 1,
            f"error [not-found]: expected a key at nobody.pub, found none.\n{MISSING}",
        ),
        (
            ("ed25519:00", "--for", "*"), 2,
            ("error [usage]: expected a key as ed25519:<64 hex digits>, got 'ed25519:00'.\n"
            "hint: List those that are trusted: safelatch key list\n"),
        ),
        (
            ("registry.db", "--for", "*"), 3,
            "error [unsafe-format]: ",
        ),
        (
            ("publisher.pub", "--for", "*", "--not-after", "tomorrow"), 2,
            "error [usage]: Invalid value for '--not-after': 'tomorrow' does not match",
        ),
    ],
)  # fmt: skip
def test_what_is_no_public_key_for_a_namespace_is_not_trusted(
    key: str, words: tuple[str, ...], status: int, told: str
) -> None:
    outcome = safelatch("key", "trust", *words)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(told)
    assert listed() == []


def test_a_validity_that_ends_before_it_begins_is_refused(key: str) -> None:
    dates = ("--not-before", "2030-01-01", "--not-after", "2029-01-01")
    outcome = safelatch("key", "trust", key, "--for", "*", *dates)
    assert outcome.status == 2
    assert "expected an end of validity after 2030-01-01" in outcome.err
    assert listed() == []


def test_list_shows_every_key_in_all_three_forms(key: str) -> None:
    empty = safelatch("key", "list")
    assert (empty.out, empty.err) == (
        "", "no key is trusted here; see: safelatch key trust --help\n",
    )  # fmt: skip
    safelatch("key", "trust", key, "--for", "acme/*", "--for", "tiny", "--label", "Acme")
    unknown = "ed25519:" + "0" * 64
    safelatch("key", "revoke", unknown, "--reason", "heard of it")
    rows = [line.split("  ") for line in safelatch("key", "list").out.splitlines()[1:]]
    assert [[cell.strip() for cell in row if cell][:4] for row in rows] == [
        [key, "trusted", "acme/*, tiny", "Acme"],
        [unknown, "revoked", "-", "-"],
    ]
    assert safelatch("key", "list", "--format", "csv").out.splitlines() == [
        "key_id,state,namespaces,label,not_before,not_after,reason",
        f"{key},trusted,acme/*; tiny,Acme,,,",
        f"{unknown},revoked,,,,,heard of it",
    ]
    assert [one["namespaces"] for one in listed()] == [["acme/*", "tiny"], []]


def test_a_label_never_reaches_the_terminal_as_a_control_character(key: str) -> None:
    safelatch("key", "trust", key, "--for", "*", "--label", "A\x1b[31m")
    assert r"A\x1b[31m" in safelatch("key", "list").out
    assert "\x1b" not in safelatch("key", "list").out


def test_revoking_a_key_is_final(key: str) -> None:
    safelatch("key", "trust", key, "--for", "*")
    first = safelatch("key", "revoke", "publisher.pub", "--reason", "stolen laptop")
    assert (first.status, first.out) == (0, f"revoked  {key}  stolen laptop\n")
    again = safelatch("key", "revoke", key, "--reason", "once more")
    assert (again.status, again.out) == (0, f"revoked  {key}  stolen laptop\n")
    assert actions().count("key.revoke") == 1
    trusted = safelatch("key", "trust", key, "--for", "*")
    assert (trusted.status, trusted.err) == (
        3,
        (
            f"error [version-conflict]: {key}: expected it to stay revoked (stolen laptop), got a "
            "request to trust it.\n"
            "hint: Make a new key and trust that one: safelatch key generate --out NAME\n"
        ),
    )
    assert [one["state"] for one in listed()] == ["revoked"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("publisher.pub",), 2), (("publisher.pub", "--reason", "   "), 2),
        (("nobody.pub", "--reason", "x"), 1), (("publisher.key", "--reason", "x"), 2),
    ],
)  # fmt: skip
def test_a_key_is_revoked_by_name_and_with_a_reason(
    key: str, words: tuple[str, ...], status: int
) -> None:
    outcome = safelatch("key", "revoke", *words)
    assert (outcome.status, outcome.out) == (status, "")
    assert listed() == []


@pytest.mark.parametrize("verb", [("sign", "lock"), ("yank", "lock@1.0"), ("publish",)])
def test_a_key_that_cannot_be_read_signs_nothing(
    published: Locks, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if verb == ("publish",):
        verb = ("publish", str(published.other), "--name", "lock", "--version", "1.1")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    make("plain")
    assert safelatch("key", "generate", "--out", "kept", "--encrypt").status == 0
    safelatch("key", "trust", "kept.pub", "--for", "*")
    before = actions()
    cases = (
        ("plain.pub", None, 2, ("error [usage]: expected a private key at plain.pub, got a public "
         "one.\nhint: Name the private one: --key plain.key\n")),
        ("gone.key", None, 1, ("error [not-found]: expected a key at gone.key, found none.\n"
         "hint: Make a pair: safelatch key generate --out NAME\n")),
        ("kept.key", None, 2, ("error [confirmation-required]: expected the passphrase of "
         f"kept.key, got none.\nhint: Give it: export {PASSPHRASE}=..., or type it when asked.\n")),
        ("kept.key", "battery", 2, ("error [confirmation-required]: expected the passphrase of "
         f"kept.key, got another one.\nhint: Give it: export {PASSPHRASE}=..., or type it when "
         "asked.\n")),
    )  # fmt: skip
    for file, given, status, told in cases:
        monkeypatch.setenv(PASSPHRASE, given or "")
        outcome = safelatch(*verb, "--key", file)
        assert (outcome.status, outcome.out, outcome.err) == (status, "", told)
    assert actions() == before
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert safelatch(*verb, "--key", "kept.key").status == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--line-lifetime", "90d"), "expected a key with --line-lifetime, got none."),
        (("--key", "publisher.key", "--line-lifetime", "0"), "expected a lifetime above 0, got 0."),
        (
            ("--key", "publisher.key", "--line-lifetime", "soon"),
            (
                "Invalid value for '--line-lifetime': expected a number and s, m, h or d, such as "
                "14d, got 'soon'."
            ),
        ),
    ],
)
def test_a_lifetime_is_some_time_of_something_signed(
    published: Locks, words: tuple[str, ...], told: str
) -> None:
    draft = ("publish", published.other, "--name", "lock", "--version", "1.1")
    for verb in (("yank", "lock@1.0"), draft):
        outcome = safelatch(*verb, *words)
        assert (outcome.status, outcome.err.partition("\n")[0]) == (2, f"error [usage]: {told}")
    with Registry.open() as registry:
        assert [version.state for version in registry.versions("lock")] == ["active"]
