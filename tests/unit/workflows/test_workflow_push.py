"""Push, to a repository on the Hub and to a folder: what holds of one holds of the other."""

from __future__ import annotations

import shutil

import pytest
from support.hub import ALICE, BOB, Fault, client_at, lost_response, serving
from support.sharing import KEY, NEXT, REPO, Place, copied, publisher_at, put
from support.signed import kept, make_site, stated

from registry.errors import (
    ConfirmationRequiredError,
    HubError,
    LineForkError,
    RemoteMovedError,
    RevokedError,
    UsageError,
    VersionConflictError,
)
from registry.reference import Reference
from registry.workflows import publication
from registry.workflows import push as push_workflow
from registry.workflows.fetch import fetch_bundle, line_in
from registry.workflows.pull import pull
from registry.workflows.push import push_all
from registry.workflows.remotes import open_remote
from registry.workflows.sign import Signer, change_state, sign_again

LOCK = Reference.parse("lock")
BUNDLE = ["base.safetensors", "manifest.json", "signature.json", "tensors.safetensors"]
IMAGE = "plots/probes.png"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def hub(tmp_path):
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache", ALICE):
        yield opened


@pytest.fixture(params=["hub", "folder"])
def place(request, tmp_path):
    if request.param == "folder":
        folder = tmp_path / "remote"
        return Place(Reference.of_folder(folder), None, folder)
    return Place(Reference("hf", location=REPO), request.getfixturevalue("hub"), None)


@pytest.fixture(scope="module")
def published(site, tmp_path_factory):
    """The folder of a publisher's registry with lock@1.0.0, signed."""
    folder = tmp_path_factory.mktemp("published")
    with publisher_at(folder / "publisher") as registry:
        put(registry, site, folder, "1.0.0")
    return folder / "publisher"


@pytest.fixture
def here(published, tmp_path):
    with copied(published, tmp_path / "publisher") as registry:
        yield registry


def files_of(version):
    return {f"versions/{version}/{name}" for name in BUNDLE}


def push(registry, place, name="lock", **given):
    return push_all(registry, Reference.parse(name), place.remote, **given)


def test_a_push_puts_the_bundle_the_line_and_a_page_there_in_one_step(here, place):
    (done,) = push(here, place)
    assert set(done.plan.files) == files_of("1.0.0") | {"README.md", "line.json", IMAGE}
    assert done.plan.is_new
    bundle = kept(here, "1.0.0")
    assert place.read("line.json") == bundle.line
    assert place.read("versions/1.0.0/signature.json") == bundle.signature
    for name, data in bundle.files.items():
        assert place.read(f"versions/1.0.0/{name}") == data
    assert done.commit == place.now().commit
    assert place.remote.snapshot("1.0.0") == place.now()
    assert place.commits() == (2 if place.hub else 1)  # the Hub makes a first commit of its own


def test_the_same_again_is_no_news(here, place):
    (first,) = push(here, place)
    before = place.commits()
    (again,) = push(here, place)
    assert (again.plan.files, again.plan.is_new, again.commit) == ({}, False, first.commit)
    assert place.commits() == before


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(here, place):
    (plan,) = push(here, place, dry_run=True)
    assert plan.commit is None
    assert files_of("1.0.0") < set(plan.plan.files)
    assert place.remote.snapshot() is None
    if place.hub:
        assert {asked.method for asked in place.hub.log} == {"GET"}
    else:
        assert not place.folder.exists()


def test_a_dry_run_of_a_line_that_is_there_writes_nothing_either(here, site, place, tmp_path):
    push(here, place)
    put(here, site, tmp_path, "1.1.0")
    before = place.now()
    (_, _) = push(here, place, dry_run=True)
    assert place.now() == before


