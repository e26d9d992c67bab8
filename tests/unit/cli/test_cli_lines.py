"""``publish --key``, ``sign``, ``yank``, ``revoke``, ``save``; what ``show`` and ``check`` say."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command_line import safelatch

from registry.artifact.bundle import read_bundle
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from conftest import Locks

KEY = ("--key", "publisher.key")
FIVE = ["base.safetensors", "line.json", "manifest.json", "signature.json", "tensors.safetensors"]


def make(name: str, *namespaces: str) -> str:
    """Make a key pair in the current folder, trust it for these, and return its id."""
    made = safelatch("key", "generate", "--out", name, "--format", "json").document
    for namespace in namespaces:
        assert safelatch("key", "trust", f"{name}.pub", "--for", namespace).status == 0
    return str(made["key_id"])


def publisher() -> str:
    """Return the id of the key ``publisher``."""
    from registry.artifact.signing import read_public_key

    return read_public_key(Path("publisher.pub"))


def signature(ref: str = "lock@1.0") -> dict[str, Any]:
    found: dict[str, Any] = safelatch("show", ref, "--format", "json").document["signature"]
    return found


def states() -> dict[str, str]:
    return {one["artifact"]: one["state"] for one in safelatch("list", "--format", "json").document}


def events() -> int:
    return len(safelatch("log", "show", "--format", "json").document)


def line_in(folder: str) -> dict[str, Any]:
    """Return the line document that a folder carries, unverified."""
    envelope = json.loads((Path(folder) / "line.json").read_text("utf-8"))
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def needs_a_key(document: int) -> str:
    return (
        f"error [confirmation-required]: expected a key that signs for line 'lock', which is "
        f"signed (document {document}), got none.\nhint: Name it: --key KEY. Not your line? "
        "safelatch revoke NAME@V --here --reason WHY\n"
    )


# show and check


def test_unsigned_is_fine_where_no_key_is_trusted(published: Locks) -> None:
    assert signature() == {
        "state": "unsigned", "signed_by": [], "sequence": None, "expires": None, "reason": None,
    }  # fmt: skip
    assert "\nsignature    none\n" in safelatch("show", "lock").out
    checked = safelatch("check", "lock", published.tuned, "--format", "json")
    assert (checked.status, checked.document["signed_by"]) == (0, [])


def test_unsigned_is_refused_where_a_key_is_trusted_for_the_base(published: Locks) -> None:
    safelatch("key", "trust", "publisher.pub", "--for", "tiny-base")
    weights = safelatch("fingerprint", published.base).out.strip()
    reason = (
        "lock@1.0: expected a signature by a trusted key, as keys are trusted for tiny-base or "
        f"{weights}, got none."
    )
    found = signature()
    assert (found["state"], found["reason"]) == ("refused", reason)
    assert f"\nsignature    {reason}\n" in safelatch("show", "lock").out
    checked = safelatch("check", "lock", published.tuned)
    assert (checked.status, checked.out) == (3, f"refused  lock@1.0  unsigned  {reason}\n")


def test_a_signed_version_says_who_signed_and_until_when(signed: Locks) -> None:
    assert safelatch("sign", "lock", *KEY, "--line-lifetime", "90d").status == 0
    found = signature()
    assert found == {
        "state": "vouched", "signed_by": [publisher()], "sequence": 2,
        "expires": found["expires"], "reason": None,
    }  # fmt: skip
    shown = safelatch("show", "lock").out
    assert f"\nsigned by    {publisher()}\n" in shown
    assert f"\nline         document 2, accepted until {found['expires']}\n" in shown
    checked = safelatch("check", "lock", signed.tuned, "--format", "json")
    assert (checked.status, checked.document["signed_by"]) == (0, [publisher()])


@pytest.mark.parametrize("form", ["text", "json"])
def test_check_refuses_a_version_that_an_untrusted_key_signed(signed: Locks, form: str) -> None:
    assert safelatch("save", "lock", "--out", "saved").status == 0
    there = ("--db", "elsewhere/registry.db")
    assert safelatch(*there, "init").status == 0
    checked = safelatch(*there, "check", "./saved", signed.tuned, "--format", form)
    fact = (
        "lock@1.0 line.json: expected a signature by a trusted key, got: "
        f"{publisher()}: not trusted here"
    )
    assert checked.status == 3
    if form == "text":
        assert checked.out == f"refused  lock@1.0  untrusted-key  {fact}\n"
    else:
        assert checked.document["findings"] == [
            {"severity": "error", "code": "untrusted-key", "message": fact}
        ]
        assert checked.document["signed_by"] == []
    shown = safelatch(*there, "show", "./saved", "--field", "signature", "--format", "json")
    assert shown.document["reason"] == fact


def test_check_refuses_a_key_that_speaks_for_other_bases(signed: Locks) -> None:
    assert safelatch("save", "lock", "--out", "saved").status == 0
    there = ("--db", "elsewhere/registry.db")
    safelatch(*there, "init")
    safelatch(*there, "key", "trust", "publisher.pub", "--for", "acme/*")
    checked = safelatch(*there, "check", "./saved", signed.tuned)
    assert checked.status == 3
    assert checked.out.startswith("refused  lock@1.0  key-scope  lock@1.0 line.json: expected")
    assert checked.out.endswith(f": {publisher()} speaks for acme/*\n")


# publish


def test_publish_signs_with_every_key_it_is_given(signed: Locks) -> None:
    second = make("second", "*")
    step = (
        "publish", signed.other, "--name", "lock", "--version", "1.1", *KEY, "--key", "second.key",
    )  # fmt: skip
    done = safelatch(*step, "--format", "json").document
    assert (done["is_new"], done["key_id"]) == (True, publisher())
    found = signature("lock")
    assert (set(found["signed_by"]), found["sequence"]) == ({publisher(), second}, 2)
    before = events()
    again = safelatch(*step, "--format", "json").document
    assert again == {**done, "is_new": False}
    assert events() == before
    assert signature("lock") == found


def test_the_same_again_with_a_key_signs_what_was_unsigned(published: Locks) -> None:
    safelatch("key", "trust", "publisher.pub", "--for", "*")
    safelatch("yank", "lock@1.0", "--reason", "too weak")
    step = ("publish", published.draft, "--name", "lock", "--version", "1.0", *KEY)
    done = safelatch(*step)
    assert (done.status, done.out.partition("  ")[0]) == (0, "already published")
    assert signature()["state"] == "vouched"
    safelatch("save", "lock@1.0", "--out", "saved")
    entry = line_in("saved")["versions"]["1.0"]
    assert (entry["state"], entry["reason"]) == ("yanked", "too weak")


def test_a_version_that_a_line_names_but_is_not_here_is_signed_when_it_is_published(
    signed: Locks,
) -> None:
    newer = ("publish", signed.other, "--name", "lock", "--version", "1.1", *KEY)
    assert safelatch(*newer).status == 0
    safelatch("save", "lock@1.0", "--out", "saved")  # its line names 1.1 too
    there = ("--db", "elsewhere/registry.db")
    safelatch(*there, "init")
    safelatch(*there, "key", "trust", "publisher.pub", "--for", "*")
    for step in (("publish", "saved", "--name", "lock", "--version", "1.0"), newer):
        assert safelatch(*there, *step).status == 0
    checked = safelatch(*there, "check", "lock@1.1", signed.tuned, "--format", "json")
    assert (checked.status, checked.document["signed_by"]) == (0, [publisher()])


@pytest.mark.parametrize(("name", "version"), [("draft", "1.0"), ("other", "1.1")])
def test_a_signed_line_takes_nothing_without_a_key(signed: Locks, name: str, version: str) -> None:
    before = events()
    draft = getattr(signed, name)
    outcome = safelatch("publish", draft, "--name", "lock", "--version", version)
    assert (outcome.status, outcome.out, outcome.err) == (2, "", needs_a_key(1))
    assert events() == before


def left(document: int, *keys: str) -> str:
    return (
        f"document {document} was also signed by {', '.join(keys)}, this one is not: who trusts "
        "only that key cannot read it; give both: safelatch sign lock --key A --key B\n"
    )


@pytest.mark.parametrize(
    "verb",
    [
        ("publish", "OTHER", "--name", "lock", "--version", "1.1"), ("sign", "lock"),
        ("yank", "lock@1.0"), ("revoke", "lock@1.0", "--reason", "leaked"),
    ],
)  # fmt: skip
def test_a_key_that_signs_no_more_is_named(signed: Locks, verb: tuple[str, ...]) -> None:
    make("second", "*")
    words = [str(signed.other) if word == "OTHER" else word for word in verb]
    done = safelatch(*words, "--key", "second.key")
    assert (done.status, done.err.startswith(left(1, publisher()))) == (0, True)
    again = safelatch("sign", "lock", "--key", "second.key")
    assert (again.status, again.err) == (0, "")  # it had not signed the one before


def test_only_a_key_that_counts_is_missed(signed: Locks) -> None:
    second = make("second", "*")
    both = (*KEY, "--key", "second.key")
    assert safelatch("sign", "lock", *both).err == ""
    assert safelatch("sign", "lock", *KEY).err == left(2, second)
    assert safelatch("sign", "lock", *both).err == ""
    safelatch("key", "trust", "second.pub", "--for", "acme/*", "--replace")
    assert safelatch("sign", "lock", *KEY).err == ""  # it speaks for other bases now
    safelatch("key", "trust", "second.pub", "--for", "*", "--replace")
    assert safelatch("sign", "lock", *both).err == ""
    safelatch("key", "revoke", "second.pub", "--reason", "leaked")
    assert safelatch("sign", "lock", *KEY).err == ""
    assert safelatch("revoke", "lock@1.0", "--reason", "ours", "--here").err == ""


def test_publishing_what_must_be_signed_first_says_so(published: Locks) -> None:
    newer = ("publish", published.other, "--name", "lock", "--version", "1.1")
    safelatch("key", "trust", "publisher.pub", "--for", "acme/*")
    assert safelatch(*newer).err == ""
    safelatch("key", "trust", "publisher.pub", "--for", "tiny-base", "--replace")
    weights = safelatch("fingerprint", published.base).out.strip()
    told = (
        "lock@1.1 will not be loaded before it is signed, as keys are trusted for tiny-base or "
        f"{weights}: safelatch sign lock --key KEY\n"
    )
    again = safelatch(*newer)
    assert (again.status, again.err) == (0, told)
    assert safelatch("publish", published.draft, "--name", "first", "--version", "1").err == (
        told.replace("lock@1.1", "first@1").replace("sign lock", "sign first")
    )
    assert safelatch(*newer, *KEY).err == ""


def test_publishing_what_was_withdrawn_says_its_state(published: Locks) -> None:
    step = ("publish", published.draft, "--name", "lock", "--version", "1.0")
    digest = safelatch("show", "lock", "--field", "digest").out.strip()
    safelatch("yank", "lock@1.0", "--reason", "too weak")
    yanked = safelatch(*step)
    assert (yanked.status, yanked.out, yanked.err) == (
        0, f"already published  lock@1.0  yanked  {digest}\n",
        "lock@1.0 is yanked (too weak): it loads only when it is named exactly\n",
    )  # fmt: skip
    safelatch("revoke", "lock@1.0", "--reason", "leaked")
    revoked = safelatch(*step)
    assert (revoked.status, revoked.out, revoked.err) == (
        0, f"already published  lock@1.0  revoked  {digest}\n",
        "lock@1.0 is revoked (leaked) and never loads; publish a newer version\n",
    )  # fmt: skip
    document = safelatch(*step, "--format", "json").document
    assert (document["state"], document["is_new"]) == ("revoked", False)


def test_other_content_under_a_signed_version_is_refused(signed: Locks) -> None:
    was = safelatch("show", "lock", "--field", "digest").out.strip()
    outcome = safelatch("publish", signed.other, "--name", "lock", "--version", "1.0", *KEY)
    assert outcome.status == 3
    fact, hint = outcome.err.splitlines()
    assert re.fullmatch(
        rf"error \[version-conflict\]: lock@1\.0: expected {was}, as it is published, got "
        r"blake3:[0-9a-f]{64}\.",
        fact,
    )
    assert hint == (
        "hint: A published version never changes. Publish a newer one: "
        "safelatch publish DIR --name lock --version VERSION"
    )
    assert signature()["sequence"] == 1


@pytest.mark.parametrize(
    "verb",
    [
        ("publish", "OTHER", "--name", "lock", "--version", "1.1"), ("sign", "lock"),
        ("yank", "lock@1.0"), ("revoke", "lock@1.0", "--reason", "leaked"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("namespaces", [(), ("acme/*",)])
def test_a_key_signs_only_what_it_is_trusted_for(
    signed: Locks, verb: tuple[str, ...], namespaces: tuple[str, ...]
) -> None:
    second = make("second", *namespaces)
    before, words = events(), [str(signed.other) if w == "OTHER" else w for w in verb]
    outcome = safelatch(*words, *KEY, "--key", "second.key")  # one that may is not enough
    code = "key-scope" if namespaces else "untrusted-key"
    why = "speaks for acme/*" if namespaces else ": not trusted here"
    assert outcome.status == 3
    assert outcome.err.startswith(f"error [{code}]: what {second} would sign: expected ")
    assert f"\n  {second}{' ' if namespaces else ''}{why}\n" in outcome.err
    assert events() == before
    assert states() == {"lock@1.0": "active"}


# sign


def test_sign_renews_a_line_for_as_long_as_before(published: Locks) -> None:
    safelatch("key", "trust", "publisher.pub", "--for", "*")
    first = safelatch("sign", "lock", *KEY)
    assert (first.status, first.out) == (0, "signed  lock  1 versions  document 1  never expires\n")
    second = safelatch("sign", "lock", *KEY, "--line-lifetime", "36h", "--format", "json").document
    third = safelatch("sign", "lock", *KEY, "--format", "json").document
    assert second == {
        "line": "lock", "sequence": 2, "expires": second["expires"], "key_ids": [publisher()],
        "versions": ["lock@1.0"],
    }  # fmt: skip
    assert (third["sequence"], third["expires"] >= second["expires"]) == (3, True)
    safelatch("save", "lock", "--out", "saved")
    from registry.moment import parse_stamp

    line = line_in("saved")
    lifetime = parse_stamp(line["expires"]) - parse_stamp(line["created"])
    assert 36 * 3600 - 2 <= lifetime.total_seconds() <= 36 * 3600 + 2


def test_a_line_moves_to_a_new_key_when_the_old_one_leaked(signed: Locks) -> None:
    digest = safelatch("show", "lock", "--field", "digest").out
    new = make("new", "tiny-base")
    safelatch("key", "revoke", "publisher.pub", "--reason", "leaked")
    refused = safelatch("check", "lock", signed.tuned)
    assert (refused.status, "revoked (leaked)" in refused.out) == (3, True)
    old = safelatch("sign", "lock", *KEY)
    assert (old.status, "revoked (leaked)" in old.err) == (3, True)
    assert safelatch("sign", "lock", "--key", "new.key").status == 0
    assert signature()["signed_by"] == [new]
    assert safelatch("check", "lock", signed.tuned).status == 0
    assert safelatch("show", "lock", "--field", "digest").out == digest


@pytest.mark.parametrize("state", ["yanked", "revoked"])
def test_signing_a_line_keeps_what_was_withdrawn_before(published: Locks, state: str) -> None:
    safelatch("publish", published.other, "--name", "lock", "--version", "1.1")
    verb = "yank" if state == "yanked" else "revoke"
    assert safelatch(verb, "lock@1.1", "--reason", "too weak").status == 0
    safelatch("key", "trust", "publisher.pub", "--for", "*")
    assert safelatch("sign", "lock", *KEY).status == 0
    safelatch("save", "lock@1.0", "--out", "saved")
    found = {v: (e["state"], e["reason"]) for v, e in line_in("saved")["versions"].items()}
    assert found == {"1.0": ("active", None), "1.1": (state, "too weak")}


def test_a_reason_of_older_days_does_not_keep_a_line_from_being_signed(published: Locks) -> None:
    with Registry.open() as registry:
        version = registry.versions("lock")[0]
        registry.set_state(version, "yanked", "first line\n" + 500 * "x")
    safelatch("key", "trust", "publisher.pub", "--for", "*")
    assert safelatch("sign", "lock", *KEY).status == 0
    assert signature()["state"] == "vouched"
    assert safelatch("yank", "lock@1.0", "--undo", *KEY).status == 0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("lock",), 2, "error [usage]: expected a key to sign with, got none."),
        (("nobody", *KEY), 1, ("error [artifact-not-found]: expected a registered artifact, got "
         "'nobody'.")),
        (("lock@1.0", *KEY), 2, ("error [usage]: expected the name of a line, every version of "
         "which is signed, got lock@1.0.")),
        (("./lock", *KEY), 2, "error [reference-syntax]: expected a name of 1 to 96 characters"),
    ],
)  # fmt: skip
def test_sign_takes_the_name_of_a_line_and_a_key(
    signed: Locks, words: tuple[str, ...], status: int, told: str
) -> None:
    outcome = safelatch("sign", *words)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(told)
    assert signature()["sequence"] == 1


# yank and revoke


def test_yank_and_undo_without_a_key_where_nothing_is_signed(published: Locks) -> None:
    hidden = safelatch("yank", "lock@1.0.0", "--reason", "refuses too much")  # PEP 440: the same
    assert (hidden.status, hidden.out, hidden.err) == (
        0, "yanked  lock@1.0  refuses too much\n", "",
    )  # fmt: skip
    assert safelatch("show", "lock").status == 1
    checked = safelatch("check", "lock@1.0", published.tuned)
    assert checked.status == 0
    undone = safelatch("yank", "lock@1.0", "--undo", "--format", "json").document
    assert (undone["state"], undone["reason"], undone["sequence"]) == ("active", None, None)
    assert safelatch("show", "lock").status == 0


def test_yank_of_a_signed_version_makes_the_next_document(signed: Locks) -> None:
    refused = safelatch("yank", "lock@1.0", "--reason", "too weak")
    assert (refused.status, refused.out, refused.err) == (2, "", needs_a_key(1))
    done = safelatch("yank", "lock@1.0", "--reason", "too weak", *KEY)
    assert (done.status, done.out) == (0, "yanked  lock@1.0  too weak\n")
    assert done.err == (
        "those who have lock learn of it from document 2 of its line; hand it on: "
        "safelatch save lock@1.0 --out DIR\n"
    )
    checked = safelatch("check", "lock@1.0", signed.tuned)
    assert checked.status == 0
    assert checked.out.splitlines()[1] == (
        "warning  yanked  expected an active version, lock@1.0 is yanked: too weak."
    )
    before = events()
    again = safelatch("yank", "lock@1.0", "--reason", "too weak", "--format", "json")
    assert (again.status, again.document["sequence"]) == (0, 2)  # no news needs no key
    assert events() == before
    other = safelatch("yank", "lock@1.0", "--reason", "far too weak")
    assert (other.status, other.err) == (2, needs_a_key(2))
    refused = safelatch("yank", "lock@1.0", "--undo", "--reason", "it was not", *KEY)
    assert (refused.status, "--undo takes no --reason." in refused.err) == (2, True)
    back = ("yank", "lock@1.0", "--undo", *KEY)
    undone = safelatch(*back, "--format", "json").document
    assert (undone["state"], undone["reason"], undone["sequence"]) == ("active", None, 3)
    assert safelatch("check", "lock", signed.tuned).status == 0


def test_revoking_a_version_is_final_and_keeps_its_first_reason(signed: Locks) -> None:
    typed = ("revoke", "lock@1.00", "--reason", "leaked", "--line-lifetime", "1h", *KEY)
    done = safelatch(*typed, "--format", "json").document
    assert (done["artifact"], done["state"], done["reason"], done["sequence"]) == (
        "lock@1.0", "revoked", "leaked", 2,
    )  # fmt: skip
    before = events()
    for words in ((), KEY):
        again = safelatch("revoke", "lock@1.0", "--reason", "other", *words, "--format", "json")
        assert (again.status, again.document) == (0, done)
    assert events() == before
    for words in ((), ("--undo",)):
        back = safelatch("yank", "lock@1.0", *words, *KEY)
        state = "active" if words else "yanked"
        assert (back.status, back.err) == (
            3,
            (
                "error [version-conflict]: lock@1.0: expected it to stay revoked (leaked), got "
                f"{state}.\nhint: Publish a newer version.\n"
            ),
        )
    for verb in (("show", "lock@1.0"), ("check", "lock@1.0", str(signed.tuned))):
        outcome = safelatch(*verb)
        assert (outcome.status, outcome.out) == (3, "")
        assert outcome.err.startswith("error [revoked]: expected a version that may be used, lock@")
    assert states() == {"lock@1.0": "revoked"}


def test_a_revocation_for_this_registry_alone_needs_no_key(signed: Locks) -> None:
    done = safelatch("revoke", "lock@1.0", "--reason", "we saw it fail", "--here")
    assert (done.status, done.out, done.err) == (0, "revoked  lock@1.0  we saw it fail\n", "")
    assert safelatch("show", "lock@1.0").status == 3
    both = safelatch("revoke", "lock@1.0", "--reason", "x", "--here", *KEY)
    assert (both.status, both.err.partition("\n")[0]) == (
        2, "error [usage]: --here needs no --key: nothing is signed.",
    )  # fmt: skip
    # The line that others get does not say so: nothing is handed on as if it did.
    assert safelatch("save", "lock@1.0", "--out", "saved").status == 3
    assert not Path("saved").exists()


@pytest.mark.parametrize("verb", ["yank", "revoke"])
@pytest.mark.parametrize(
    ("reason", "got"),
    [("   ", "3 characters"), (401 * "x", "401 characters"), ("a\nb", r"'a\nb'"),
     ("\x1b[31m", r"'\x1b[31m'")],
)  # fmt: skip
def test_a_reason_that_no_line_can_hold_is_refused_before_anything_is_signed(
    signed: Locks, verb: str, reason: str, got: str
) -> None:
    before = events()
    outcome = safelatch(verb, "lock@1.0", "--reason", reason, *KEY)
    assert (outcome.status, outcome.out, outcome.err) == (
        2, "",
        (f"error [usage]: expected a reason of 1 to 400 characters on one line, got {got}.\n"
        "hint: Say why in one sentence: --reason WHY\n"),
    )  # fmt: skip
    assert events() == before
    longest = safelatch(verb, "lock@1.0", "--reason", 400 * "é", *KEY)
    assert longest.status == 0
    assert safelatch("sign", "lock", *KEY).status == 0


@pytest.mark.parametrize("verb", [("yank",), ("revoke", "--reason", "leaked")])
@pytest.mark.parametrize(
    ("ref", "status", "told"),
    [
        ("lock", 2, "error [usage]: expected a version of this registry, NAME@VERSION, got lock."),
        ("./lock", 2, "error [usage]: expected a version of this registry, NAME@VERSION, got file"),
        ("lock@9.0", 1, "error [version-not-found]: expected a version out of 1.0, got 9.0."),
        ("nobody@1.0", 1, ("error [artifact-not-found]: expected a registered artifact, got "
         "'nobody'.")),
    ],
)  # fmt: skip
def test_only_a_version_of_the_registry_can_be_withdrawn(
    signed: Locks, verb: tuple[str, ...], ref: str, status: int, told: str
) -> None:
    outcome = safelatch(*verb, ref, *KEY)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(told)
    assert states() == {"lock@1.0": "active"}


# save


def test_save_writes_what_others_can_check_and_publish(signed: Locks) -> None:
    done = safelatch("save", "lock", "--out", "saved")
    assert (done.status, done.out) == (
        0, f"saved  lock@1.0  saved  active  signed by {publisher()}\n",
    )  # fmt: skip
    assert sorted(path.name for path in Path("saved").iterdir()) == FIVE
    there = ("--db", "elsewhere/registry.db")
    safelatch(*there, "init")
    safelatch(*there, "key", "trust", "publisher.pub", "--for", "tiny-base")
    checked = safelatch(*there, "check", "./saved", signed.tuned, "--format", "json")
    assert (checked.status, checked.document["signed_by"]) == (0, [publisher()])
    published = safelatch(*there, "publish", "saved", "--name", "lock", "--version", "1.0")
    assert published.status == 0
    shown = safelatch(*there, "show", "lock", "--format", "json").document
    assert (shown["digest"], shown["signature"]) == (
        safelatch("show", "lock", "--field", "digest").out.strip(), signature(),
    )  # fmt: skip


def test_save_of_an_unsigned_version_says_so(published: Locks) -> None:
    done = safelatch("save", "lock@1.0", "--out", "saved", "--format", "json").document
    assert (done["key_id"], done["state"]) == (None, "active")
    assert done["files"] == [name for name in FIVE if name not in {"line.json", "signature.json"}]
    assert safelatch("save", "lock@1.0", "--out", "again").out == (
        "saved  lock@1.0  again  active  not signed\n"
    )
    assert read_bundle(Path("saved")).manifest.digest == done["digest"]


def test_save_never_writes_over_what_is_there(signed: Locks) -> None:
    safelatch("save", "lock", "--out", "saved")
    before = {path: path.read_bytes() for path in Path("saved").iterdir()}
    again = safelatch("save", "lock", "--out", "saved")
    assert (again.status, again.err) == (
        2,
        (
            "error [usage]: expected a new folder for the bundle, saved exists and is not empty.\n"
            "hint: Choose another place, or remove it first: rm -r saved\n"
        ),
    )
    assert {path: path.read_bytes() for path in Path("saved").iterdir()} == before


def test_a_revoked_version_is_saved_for_others_to_learn_of_it(signed: Locks) -> None:
    safelatch("save", "lock", "--out", "before")
    safelatch("revoke", "lock@1.0", "--reason", "leaked", *KEY)
    done = safelatch("save", "lock@1.0", "--out", "after", "--format", "json").document
    assert (done["state"], done["files"]) == ("revoked", FIVE)
    there = ("--db", "elsewhere/registry.db")
    safelatch(*there, "init")
    safelatch(*there, "key", "trust", "publisher.pub", "--for", "*")
    codes = {}
    for folder in ("before", "after", "before"):
        checked = safelatch(*there, "check", f"./{folder}", signed.tuned, "--format", "json")
        codes[folder] = (checked.status, [f["code"] for f in checked.document["findings"]])
    assert codes == {"before": (3, ["rollback"]), "after": (3, ["revoked"])}


def test_a_revoked_version_that_no_line_tells_of_is_not_saved(published: Locks) -> None:
    safelatch("revoke", "lock@1.0", "--reason", "leaked")
    outcome = safelatch("save", "lock@1.0", "--out", "saved")
    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err.startswith("error [revoked]: ")
    assert not Path("saved").exists()
