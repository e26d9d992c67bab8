"""Verbs about what the registry holds: ``init``, ``list``, ``show``; and the groups around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli import base_commands, gc, record_commands
from registry.cli.arguments import artifact_argument
from registry.cli.invocation import (
    Invocation,
    example,
    format_option,
    pass_invocation,
    reference_to,
)

if TYPE_CHECKING:
    import datetime as dt

    from registry.artifact.bundle import Bundle
    from registry.store.values import Version
    from registry.workflows.trust_report import TrustStatus


@click.command(epilog=example("safelatch init", "safelatch --db ./team.db init"))
@format_option()
@pass_invocation
def init(invocation: Invocation) -> None:
    """Make the registry, or open it; safe to repeat."""
    from registry.report.verdicts import line
    from registry.store.catalog import Registry

    settings = invocation.settings()
    path = settings.sqlite_path
    existed = path is None or path.exists()
    with Registry.create(settings=settings) as registry:
        document = {
            "registry": registry.location,
            "blobs": str(settings.blobs),
            "created": not existed,
        }
    decision = "opened" if existed else "created"
    invocation.emit(text=line(decision, document["registry"]), document=document)


@click.command("list", epilog=example("safelatch list", "safelatch list --format csv"))
@format_option(csv=True)
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List every published version, newest first within its line."""
    from registry.report.table import Table

    with invocation.registry() as registry:
        found = [v for line in registry.lines() for v in registry.versions(line.name)]
    table = Table(
        ("artifact", "state", "kind", "base", "published_at", "digest"),
        tuple(
            (v.label, v.state, v.kind, v.base_name, _stamp(v.published_at), v.digest) for v in found
        ),
    )
    if not found:
        invocation.say("no artifact is published here; see: safelatch publish --help")
    invocation.emit(text=table.to_text, document=table.records(), table=table)


@click.command(
    epilog=example(
        "safelatch show my-lock@1.0.0",
        "safelatch show my-lock --field digest",
        "safelatch show my-layers --as peft",
    )
)
@artifact_argument
@click.option(
    "--field",
    metavar="NAME",
    help="Print this member of the JSON form alone, such as base.name. [default: everything]",
)
@click.option(
    "--as",
    "engine",
    metavar="ENGINE",
    help="Print alone what keeps it while training with ENGINE: peft, axolotl or trl. "
    "[default: none]",
)
@format_option()
@pass_invocation
def show(invocation: Invocation, ref: str, field: str | None, engine: str | None) -> None:
    """Show one artifact of the registry, or of a folder.

    NAME alone is the newest active version; a draft is named by its folder, as in ./lock.
    """
    if engine is not None:
        _print_training_config(invocation, ref, engine, field)
        return
    document = _document(invocation, ref)
    if field is not None:
        value = _member(document, field, ref)
        invocation.emit(text=lambda: _plain(value), document=value)
        return
    invocation.emit(text=lambda: _show_text(document), document=document)


def _print_training_config(
    invocation: Invocation, ref: str, engine: str, field: str | None
) -> None:
    from registry.checkpoint.geometry import Geometry
    from registry.errors import UsageError
    from registry.kinds import KINDS, kind_of, parse_body
    from registry.workflows.find import find_bundle, stored_bundle

    if field is not None:
        raise UsageError(
            f"expected --field or --as, got both: {field[:80]!r} and {engine[:80]!r}.",
            hint="See how: safelatch show --help",
        )
    reference = reference_to(ref)
    if reference.scheme in {"file", "hf"}:
        bundle, called = find_bundle(reference), ref
    else:
        with invocation.registry() as registry:
            bundle = stored_bundle(registry, reference)[0]
        called = bundle.manifest.label
    kind = bundle.manifest.kind
    write = getattr(kind_of(kind).verb("guard"), "training_config", None)
    if write is None:
        kept = [n for n, k in KINDS.items() if hasattr(k.verb("guard"), "training_config")]
        raise UsageError(
            f"expected an artifact that is kept while training ({', '.join(kept)}), got "
            f"{called}, a {kind}: it is put on a model that was trained already.",
            hint="Load the result with: registry.load_protected(MODEL)",
        )
    geometry = Geometry.from_dict(dict(bundle.manifest.geometry))
    text = write(parse_body(bundle), geometry, engine, artifact=called).rstrip("\n")
    document = {"artifact": called, "kind": kind, "engine": engine, "config": text}
    invocation.emit(text=text, document=document)


