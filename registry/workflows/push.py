"""Push: versions of a signed line to a remote, each in one step, as often as it takes.

- Only what is signed is pushed: what arrives elsewhere must be told apart from anybody else's.
- A change is made from the newest commit. When somebody else was faster it is planned anew, from
  what is there then. What is there already is not written again, so a push whose answer was lost is
  finished by the next one.
- A remote whose line does not continue ours, nor ours it, is a conflict that nobody resolves by
  trying again: a line has one registry that it is published from.
- What a repository holds that is no line of artifacts is not written to.
"""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.artifact.bundle import MANIFEST, SIGNATURE
from registry.artifact.succession import require_follows
from registry.errors import (
    ConfirmationRequiredError,
    LineForkError,
    RemoteMovedError,
    UsageError,
    VersionConflictError,
)
from registry.remote.contract import CARD, LINE, version_path
from registry.workflows.fetch import ENVELOPE_LIMIT, keys_named_in, line_in
from registry.workflows.find import bundle_of, version_named
from registry.workflows.publication import page_of
from registry.workflows.trust import trust_of, vouch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from registry.artifact.bundle import Bundle
    from registry.artifact.line import Line
    from registry.reference import Reference
    from registry.remote.contract import Remote, Snapshot
    from registry.store.catalog import Registry
    from registry.store.values import Version

