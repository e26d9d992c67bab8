"""What a load finds that has the base and no artifact: where it looks, and what it accepts."""

from __future__ import annotations

import json

import pytest
from support.hub import ALICE, Fault, client_at, serving
from support.sharing import KEY, MALLORY, copied, publisher_at, put
from support.signed import make_site

from registry import load_protected
from registry.artifact.policy import parse_policy
from registry.errors import NoProtectionError
from registry.reference import Reference
from registry.settings import Settings
from registry.store.catalog import Registry
from registry.workflows.bases import add_base
from registry.workflows.discover import discover
from registry.workflows.identify import identify
from registry.workflows.push import push_all
from registry.workflows.remotes import open_remote

LOCK = Reference.parse("lock")
LISTING = "GET /api/models?"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def published(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, "1.0.0")
    return folder / "publisher"


@pytest.fixture
def hub(site, tmp_path):
    """A hub with acme's base and alice's fine-tune of it."""
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache", ALICE):
        opened.add("acme/base", site.base)
        opened.add("alice/tune", site.tune)
        yield opened


@pytest.fixture
def reader(hub, home):
    """A registry with the base, added from the hub, and nothing else."""
    with Registry.create() as registry:
        found = identify("acme/base", settings=Settings.load())
        add_base(registry, found)
        hub.log.clear()
        yield registry


def shared(published, tmp_path, where):
    """Push alice's lock there."""
    with copied(published, tmp_path / f"copy-{where.replace('/', '-')}") as registry:
        reference = Reference.parse_or_path(where)
        push_all(registry, LOCK, open_remote(reference))
        return str(reference)


def base_of(registry):
    (base,) = registry.bases()
    return base


def test_a_lock_is_found_by_its_card_pulled_and_applied(hub, reader, published, tmp_path):
    shared(published, tmp_path, "hf://alice/lock")
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    loaded = load_protected("alice/tune", registry=reader)
    assert loaded.safelatch.verified
    assert loaded.safelatch.applied[0].signed_by == (KEY.key_id,)
    assert [line.name for line in reader.lines()] == ["lock"]
    hub.log.clear()
    assert load_protected("alice/tune", registry=reader).safelatch.verified
    assert not hub.asked(LISTING)  # it is here now
    assert not hub.asked("alice/lock")


def test_where_no_key_is_trusted_the_hub_is_not_asked(hub, reader, published, tmp_path):
    shared(published, tmp_path, "hf://alice/lock")
    hub.log.clear()
    with pytest.raises(NoProtectionError) as caught:
        load_protected("alice/tune", registry=reader)
    assert caught.value.message == (
        "expected an active artifact for the base base, the registry has none."
    )
    assert not hub.asked(LISTING)
    assert not hub.asked("alice/lock")


@pytest.mark.parametrize("namespace", ["other/*", "base"])
def test_a_key_that_is_trusted_for_other_bases_asks_nothing(hub, reader, namespace):
    reader.trust_key(KEY.key_id, namespaces=[namespace])
    assert discover(reader, base_of(reader), None) == []
    assert hub.log == []


def test_what_nobody_trusted_signed_is_left_there_and_named(hub, reader, published, tmp_path):
    shared(published, tmp_path, "hf://alice/lock")
    reader.trust_key(MALLORY.key_id, namespaces=["acme/*"])
    hub.log.clear()
    with pytest.raises(NoProtectionError) as caught:
        load_protected("alice/tune", registry=reader)
    assert caught.value.message.startswith(
        "expected an active artifact for the base base, the registry has none, and none was "
        "accepted from elsewhere:\n"
    )
    assert "  hf://alice/lock: lock@1.0.0 line.json: expected a signature by a trusted key" in (
        caught.value.message
    )
    assert reader.lines() == []
    assert not [each for each in hub.asked("alice/lock") if "safetensors" in each.line]