def _document(invocation: Invocation, ref: str) -> dict[str, Any]:
    from registry.artifact.unbound import is_unbound
    from registry.workflows.find import find_bundle, stored_bundle
    from registry.workflows.import_foreign import describe_unbound
    from registry.workflows.trust_report import trust_status

    reference = reference_to(ref)
    if reference.scheme == "file" and is_unbound(Path(reference.location)):
        return describe_unbound(Path(reference.location))
    if reference.scheme in {"file", "hf"}:
        bundle = find_bundle(reference)
        with invocation.registry_if_any() as registry:
            return _describe(bundle, None, [], trust_status(bundle, registry))
    with invocation.registry() as registry:
        bundle, version = stored_bundle(registry, reference)
        line = registry.versions(version.name)
        return _describe(bundle, version, line, trust_status(bundle, registry))


def _describe(
    bundle: Bundle, version: Version | None, line: list[Version], trust: TrustStatus
) -> dict[str, Any]:
    from registry.kinds import parse_body

    manifest = bundle.manifest
    return {
        "artifact": manifest.label,
        "digest": manifest.digest,
        "state": "not published" if version is None else version.state,
        "state_reason": None if version is None else version.state_reason,
        "published_at": None if version is None else _stamp(version.published_at),
        **manifest.to_dict(),
        "contents": parse_body(bundle).describe(),
        "signature": trust.to_dict(),
        "versions": [{"version": v.version, "state": v.state, "digest": v.digest} for v in line],
    }


def _show_text(document: dict[str, Any]) -> str:
    from registry.report.table import pairs
    from registry.report.verdicts import line

    if document["state"] == "unbound":
        shown = {**document["source"], "created": document["created"], **document["contents"]}
        head = line("unbound", document["source"]["name"], document["kind"], "bound to no base")
        return f"{head}\n{pairs(shown)}"
    base = document["base"]
    shown = {
        "digest": document["digest"],
        "base": f"{base['name']} ({base['weights']})",
        "created": document["created"],
        "published": document["published_at"],
        "reason": document["state_reason"],
        **document["contents"],
        **_signature(document["signature"]),
        "receipts": [f"{r['type']} {r.get('created', '')}" for r in document["receipts"]],
        "expires": document["validity"]["expires"],
        "license": document["license"],
        "versions": [f"{v['version']} {v['state']}" for v in document["versions"]],
    }
    head = line(document["state"], document["artifact"], document["kind"])
    return f"{head}\n{pairs({k: v for k, v in shown.items() if v not in (None, [])})}"


def _signature(found: dict[str, Any]) -> dict[str, Any]:
    if found["state"] == "vouched":
        until = f", accepted until {found['expires']}" if found["expires"] else ""
        line = f"document {found['sequence']}{until}"
        return {"signed by": ", ".join(found["signed_by"]), "line": line}
    return {"signature": found["reason"] or "none"}


def _member(document: dict[str, Any], field: str, ref: str) -> Any:
    """Return the member that ``field`` names, such as ``base.name``."""
    import shlex
    from difflib import get_close_matches

    from registry.errors import UsageError

    value: Any = document
    path: list[str] = []
    for name in field.split("."):
        known = list(value) if isinstance(value, dict) else []
        if name not in known:
            inside = [m for m in known if isinstance(value[m], dict) and name in value[m]]
            nested = [f"{member}.{name}" for member in inside]
            close = nested[-1:] or get_close_matches(name, known, n=1) or known[:1]
            likely = ".".join([*path, *close])
            raise UsageError(
                f"expected a member out of {', '.join(known) or 'none'} at "
                f"{'.'.join(path) or 'the top'}, got {name[:160]!r}.",
                hint=f"Run: safelatch show {shlex.quote(ref)} --field {likely}",
            )
        value = value[name]
        path.append(name)
    return value


def _plain(value: Any) -> str:
    from registry.report.table import to_json
    from registry.wording import printable

    return printable(value) if isinstance(value, str) else to_json(value)


def _stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


COMMANDS: tuple[click.Command, ...] = (
    init,
    base_commands.base,
    list_,
    show,
    gc.gc,
    record_commands.log,
    record_commands.db,
)
