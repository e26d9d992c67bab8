from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event
from support.store_builders import GEOMETRY, digest_of, make_record

from registry.errors import (
    BaseNotFoundError,
    CorruptStoreError,
    DigestMismatchError,
    UsageError,
    VersionConflictError,
)
from registry.store import bases, blobs, session
from registry.store.values import Alias

if TYPE_CHECKING:
    from registry.store.catalog import Registry

NASTY = "x'; DROP TABLE bases; --\" %s :name ? \\ \n"


def add(registry: Registry, name: str, *aliases: Alias, tag: str | None = None):
    pairs = [(alias.scheme, alias.value) for alias in aliases]
    return registry.add_base(name, make_record(tag or name), f"record of {name}".encode(), pairs)


def test_a_base_comes_back_whole_with_its_record(registry: Registry) -> None:
    base = add(registry, "ann", Alias("path", "/models/ann"), Alias("hub", "org/ann@" + "0" * 40))
    record = make_record("ann")
    assert (base.name, base.weights, base.config_digest) == (
        "ann",
        record.weights,
        record.config_digest,
    )
    assert (base.tokenizer, base.chat_template) == (record.tokenizer, None)
    assert (base.family, base.layers, base.head_dim) == ("llama", 2, 16)
    assert base.aliases == (Alias("hub", "org/ann@" + "0" * 40), Alias("path", "/models/ann"))
    assert base.created_at.utcoffset().total_seconds() == 0
    assert registry.base_record_bytes(base) == b"record of ann"
    assert registry.bases() == [base]
    assert [event.action for event in registry.events()] == ["base.register", "base.alias"]


def test_the_same_weights_again_change_nothing_and_keep_the_name(registry: Registry) -> None:
    first = add(registry, "ann", Alias("path", "/a"))
    again = add(registry, "another name", Alias("path", "/a"), tag="ann")
    assert again == first
    assert len(registry.events()) == 2


def test_a_new_alias_of_a_known_base_is_added(registry: Registry) -> None:
    add(registry, "ann")
    base = add(registry, "ann", Alias("sha256-set", "f" * 64))
    assert base.aliases == (Alias("sha256-set", "f" * 64),)


def test_another_base_of_the_same_name_is_refused_with_both_digests(registry: Registry) -> None:
    base = add(registry, "ann")
    with pytest.raises(VersionConflictError) as caught:
        add(registry, "ann", tag="impostor")
    assert base.weights in str(caught.value)
    assert digest_of("impostor") in str(caught.value)
    assert len(registry.bases()) == 1


def test_a_path_that_now_holds_another_base_follows_it(registry: Registry) -> None:
    add(registry, "ann", Alias("path", "/models/here"))
    bob = add(registry, "bob", Alias("path", "/models/here"))
    assert registry.base("/models/here") == bob
    assert registry.base("ann").aliases == ()


@pytest.mark.parametrize("scheme", ["name", "sha256-set"])
def test_an_alias_that_says_what_a_base_is_cannot_be_taken(registry: Registry, scheme: str) -> None:
    ann = add(registry, "ann", Alias(scheme, "mine"))
    with pytest.raises(VersionConflictError, match="mine"):
        add(registry, "bob", Alias(scheme, "mine"))
    assert registry.base("mine") == ann
    assert [base.name for base in registry.bases()] == ["ann"]


def test_names_and_name_aliases_share_one_space(registry: Registry) -> None:
    add(registry, "ann", Alias("name", "annie"))
    with pytest.raises(VersionConflictError, match="'annie'"):
        add(registry, "annie", tag="impostor")
    with pytest.raises(VersionConflictError, match="'ann'"):
        add(registry, "bob", Alias("name", "ann"))


def test_a_base_is_found_by_name_digest_alias_and_prefix(registry: Registry) -> None:
    add(registry, "bob")
    base = add(registry, "ann", Alias("path", "/models/ann"))
    hexadecimal = base.weights.removeprefix("blake3:")
    for text in ("ann", base.weights, "/models/ann", hexadecimal[:8], f"blake3:{hexadecimal[:9]}"):
        assert registry.base(text) == base