@pytest.mark.parametrize("name", ["lock", "lock@2.0.0"])
def test_a_version_that_nobody_signed_is_refused_before_anything_is_asked(
    site, place, tmp_path, name
):
    from registry.artifact.bundle import write_bundle
    from registry.store.catalog import Registry
    from registry.workflows.publish import publish

    with Registry.create(str(tmp_path / "unsigned" / "registry.db")) as registry:
        write_bundle(site.draft, tmp_path / "draft")
        publish(registry, tmp_path / "draft", name="lock", version="2.0.0")
        with pytest.raises(ConfirmationRequiredError) as caught:
            push(registry, place, name)
    assert caught.value.message == (
        "expected a signed version to push, lock@2.0.0 is signed by nobody."
    )
    assert caught.value.hint == "Sign it: safelatch sign lock --key KEY"
    assert not place.hub or not place.hub.log


def test_a_whole_line_goes_newest_first_so_that_what_it_names_is_there(here, site, place, tmp_path):
    put(here, site, tmp_path, "1.1.0")
    put(here, site, tmp_path, "2.0.0rc1")
    done = push(here, place)
    assert [each.version.version for each in done] == ["1.1.0", "2.0.0rc1", "1.0.0"]
    assert [each.plan.missing for each in done] == [("1.0.0", "2.0.0rc1"), ("1.0.0",), ()]
    assert set(place.now().files) >= files_of("1.1.0") | files_of("2.0.0rc1") | files_of("1.0.0")


def test_an_older_version_may_come_after_a_newer_one(here, site, place, tmp_path):
    put(here, site, tmp_path, "1.1.0")
    push(here, place, "lock@1.1.0")
    card = place.read("README.md")
    (done,) = push(here, place, "lock@1.0.0")
    assert done.plan.is_new
    assert set(done.plan.files) >= files_of("1.0.0")
    assert "line.json" not in done.plan.files
    assert place.read("README.md") == card
    assert line_in(place.read("line.json")).newest_active == "1.1.0"


@pytest.mark.parametrize("state", ["yanked", "active"])
def test_a_yank_and_its_undoing_change_the_line_and_the_page_alone(
    here, site, place, state, tmp_path
):
    put(here, site, tmp_path, "1.1.0")
    push(here, place)
    changes = ["yanked"] if state == "yanked" else ["yanked", "active"]
    for change in changes:
        version = here.versions("lock")[0]
        change_state(
            here, version, change, "too weak" if change == "yanked" else None, Signer([KEY])
        )
        done = push(here, place)
    assert all(each.plan.is_new is False for each in done)
    changed = {path for each in done for path in each.plan.files}
    assert changed - {IMAGE} == {"README.md", "line.json"}
    assert line_in(place.read("line.json")).versions["1.1.0"].state == state