def test_those_of_the_bases_own_namespace_come_before_any_crowd(hub, reader, published, tmp_path):
    card = b"---\nbase_model: acme/base\nbase_model_relation: adapter\ntags: [safelatch]\n---\n"
    for number in range(20):
        hub.add(f"aaa/{number:02}", {"README.md": card, "line.json": b"{}"})
    hub.users[ALICE] = type(hub.users[ALICE])("alice", ("acme",))
    shared(published, tmp_path, "hf://acme/zzz")
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    refused = discover(reader, base_of(reader), None)
    assert [line.name for line in reader.lines()] == ["lock"]
    assert len(refused) == 8
    assert all(text.startswith("hf://aaa/") for text in refused)


def test_a_repository_that_only_says_so_is_refused_and_the_rest_still_found(
    hub, reader, published, tmp_path
):
    card = b"---\nbase_model: acme/base\nbase_model_relation: adapter\ntags: [safelatch]\n---\n"
    hub.add("aaa/liar", {"README.md": card})
    shared(published, tmp_path, "hf://alice/lock")
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    (refused,) = discover(reader, base_of(reader), None)
    assert refused.startswith("hf://aaa/liar: hf://aaa/liar: expected line.json")
    assert reader.lines()


def policy(*sources, bases=("acme/*",)):
    rule = {"bases": list(bases), "sources": list(sources)}
    document = {"schema": "safelatch/policy/v1", "rules": [rule]}
    return parse_policy(json.dumps(document).encode(), what="policy.json")


def test_the_sources_of_the_policy_come_first_and_suffice(hub, reader, published, tmp_path):
    place = shared(published, tmp_path, str(tmp_path / "share"))
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    assert discover(reader, base_of(reader), policy(place)) == []
    assert [line.name for line in reader.lines()] == ["lock"]
    assert hub.log == []


def test_a_source_that_is_not_there_is_named_and_the_hub_is_asked(hub, reader, published, tmp_path):
    shared(published, tmp_path, "hf://alice/lock")
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    gone = f"file://{tmp_path}/gone"
    (refused,) = discover(reader, base_of(reader), policy(gone))
    assert refused.startswith(f"{gone}: expected a line of artifacts at {gone}, found nothing")
    assert reader.lines()


def test_a_source_that_no_key_could_vouch_for_is_not_asked_and_told(
    hub, reader, published, tmp_path
):
    place = shared(published, tmp_path, str(tmp_path / "share"))
    assert discover(reader, base_of(reader), policy(place)) == [
        f"{place}: not asked, as no key is trusted for acme/base"
    ]
    assert reader.lines() == []


def test_a_source_for_other_bases_is_not_asked(hub, reader, published, tmp_path):
    place = shared(published, tmp_path, str(tmp_path / "share"))
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    discover(reader, base_of(reader), policy(place, bases=("other/*",)))
    assert reader.lines() == []


def test_a_policy_file_with_a_source_protects_a_load(hub, reader, published, tmp_path):
    place = shared(published, tmp_path, str(tmp_path / "share"))
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    rule = {
        "bases": ["*"],
        "sources": [place],
        "require": [{"kind": "safety-lock", "min_version": "1"}],
    }
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"schema": "safelatch/policy/v1", "rules": [rule]}))
    assert load_protected("alice/tune", registry=reader, policy=file).safelatch.verified


def test_offline_nothing_is_asked_and_the_error_says_so(hub, reader, site, monkeypatch):
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NoProtectionError) as caught:
        load_protected(site.tune, registry=reader)
    assert caught.value.message.endswith(
        "none was accepted from elsewhere:\n  expected what is made for acme/base on the Hub, "
        "got: offline mode."
    )
    assert hub.log == []
    monkeypatch.undo()  # before the hub's own change of the same is taken back


def test_a_hub_that_is_down_is_no_reason_for_another_error(hub, reader, site):
    reader.trust_key(KEY.key_id, namespaces=["acme/*"])
    hub.faults.append(Fault("/api/models?", 503))
    with pytest.raises(NoProtectionError, match="503"):
        load_protected(site.tune, registry=reader)


def test_a_base_that_was_added_from_a_folder_asks_nothing_of_the_hub(hub, site, home):
    with Registry.create() as registry:
        found = identify(site.base, settings=Settings.load())
        add_base(registry, found, name="base")
        registry.trust_key(KEY.key_id, namespaces=["*"])
        assert discover(registry, base_of(registry), None) == []
    assert hub.log == []