@pytest.mark.parametrize("text", ["%", "_", "blake3:", "blake3:%%%%%%%%", "", NASTY, "\udc80\x00"])
def test_text_that_names_nothing_finds_nothing(registry: Registry, text: str) -> None:
    add(registry, "ann")
    with pytest.raises(BaseNotFoundError, match="expected a registered base model"):
        registry.base(text)


def test_a_prefix_of_seven_digits_is_too_short(registry: Registry) -> None:
    base = add(registry, "ann")
    with pytest.raises(BaseNotFoundError):
        registry.base(base.weights.removeprefix("blake3:")[:7])


def test_an_ambiguous_prefix_names_all_it_could_mean(registry: Registry) -> None:
    for name, last in (("ann", "a"), ("bob", "b")):
        record = make_record(name)
        record.weights = "blake3:" + "0" * 63 + last
        registry.add_base(name, record, b"record")
    with pytest.raises(BaseNotFoundError, match=r"names 2 base models: ann .*, bob"):
        registry.base("00000000")


def test_a_misspelt_name_is_answered_with_the_near_ones(registry: Registry) -> None:
    add(registry, "tiny-llama")
    with pytest.raises(BaseNotFoundError, match="Did you mean tiny-llama") as caught:
        registry.base("tiny-lama")
    assert "safelatch base list" in str(caught.value.hint)


def add_many(registry: Registry, count: int, **changes) -> None:
    """Register look-alikes: other weights in the same geometry, all in one transaction."""
    blob = digest_of("record of a look-alike")
    with session.write(registry._engine) as connection:
        blobs.remember(connection, blob, 1)
        for number in range(count):
            name = f"look-alike {number}"
            bases.add(connection, name, make_record(name, **{"like": number} | changes), blob)


def probed(registry: Registry, name: str, **changes):
    return registry.add_base(name, make_record(name, **changes), f"record of {name}".encode())


def names(found) -> list[str]:
    return [base.name for base in found]


def test_the_nearest_base_is_found_among_200_look_alikes(registry: Registry) -> None:
    add_many(registry, 200)
    base = probed(registry, "ann", like=1000)
    probed(registry, "a farther one", like=1000, relative=0.2)
    child = make_record("child", like=1000, relative=0.01)
    assert registry.bases_near(child, limit=1) == [base]
    assert names(registry.bases_near(child, limit=2)) == ["a farther one", "ann"]
    assert len(registry.bases_near(child)) == 8


def test_no_probe_is_read_with_a_base(registry: Registry) -> None:
    probed(registry, "ann", like=1)
    queries = []
    event.listen(registry._engine, "before_cursor_execute", lambda *got: queries.append(got[2]))
    registry.bases()
    registry.base("ann")
    registry.bases_like(GEOMETRY)
    assert queries
    assert not [query for query in queries if "probe" in query]


def test_a_base_without_a_probe_is_always_a_candidate(registry: Registry) -> None:
    add_many(registry, 3)
    probed(registry, "of an earlier release")
    child = make_record("child", like=0, relative=0.01)
    found = registry.bases_near(child, limit=1)
    assert names(found) == ["look-alike 0", "of an earlier release"]


def test_a_checkpoint_without_a_probe_gets_every_base_of_its_geometry(registry: Registry) -> None:
    add_many(registry, 20)
    assert registry.bases_near(make_record("child"), limit=1) == registry.bases_like(GEOMETRY)
    assert len(registry.bases_near(make_record("child"), limit=1)) == 20


def test_a_base_of_another_geometry_is_never_near(registry: Registry) -> None:
    other = replace(GEOMETRY, kv_heads=4)
    probed(registry, "ann", geometry=other, like=1)
    probed(registry, "of an earlier release", geometry=other)
    probed(registry, "bob", like=2)
    assert names(registry.bases_near(make_record("child", like=1))) == ["bob"]
    assert names(registry.bases_near(make_record("ann", like=1))) == ["bob"]
    assert registry.bases_near(make_record("ann", replace(GEOMETRY, layers=3), like=1)) == []


def test_the_same_weights_are_found_whatever_the_probe_says(registry: Registry) -> None:
    add_many(registry, 20, like=1)
    base = probed(registry, "ann", like=2)
    assert base in registry.bases_near(make_record("ann", like=1, relative=0.01), limit=1)