def test_a_revoked_version_is_told_and_not_brought(here, site, place, tmp_path):
    put(here, site, tmp_path, "1.1.0")
    push(here, place, "lock@1.0.0")
    change_state(here, here.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    done = {each.version.version: each for each in push(here, place)}
    assert not files_of("1.1.0") & set(place.now().files)
    assert not done["1.1.0"].plan.has_version
    assert line_in(place.read("line.json")).versions["1.1.0"].reason == "leaks"
    with pytest.raises(Exception, match=r"1\.1\.0"):
        place.remote.snapshot("1.1.0")  # no tag for what is not there


def test_a_version_that_was_there_stays_when_it_is_revoked(here, place):
    push(here, place)
    change_state(here, here.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    (done,) = push(here, place)
    assert set(done.plan.files) == {"README.md", "line.json"}
    assert files_of("1.0.0") < set(place.now().files)


def test_a_key_that_signs_too_reaches_those_who_trust_only_it(here, place, tmp_path):
    push(here, place)
    here.trust_key(NEXT.key_id, namespaces=["acme/*"])
    sign_again(here, "lock", Signer([NEXT]))
    (done,) = push(here, place)
    assert "versions/1.0.0/signature.json" in done.plan.files
    with publisher_at(tmp_path / "reader", NEXT) as reader:
        assert pull(reader, place.reference).version.key_id == NEXT.key_id


def test_a_key_that_signs_too_counts_for_an_older_commit(here, place, tmp_path):
    (first,) = push(here, place)
    here.trust_key(NEXT.key_id, namespaces=["acme/*"])
    sign_again(here, "lock", Signer([NEXT]))
    push(here, place)
    if place.hub is None:
        pytest.skip("the reference to a folder names no commit")
    with publisher_at(tmp_path / "reader", NEXT) as reader:
        done = pull(reader, Reference.parse(f"{place.reference}@{first.commit}"))
    assert (done.commit, done.version.key_id) == (first.commit, NEXT.key_id)


def test_a_registry_that_is_behind_learns_the_newer_line_and_does_not_wind_it_back(
    here, site, place, tmp_path
):
    backup = shutil.copytree(tmp_path / "publisher", tmp_path / "backup")
    put(here, site, tmp_path, "1.1.0")
    push(here, place)
    line = place.read("line.json")
    with copied(backup, tmp_path / "restored") as behind:
        assert [each.plan.files for each in push(behind, place)] == [{}]
        assert behind.line_bytes("lock") == line
    assert place.read("line.json") == line


def test_a_version_that_the_newer_line_there_revokes_is_refused(here, place, tmp_path):
    backup = shutil.copytree(tmp_path / "publisher", tmp_path / "backup")
    change_state(here, here.versions("lock")[0], "revoked", "leaks", Signer([KEY]))
    push(here, place)
    with copied(backup, tmp_path / "restored") as behind:
        with pytest.raises(RevokedError):
            push(behind, place)
        assert behind.versions("lock")[0].state == "revoked"


def fork_of(here, site, place, tmp_path, version="1.1.0"):
    """Push 1.1.0, and return a registry of the same key that published another version."""
    backup = shutil.copytree(tmp_path / "publisher", tmp_path / "backup")
    put(here, site, tmp_path, "1.1.0")
    push(here, place)
    other = copied(backup, tmp_path / "other")
    put(other, site, tmp_path, version, alpha=0.5)
    return other


@pytest.mark.parametrize("version", ["1.1.0", "1.2.0"])
def test_two_registries_of_one_line_are_told_apart_and_what_to_do(
    here, site, place, tmp_path, version
):
    with fork_of(here, site, place, tmp_path, version) as other:
        before = place.now()
        with pytest.raises(LineForkError) as caught:
            push(other, place)
        assert caught.value.message.startswith(
            f"{place.remote.url} holds another line lock than this registry: line 'lock': expected "
            "document 2 to be blake3:"
        )
        assert caught.value.hint == (
            "A line is published from one registry. Publish there what is only here: "
            "safelatch save lock@VERSION --out DIR, then in the other registry "
            "safelatch publish DIR --name lock --version VERSION --key KEY; or push this line to a "
            "place of its own."
        )
        assert place.now() == before


def test_the_fork_is_found_whichever_line_is_longer(here, site, place, tmp_path):
    with fork_of(here, site, place, tmp_path, "1.2.0") as other:
        put(other, site, tmp_path, "1.3.0", alpha=0.75)
        with pytest.raises(LineForkError):
            push(other, place)
        put(here, site, tmp_path, "1.4.0")
        put(here, site, tmp_path, "1.5.0")
        push(here, place)
        with pytest.raises(LineForkError):
            push(other, place)


def test_what_the_fork_is_told_to_do_works(here, site, place, tmp_path):
    from registry.artifact.bundle import write_bundle
    from registry.workflows.find import stored_bundle
    from registry.workflows.publish import publish

    with fork_of(here, site, place, tmp_path, "1.2.0") as other:
        saved, _ = stored_bundle(other, Reference.parse("lock@1.2.0"))
    write_bundle(saved, tmp_path / "saved")
    publish(here, tmp_path / "saved", name="lock", version="1.2.0", signer=Signer([KEY]))
    push(here, place)
    assert files_of("1.2.0") < set(place.now().files)


def test_what_a_thief_pushed_is_gone_over_once_the_stolen_key_is_revoked(
    here, site, place, tmp_path
):
    backup = shutil.copytree(tmp_path / "publisher", tmp_path / "backup")
    with copied(backup, tmp_path / "thief") as thief:
        put(thief, site, tmp_path, "66.0", alpha=0.5)
        push(thief, place)
    put(here, site, tmp_path, "1.1.0")
    with pytest.raises(LineForkError):
        push(here, place)
    here.revoke_key(KEY.key_id, "stolen")
    here.trust_key(NEXT.key_id, namespaces=["*"])
    sign_again(here, "lock", Signer([NEXT]))
    push(here, place)
    shown = fetch_bundle(place.reference)
    assert shown.bundle.manifest.version == "1.1.0"
    assert set(line_in(shown.bundle.line).versions) == {"1.0.0", "1.1.0"}


def test_a_place_of_another_line_is_left_alone(here, site, place, tmp_path):
    push(here, place)
    before = place.now()
    with publisher_at(tmp_path / "second") as second:
        from registry.artifact.bundle import write_bundle
        from registry.workflows.publish import publish

        write_bundle(site.draft, tmp_path / "draft")
        publish(second, tmp_path / "draft", name="key", version="1.0.0", signer=Signer([KEY]))
        with pytest.raises(VersionConflictError) as caught:
            push(second, place, "key")
    assert caught.value.message == (
        f"{place.remote.url}: expected the line key, it holds lock; nothing was changed."
    )
    assert place.now() == before


def test_a_repository_of_a_model_is_left_alone(here, hub):
    model = hub.add(REPO, {"README.md": b"# Mine", "config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(UsageError) as caught:
        push_all(here, LOCK, open_remote(Reference("hf", location=REPO)))
    assert caught.value.message == (
        "hf://alice/lock: expected a line of artifacts or nothing, got config.json, "
        "model.safetensors; nothing was changed."
    )
    assert hub.history(REPO)[0].sha == model


def test_a_repository_that_was_made_on_the_page_of_the_hub_is_taken(here, hub):
    hub.create(REPO)
    hub.add(
        REPO, {".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n", "LICENSE": b"x"}
    )
    (done,) = push_all(here, LOCK, open_remote(Reference("hf", location=REPO)))
    assert done.plan.is_new


@pytest.mark.parametrize("lost", ["line.json", "versions/1.0.0/tensors.safetensors"])
def test_what_was_removed_there_is_put_back(here, hub, lost):
    place = Place(Reference("hf", location=REPO), hub, None)
    push(here, place)
    was = place.read(lost)
    place.attack({lost: None})
    (done,) = push(here, place)
    assert lost in done.plan.files
    assert place.read(lost) == was


@pytest.mark.parametrize(
    "part", ["manifest.json", "signature.json", "base.safetensors", "tensors.safetensors"]
)
def test_what_was_changed_there_is_put_back(here, hub, part):
    place = Place(Reference("hf", location=REPO), hub, None)
    push(here, place)
    path = f"versions/1.0.0/{part}"
    was = place.read(path)
    place.attack({path: was[:-1] + bytes([was[-1] ^ 1])})
    (done,) = push(here, place)
    assert path in done.plan.files
    assert place.read(path) == was


# What the Hub alone can do.


@pytest.fixture
def remote(hub):
    return open_remote(Reference("hf", location=REPO))


@pytest.mark.parametrize("match", ["POST /api/repos/create", f"POST /api/models/{REPO}/commit"])
@pytest.mark.parametrize("status", [None, 504])
def test_a_lost_answer_is_no_second_commit(here, hub, remote, match, status):
    hub.faults.append(lost_response(match, status))
    (done,) = push_all(here, LOCK, remote)
    assert len(hub.history(REPO)) == 2
    assert done.commit == hub.history(REPO)[0].sha


def test_a_push_that_lost_every_answer_is_finished_by_the_next_one(here, hub, remote, monkeypatch):
    monkeypatch.setattr("registry.remote.hub_remote.TRIES", 1)
    hub.faults.append(lost_response(f"POST /api/models/{REPO}/commit", 504))
    with pytest.raises(HubError):
        push_all(here, LOCK, remote)
    hub.faults.clear()
    assert hub.repos[REPO].tags == {}
    (again,) = push_all(here, LOCK, remote)
    assert (again.plan.files, len(hub.history(REPO))) == ({}, 2)
    assert hub.repos[REPO].tags == {"1.0.0": again.commit}


def test_a_commit_in_between_is_planned_anew_from_what_is_there_then(
    here, site, hub, remote, tmp_path
):
    push_all(here, LOCK, remote)
    put(here, site, tmp_path, "1.1.0")

    def meddle(opened):
        files = {name: blob.data for name, blob in opened.history(REPO)[0].files.items()}
        opened.add(REPO, {**files, "notes.md": b"x"})

    hub.faults.append(Fault(f"GET /api/models/{REPO}", after=meddle, times=1, nth=1))
    done = push_all(here, LOCK, remote)
    assert [each.tries for each in done] == [2, 1]
    head = hub.history(REPO)[0].files
    assert {"notes.md", *files_of("1.1.0"), *files_of("1.0.0")} < set(head)


def test_a_push_that_is_never_fast_enough_ends(here, hub, remote, monkeypatch):
    hub.create(REPO)
    monkeypatch.setattr(push_workflow, "MOST_TRIES", 3)
    monkeypatch.setattr(push_workflow.time, "sleep", lambda _: None)
    hub.faults.append(Fault(f"POST /api/models/{REPO}/commit", 412))
    with pytest.raises(RemoteMovedError):
        push_all(here, LOCK, remote)
    assert len(hub.asked("/commit/")) == 3


@pytest.mark.parametrize("private", [False, True])
def test_a_new_repository_is_private_if_that_is_asked_for(here, hub, private):
    reference = Reference("hf", location=REPO)
    push_all(here, LOCK, open_remote(reference, private=private))
    assert hub.repos[REPO].is_private is private


def test_a_folder_cannot_be_private(tmp_path):
    with pytest.raises(UsageError) as caught:
        open_remote(Reference.of_folder(tmp_path), private=True)
    assert caught.value.message.startswith("expected a repository on the Hub for --private")


def test_the_repository_of_another_user_is_refused(here, tmp_path):
    with serving() as opened, client_at(opened.url, tmp_path / "cache", BOB):
        opened.create(REPO)
        with pytest.raises(HubError):
            push_all(here, LOCK, open_remote(Reference("hf", location=REPO)))


def test_without_matplotlib_the_page_has_no_images_and_the_plan_says_so(
    here, hub, remote, monkeypatch
):
    monkeypatch.setattr(publication, "_drawn", lambda _: None)
    (done,) = push_all(here, LOCK, remote)
    assert done.plan.lacks_images
    assert IMAGE not in done.plan.files
    assert b"plots/" not in done.plan.files["README.md"]


def test_the_card_says_what_the_hub_finds_it_by(here, hub, remote):
    push_all(here, LOCK, remote)
    from huggingface_hub import HfApi

    info = HfApi().model_info(REPO)
    assert {"safelatch", "base_model:adapter:acme/base"} <= set(info.tags)


def test_a_place_that_is_named_wrongly_is_told():
    with pytest.raises(UsageError) as caught:
        open_remote(LOCK)
    assert caught.value.message == "expected a remote, hf://NS/REPO or file:///DIR, got lock."


def test_a_line_of_the_remote_that_no_trusted_key_signed_is_not_taken_for_newer(
    here, place, tmp_path
):
    from support.sharing import MALLORY

    from registry.artifact.trust import signed_line
    from registry.errors import UntrustedKeyError

    push(here, place)
    line = line_in(place.read("line.json"))
    place.attack({"line.json": signed_line(stated(line, "1.0.0", "revoked"), [MALLORY])})
    with pytest.raises(UntrustedKeyError):
        push(here, place)
    assert here.versions("lock")[0].state == "active"