MOST_TRIES = 100
"""How often a push is planned anew because somebody else was faster."""
_OURS = ("versions/", "plots/")
_HARMLESS = {CARD, ".gitattributes", "LICENSE"}
"""What the Hub, or its form for a new repository, puts there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push would change.

    Attributes:
        files: Path to bytes; empty when everything is there.
        parent: The commit it was planned from; ``None`` for an empty remote.
        is_new: Whether the version is not there yet.
        has_version: Whether it is there afterwards; a revoked one is not brought.
        missing: Active versions of the line that the remote has no files of afterwards.
        lacks_images: Whether the card is without images because matplotlib is not installed.
    """

    files: Mapping[str, bytes]
    parent: str | None
    is_new: bool
    has_version: bool
    missing: tuple[str, ...] = ()
    lacks_images: bool = False


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        version: What was pushed.
        url: Where to.
        commit: The commit that has it; ``None`` for a plan.
        plan: What was changed, or would be.
        tries: How often it was planned.
    """

    version: Version
    url: str
    commit: str | None
    plan: Plan
    tries: int


def push_all(
    registry: Registry,
    reference: Reference,
    remote: Remote,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pushed]:
    """Push the version that ``reference`` names, or every version of the line.

    The newest active one goes first: from then on the line that comes with it names a version that
    is there.

    Raises:
        UsageError: it names neither.
        SafelatchError: see ``push``; what was pushed before stays.
    """
    if reference.version is not None or reference.scheme != "registry":
        versions = [version_named(registry, reference)]
    else:
        versions = registry.versions(reference.name or "")
        envelope = registry.line_bytes(versions[0].name)
        newest = None if envelope is None else line_in(envelope).newest_active
        versions.sort(key=lambda version: version.version != newest)
    done = []
    for version in versions:
        done.append(push(registry, version, remote, dry_run=dry_run))
        if progress is not None:
            progress(len(done), len(versions))
    return done


def push(registry: Registry, version: Version, remote: Remote, *, dry_run: bool = False) -> Pushed:
    """Put ``version`` and its line into ``remote``; the same again is no news.

    Args:
        registry: Where it is published.
        version: A signed version.
        remote: Where to.
        dry_run: Only plan.

    Raises:
        ConfirmationRequiredError: the version or its line is not signed.
        UsageError: the remote holds something else than artifacts.
        LineForkError, VersionConflictError: its line is not the one this registry publishes.
        RevokedError: its line, which is newer than ours, revokes the version.
        RemoteMovedError: somebody else was faster every time.
        RemoteError: the remote cannot be reached, or refuses.
    """
    bundle = bundle_of(registry, version)
    if bundle.signature is None or bundle.line is None:
        raise ConfirmationRequiredError(
            f"expected a signed version to push, {version.label} is signed by nobody.",
            hint=f"Sign it: safelatch sign {version.name} --key KEY",
        )
    for tries in range(1, MOST_TRIES + 1):
        plan = _plan(registry, bundle, remote)
        if dry_run:
            return Pushed(version, remote.url, None, plan, tries)
        try:
            commit = plan.parent
            if plan.files:
                message = version.label if plan.is_new else f"{version.name}: line"
                commit = remote.commit(plan.files, parent=plan.parent, message=message)
        except RemoteMovedError:
            if tries == MOST_TRIES:
                raise
            time.sleep(random.uniform(0, min(0.05 * tries, 1.0)))  # noqa: S311 -- spreads them out
            continue
        if commit is not None and plan.has_version:  # a tag may not have come through before
            remote.tag(version.version, commit)
        return Pushed(version, remote.url, commit, plan, tries)
    raise AssertionError("a loop that returns or raises")


def _plan(registry: Registry, bundle: Bundle, remote: Remote) -> Plan:
    name, version = bundle.manifest.name or "", bundle.manifest.version or ""
    snapshot = remote.snapshot()
    there = {} if snapshot is None else snapshot.files
    theirs = None if snapshot is None else _line_of(remote, snapshot, name)
    if theirs is not None and _is_disowned(registry, theirs):
        theirs = None  # ours goes over what was signed with a stolen key
    # Ours is read after theirs: what another process pushed from here meanwhile is no surprise.
    envelope, files = registry.line_bytes(name) or b"", dict[str, bytes]()
    is_ahead = theirs is not None and _is_ahead(remote, line_in(theirs), line_in(envelope))
    if theirs is not None and is_ahead:
        vouch(replace(bundle, line=theirs), trust_of(None, registry), registry)
        envelope = theirs
    elif theirs != envelope:
        files[LINE] = envelope
    line = line_in(envelope)
    is_new = version_path(version, MANIFEST) not in there
    if line.entry_of(bundle.manifest).state != "revoked" or not is_new:
        signature = {} if is_ahead and not is_new else {SIGNATURE: bundle.signature or b""}
        for part, data in {**bundle.files, **signature}.items():
            path = version_path(version, part)
            if snapshot is None or not _is_there(remote, snapshot, path, data):
                files[path] = data
    after = {*there, *files}
    lacks_images = False
    if files:
        page = page_of(registry, line, remote.url, keys_named_in(envelope))
        files |= page.files
        lacks_images = page.lacks_images
    return Plan(
        files,
        None if snapshot is None else snapshot.commit,
        is_new,
        version_path(version, MANIFEST) in after,
        tuple(
            one for one, entry in line.versions.items()
            if entry.state == "active" and version_path(one, MANIFEST) not in after
        ),
        lacks_images,
    )  # fmt: skip


def _line_of(remote: Remote, snapshot: Snapshot, name: str) -> bytes | None:
    """Return the signed line that the remote holds, if it holds one.

    Raises:
        UsageError: it holds something else.
        VersionConflictError: it holds another line.
    """
    if LINE not in snapshot.files:
        others = sorted(
            path for path in snapshot.files
            if path not in _HARMLESS and not path.startswith(_OURS)
        )  # fmt: skip
        if others:
            raise UsageError(
                f"{remote.url}: expected a line of artifacts or nothing, got "
                f"{', '.join(others[:4])}; nothing was changed.",
                hint="A line has a place of its own. Name a new one: hf://NAMESPACE/NAME",
            )
        return None
    theirs = remote.read(snapshot, LINE, limit=ENVELOPE_LIMIT)
    if (found := line_in(theirs).name) != name:
        raise VersionConflictError(
            f"{remote.url}: expected the line {name}, it holds {found}; nothing was changed.",
            hint="A line has a place of its own. Name another one: hf://NAMESPACE/NAME",
        )
    return theirs


def _is_ahead(remote: Remote, theirs: Line, own: Line) -> bool:
    """Return whether the remote's line continues ours; else it is ours, or ours continues it.

    Raises:
        LineForkError, VersionConflictError: neither continues the other.
    """
    is_ahead = theirs.sequence > own.sequence
    try:
        require_follows(*((theirs, own) if is_ahead else (own, theirs)))
    except (LineForkError, VersionConflictError) as error:
        raise type(error)(
            f"{remote.url} holds another line {own.name} than this registry: {error.message}",
            hint="A line is published from one registry. Publish there what is only here: "
            f"safelatch save {own.name}@VERSION --out DIR, then in the other registry "
            f"safelatch publish DIR --name {own.name} --version VERSION --key KEY; or push this "
            "line to a place of its own.",
        ) from error
    return is_ahead


def _is_disowned(registry: Registry, theirs: bytes) -> bool:
    """Return whether every key that a line names is revoked here."""
    revoked = {key.key_id for key in registry.trusted_keys() if key.revoked_at is not None}
    named = keys_named_in(theirs)
    return bool(named) and revoked.issuperset(named)


def _is_there(remote: Remote, snapshot: Snapshot, path: str, data: bytes) -> bool:
    """Return whether the remote has these bytes, by what it states or, of a small file, by them."""
    stated = snapshot.files.get(path)
    if stated is None or stated.size != len(data):
        return False
    if stated.sha256 is not None:
        return stated.sha256 == hashlib.sha256(data).hexdigest()
    is_small = path.endswith((MANIFEST, SIGNATURE))
    return not is_small or remote.read(snapshot, path, limit=len(data)) == data