def test_bases_as_near_as_the_last_are_all_found(registry: Registry) -> None:
    """Edits that no sample of the probe meets: nothing says which of them is nearest."""
    add_many(registry, 12, like=1)
    probed(registry, "another", like=2)
    found = registry.bases_near(make_record("child", like=1, relative=0.01), limit=1)
    assert names(found) == sorted(f"look-alike {number}" for number in range(12))


def test_of_many_bases_with_equal_probes_64_are_candidates(registry: Registry) -> None:
    add_many(registry, 70, like=1)
    child = make_record("child", like=1, relative=0.01)
    assert len(registry.bases_near(child, limit=1)) == 64
    assert len(registry.bases_near(child, limit=66)) == 66


def test_a_checkpoint_that_is_no_numbers_gets_as_many_as_were_asked_for(
    registry: Registry,
) -> None:
    add_many(registry, 20)
    child = make_record("child", like=1)
    child.samples = dict.fromkeys(child.samples, b"\xff" * 4 * 8192)
    assert len(registry.bases_near(child, limit=3)) == 3


def test_more_bases_than_one_query_can_name_are_found(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "_PART", 7)
    add_many(registry, 20, like=1)
    found = registry.bases_near(make_record("child", like=1))
    assert found == registry.bases_like(GEOMETRY)
    assert len(found) == 20


def test_bases_are_counted(registry: Registry) -> None:
    assert registry.base_count() == 0
    add_many(registry, 3)
    assert registry.base_count() == 3


def test_bases_like_wants_every_number_equal(registry: Registry) -> None:
    add(registry, "ann")
    assert [base.name for base in registry.bases_like(GEOMETRY)] == ["ann"]
    for field in ("layers", "heads", "kv_heads", "head_dim", "hidden_size"):
        other = replace(GEOMETRY, **{field: getattr(GEOMETRY, field) + 1})
        assert registry.bases_like(other) == []
    assert registry.bases_like(replace(GEOMETRY, family="qwen2")) == []


@pytest.mark.parametrize("name", ["", " ann", "a\nb", "a\x00b", "x" * 256, "blake3:abc", "a\udc80"])
def test_what_cannot_be_a_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        registry.add_base(name, make_record(), b"record")


@pytest.mark.parametrize("alias", [Alias("path", ""), Alias("path", "x" * 1025), Alias("ftp", "x")])
def test_what_cannot_be_an_alias_is_refused(registry: Registry, alias: Alias) -> None:
    with pytest.raises(UsageError, match="expected an alias"):
        add(registry, "ann", alias)


def test_quotes_and_sql_in_every_field_are_only_text(registry: Registry) -> None:
    name = NASTY.strip()
    base = registry.add_base(name, make_record("nasty"), b"record", [("path", NASTY)])
    assert registry.base(name) == registry.base(NASTY) == base
    assert registry.bases_like(GEOMETRY) == [base]
    assert registry.bases_like(replace(GEOMETRY, family=NASTY)) == []
    assert registry.verify_events() == []


def test_a_geometry_that_cannot_be_is_refused_by_the_database(registry: Registry) -> None:
    from registry.errors import StoreError

    with pytest.raises(StoreError, match=r"(?i)geometry_positive"):
        registry.add_base("ann", make_record("ann", replace(GEOMETRY, layers=0)), b"record")
    assert registry.bases() == []
    assert registry.events() == []


def test_weights_that_are_no_digest_are_refused(registry: Registry) -> None:
    record = make_record()
    record.weights = "sha256:" + "0" * 64
    with pytest.raises(DigestMismatchError):
        registry.add_base("ann", record, b"record")


def test_a_changed_record_is_refused_and_put_back_by_registering_again(registry: Registry) -> None:
    base = add(registry, "ann")
    path = registry._blobs.path(base.record)
    path.chmod(0o644)
    path.write_bytes(b"record of eve")
    with pytest.raises(DigestMismatchError, match="record of base ann"):
        registry.base_record_bytes(base)
    path.unlink()
    with pytest.raises(CorruptStoreError):
        registry.base_record_bytes(base)
    add(registry, "ann")
    assert registry.base_record_bytes(base) == b"record of ann"
