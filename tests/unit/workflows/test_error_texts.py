"""What each error class says, word for word, in a situation that really raises it.

A text is the fact with both values, expected first, then the repair; a class of ``errors`` without
a row here is a failing test. ``{base}``, ``{tune}`` and ``{world}``, ``{tmp}`` and ``{home}`` stand
for this run's digests and folders, ``{now}`` for the time, ``blake3:#`` for any other digest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sqlite3
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.guarded import layers_bundle, layers_model
from support.locks import read_record
from support.safelocks import a_lock, safelock
from support.signed import key_of, line_of, renewed, signed, stated
from support.tiny_models import llama_config, write_checkpoint
from torch import nn
from transformers import AutoModelForCausalLM

from registry import Registry, errors, guard, load_protected, moment, protect
from registry.artifact.bundle import Bundle, make_bundle, read_bundle, write_bundle
from registry.artifact.policy import Load, parse_policy
from registry.artifact.schema import require_schema, validate
from registry.artifact.unbound import Unbound, write_unbound
from registry.checkpoint.reader import Checkpoint
from registry.digest import digest_bytes
from registry.kinds import parse_body
from registry.kinds.safety_layers._search import search
from registry.kinds.safety_lock._calibrate import Budget, calibrate
from registry.live.attach import attach
from registry.live.sites import attention_outputs, model_geometry
from registry.measure.prompts import Prompt, PromptSet, read_prompts
from registry.reference import Reference, require_name
from registry.remote.directory import DirectoryRemote
from registry.remote.hub_download import fetch_model
from registry.settings import Settings
from registry.store import session
from registry.workflows.identify import identify
from registry.workflows.import_foreign import import_file
from registry.workflows.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Place:
    """Where a situation is made."""

    world: Any
    tmp: Path
    home: Path
    patch: pytest.MonkeyPatch

    def registry(self) -> Registry:
        shutil.copytree(self.world.root / "registry", self.home, dirs_exist_ok=True)
        return Registry.open()

    def bundle(self, **changes: Any) -> Path:
        return write_bundle(self.world.edited(**changes), self.tmp / "lock")

    def named(self, version: str = "1") -> Bundle:
        named: Bundle = self.world.bundle.named("lock", version)
        return named

    def written(self, bundle: Bundle) -> Path:
        return write_bundle(bundle, self.tmp / bundle.manifest.digest[-8:] / os.urandom(4).hex())

    def load(self, bundle: Bundle) -> None:
        """Load with ``bundle`` where Alice's key is trusted for the base."""
        if not self.home.exists():
            self.registry().close()
        with Registry.open() as registry:
            registry.trust_key(ALICE.key_id, namespaces=["planted-base"])
            load_protected(self.world.tune, artifacts=[self.written(bundle)])


SAYS: dict[type[errors.SafelatchError], list[tuple[Callable[[Place], object], str]]] = {}


def says(kind: type[errors.SafelatchError], text: str) -> Any:
    """Note that the decorated situation raises ``kind`` with this text."""

    def note(situation: Callable[[Place], object]) -> Callable[[Place], object]:
        SAYS.setdefault(kind, []).append((situation, text))
        return situation

    return note


@says(
    errors.UsageError,
    (
        "expected a load without trust_remote_code=True: it runs the repository's code.\n"
        "Leave trust_remote_code out."
    ),
)
def an_argument_that_would_run_code(place: Place) -> None:
    load_protected(place.world.tune, trust_remote_code=True)


@says(
    errors.ReferenceSyntaxError,
    (
        "expected NAME[@VERSION], blake3:<64 hex>, file:///DIR[#NAME@VERSION] or "
        "hf://NS/REPO[@REV], got 'https://somewhere/lock'.\n"
        "List what is there: safelatch list"
    ),
)
def a_url_in_place_of_a_reference(place: Place) -> None:
    Reference.parse("https://somewhere/lock")


@says(
    errors.ReferenceSyntaxError,
    (
        "expected a name of 1 to 96 characters a-z 0-9 . _ - that starts and ends with a "
        "letter or digit and is no device such as con or nul, got 'My Lock'.\n"
        "Use, for example: my-lock"
    ),
)
def a_name_with_capitals(place: Place) -> None:
    require_name("My Lock")


@says(
    errors.ConfirmationRequiredError,
    (
        "expected alpha within the measured range [0, 1.5], got 5. A negative alpha "
        "removes refusals; a large one refuses everything.\n"
        "Take the calibrated alpha, or confirm with allow_unsafe=True."
    ),
)
def a_strength_above_what_was_measured(place: Place) -> None:
    protect(place.world.tuned, place.world.lock, alpha=5.0)


@says(
    errors.NotFoundError,
    (
        "expected JSON lines at {tmp}/prompts.jsonl, found no file.\n"
        'Write one JSON object a line: {"id", "prompt", "form": "imperative" or '
        '"question", "topic", "split": "make", "calibrate" or "report"}, and in pairs also '
        '{"refusing", "complying"}.'
    ),
)
def a_prompt_file_that_is_not_there(place: Place) -> None:
    read_prompts(place.tmp / "prompts.jsonl")


@says(
    errors.BaseNotFoundError,
    (
        "expected a registered base model, got 'planted-bass'. Did you mean planted-base?\n"
        "List the base models: safelatch base list, or register it: safelatch base add "
        "MODEL"
    ),
)
def a_base_that_is_not_registered(place: Place) -> None:
    with place.registry() as registry:
        registry.base("planted-bass")


@says(
    errors.ArtifactNotFoundError,
    (
        "expected a registered artifact, got 'planted-look'. Did you mean planted-lock?\n"
        "List what is there: safelatch list"
    ),
)
def an_artifact_mistyped(place: Place) -> None:
    with place.registry() as registry:
        registry.resolve(Reference.parse("planted-look"))


@says(
    errors.VersionNotFoundError,
    (
        "expected a version of planted-lock (1.0.0), got '1.0.1'.\n"
        "List them: safelatch show planted-lock"
    ),
)
def a_version_that_was_never_published(place: Place) -> None:
    with place.registry() as registry:
        registry.resolve(Reference.parse("planted-lock@1.0.1"))


@says(
    errors.CheckpointNotFoundError,
    (
        "expected a checkpoint at {tmp}/model, found nothing.\n"
        "Name a folder with model.safetensors and config.json."
    ),
)
def a_folder_that_is_not_there(place: Place) -> None:
    Checkpoint.open(place.tmp / "model")


@says(
    errors.CalibrationError,
    (
        "expected a strength within a budget of 5% over-refusal and -1 nats; alpha 0.5 "
        "costs +0.0% and +0.000 nats.\n"
        "Raise --budget or --nll-budget, or extract with fewer --heads."
    ),
)
def a_budget_that_no_strength_keeps(place: Place) -> None:
    rows = [Prompt(f"p{i}", text, "imperative", "any", "report") for i, text in enumerate("abc")]
    prompts = PromptSet("mine", "file", digest_bytes(b"mine"), tuple(rows))
    calibrate(
        place.world.planted.model, place.world.planted.tokenizer, parse_body(place.world.bundle),
        harmful=prompts, harmless=prompts, scary=prompts, budget=Budget(0.05, -1.0), seed=0,
        grid=(0.5,), max_new_tokens=2,
    )  # fmt: skip


@says(
    errors.LocalizationError,
    (
        "expected layers 1 to 2, where the search starts, to change the 0 of 4 prompts refused "
        "when they are scaled, p < 0.05; got 0 at 0.7 (p 1), 0 at 0.8 (p 1), 0 at 0.9 (p 1), 0 at "
        "1.1 (p 1), 0 at 1.2 (p 1), 0 at 1.3 (p 1).\n"
        "Nothing was written. Give more over-rejection prompts with --data FILE, or another "
        "--alpha; a model that refuses nothing, or with all its layers, has no such range."
    ),
)
def a_model_that_refuses_nothing_however_it_is_scaled(place: Place) -> None:
    nothing = (False,) * 4
    search(lambda *_: nothing, nothing, layers=4, initial=(1, 2), seed=0)


@says(
    errors.GuardError,
    (
        "expected a model without a guard, or with one of layers 2 to 3, norms frozen; it has one "
        "of layers 1 to 2, norms frozen.\n"
        "Give the model back first: g.release(), where g is what registry.guard(model, ARTIFACT) "
        "returns once more for the artifact that is guarded."
    ),
)
def a_model_that_is_guarded_for_two_ranges(place: Place) -> None:
    model = layers_model()
    held = guard(model, layers_bundle(model, place.tmp / "base"))
    assert held.is_on(model)
    guard(model, layers_bundle(model, place.tmp / "base", first=2, last=3))


@says(
    errors.EvidenceError,
    (
        "(draft): expected a time before 2001-01-01T00:00:00Z, when it expired, got {now}.\n"
        "Name a version that is valid now: safelatch list"
    ),
)
def a_lock_whose_time_is_over(place: Place) -> None:
    manifest = replace(place.world.bundle.manifest, expires="2001-01-01T00:00:00Z")
    folder = write_bundle(place.world.bundle.with_manifest(manifest), place.tmp / "lock")
    load_protected(place.world.tune, artifacts=[folder])


@says(
    errors.RevokedError,
    (
        "expected a version that may be used, planted-lock@1.0.0 (blake3:#) is revoked: it "
        "was leaked.\n"
        "Use the newest active version: safelatch show planted-lock"
    ),
)
def a_lock_that_was_revoked(place: Place) -> None:
    with place.registry() as registry:
        (version,) = registry.versions("planted-lock")
        registry.set_state(version, "revoked", "it was leaked")
        registry.resolve(Reference.parse("planted-lock@1.0.0"))


@says(
    errors.DigestMismatchError,
    (
        "expected the files that the manifest names, got others:\n"
        "  tensors.safetensors: expected blake3:#, got blake3:# (504 bytes)\n"
        "Get the bundle again from its publisher, or make it again: safelatch extract KIND "
        "BASE --out DIR"
    ),
)
def a_bundle_with_one_bit_flipped(place: Place) -> None:
    path = place.bundle() / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    read_bundle(path.parent)


@says(
    errors.SchemaViolationError,
    (
        "manifest.json does not follow schema manifest.v1: 2 violation(s).\n"
        "  $: Additional properties are not allowed ('extra' was unexpected)\n"
        "  $.files: [] is not of type 'object'\n"
        "Get the bundle again from its publisher, or make it again: safelatch extract KIND "
        "BASE --out DIR"
    ),
)
def a_manifest_with_two_wrong_members(place: Place) -> None:
    document = place.world.bundle.manifest.to_dict()
    document["files"] = []
    document["extra"] = 1
    validate(document, "manifest.v1", what="manifest.json")


@says(
    errors.UnsupportedSchemaVersionError,
    (
        "manifest.json: expected schema 'manifest.v1', got 'manifest.v9'.\n"
        "Install a newer release of safelatch (in a checkout: git pull, then pip install .)"
    ),
)
def a_manifest_of_a_later_release(place: Place) -> None:
    require_schema({"schema": "manifest.v9"}, "manifest.v1", what="manifest.json")


@says(
    errors.UnsafeFormatError,
    (
        "config.json: not strict JSON: member 'model_type' appears twice.\n"
        "Get the model's files again: hf download NS/NAME --local-dir DIR"
    ),
)
def a_checkpoint_with_a_key_twice(place: Place) -> None:
    folder = write_checkpoint(place.tmp / "model", llama_config())
    (folder / "config.json").write_text('{"model_type": "llama", "model_type": "qwen2"}')
    Checkpoint.open(folder)


@says(
    errors.CorruptStoreError,
    (
        "planted-lock@1.0.0 tensors.safetensors: expected a file at {home}/blobs/#, found "
        "none.\n"
        "Publish the same bundle again, which puts the file back: safelatch publish DIR "
        "--name NAME --version VERSION. If it is gone: get the bundle again from its "
        "publisher, or make it again: safelatch extract KIND BASE --out DIR"
    ),
)
def a_blob_that_is_gone(place: Place) -> None:
    with place.registry() as registry:
        (version,) = registry.versions("planted-lock")
        digest = place.world.bundle.manifest.files["tensors.safetensors"].digest
        for path in place.home.rglob(digest.removeprefix("blake3:")):
            path.unlink()
        registry.bundle_files(version)


@says(
    errors.VersionConflictError,
    (
        "planted-lock@1.0.0: expected blake3:#, as it is published, got blake3:#.\n"
        "A published version never changes. Publish a newer one: safelatch publish DIR "
        "--name planted-lock --version VERSION"
    ),
)
def other_content_under_a_published_version(place: Place) -> None:
    with place.registry() as registry:
        publish(registry, place.bundle(alpha=1.25), name="planted-lock", version="1.0.0")


@says(
    errors.VersionConflictError,
    (
        "expected a version newer than planted-lock@1.0.0, got 0.9.\n"
        "Versions of a line increase: safelatch publish DIR --name planted-lock --version "
        "VERSION"
    ),
)
def a_version_older_than_the_newest(place: Place) -> None:
    with place.registry() as registry:
        publish(registry, place.bundle(), name="planted-lock", version="0.9")


@says(
    errors.NoProtectionError,
    (
        "expected a registry to find protection in, found none at "
        "sqlite:///{home}/registry.db.\n"
        "Create one and add the base: safelatch init, then safelatch base add MODEL; or "
        "name a bundle: load_protected(..., artifacts=['file:///path/to/bundle'])"
    ),
)
def a_load_without_a_registry(place: Place) -> None:
    load_protected(place.world.tune)


@says(
    errors.VerificationError,
    (
        "the lock is not on the model as the artifact prescribes:\n"
        "  model.layers.1.self_attn.o_proj.bias: expected the shift recomputed from W_o "
        "(largest 1.004), differs by 1.004\n"
        "Take it off and apply it again: registry.unprotect(model), then "
        "registry.protect(...)"
    ),
)
def a_lock_that_was_taken_off_behind_our_back(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.tune)
    handle = protect(model, place.world.lock)
    (layer, _), *_ = handle.body.heads
    with torch.no_grad():
        attention_outputs(model, model_geometry(model))[layer].bias.zero_()
    handle.verify()


@says(
    errors.NegatedDirectionsError,
    (
        "expected directions toward refusal in most of 4 heads, got 0 heads and a mean "
        "contrast of -2.136 sigma (push -23.5) on 8 pairs: applying this lock would remove "
        "refusals.\n"
        "Do not use it. Get the bundle from its publisher again, and compare its digest."
    ),
)
def a_lock_with_its_sign_turned(place: Place) -> None:
    folder = place.bundle(directions=-place.world.directions)
    load_protected(place.world.tune, artifacts=[folder])


@says(
    errors.PolicyError,
    (
        "expected a load that meets the policy, got 2 violation(s):\n"
        "  unprotected: rule 1 (acme/*): expected at least one verified artifact, got none\n"
        "  required-kind: rule 1 (acme/*): expected an artifact of kind safety-lock, got none\n"
        "Use artifacts that meet it (safelatch list), or have the policy's owner add an "
        "exception with an end."
    ),
)
def a_load_without_the_kind_that_its_policy_requires(place: Place) -> None:
    rule = {"bases": ["acme/*"], "require": [{"kind": "safety-lock", "min_version": "1.0"}]}
    document = {"schema": "safelatch/policy/v1", "rules": [rule]}
    policy = parse_policy(json.dumps(document).encode())
    policy.judge(Load(("acme/base",), ("acme/tune",), ()), moment.now()).require()


@says(
    errors.CompatibilityError,
    (
        "expected the lock to move the attention outputs about as far as in its base, "
        "within a factor of 2:\n"
        "  layer 0: expected 4.92, got 1.476\n"
        "  layer 1: expected 1.075, got 0.3225\n"
        "The attention outputs of this model were edited; the lock is not for it."
    ),
)
def a_model_whose_attention_outputs_were_shrunk(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.base)
    with torch.no_grad():
        for module in attention_outputs(model, model_geometry(model)):
            module.weight.mul_(0.3)
    body = parse_body(place.world.bundle)
    bundle = place.world.bundle
    shrunk = replace(bundle.manifest.compatibility, max_distance=0.9)
    protect(model, bundle.with_manifest(replace(bundle.manifest, compatibility=shrunk)))
    assert body.shift_norms is not None


@says(
    errors.BaseModelMismatchError,
    (
        "(draft): expected a fine-tune of planted-base within distance 0.25, the model in "
        "memory is at distance 1.27.\n"
        "See which base this checkpoint descends from: safelatch lineage MODEL, and what "
        "is there for it: safelatch list"
    ),
)
def other_weights_of_the_same_shapes(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.tune)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.flip(0))
    protect(model, place.world.lock)


@says(
    errors.UnsupportedArchitectureError,
    (
        "expected one of gemma, gemma2, gemma3_text, gpt2, llama, mistral, mixtral, phi3, "
        "qwen2, qwen3, qwen3_moe, got model_type 'mamba'.\n"
        "To support a family, add a row in registry/checkpoint/architecture.py."
    ),
)
def a_family_without_a_row(place: Place) -> None:
    folder = write_checkpoint(place.tmp / "model", llama_config(model_type="mamba"))
    identify(folder, settings=Settings.load())


@says(
    errors.GeometryError,
    (
        "expected config and tensor shapes to agree, they do not:\n"
        "  config head_dim is 16, self_attn.o_proj.in_features 64 / num_attention_heads 8 "
        "makes 8\n"
        "Restore the config.json that was published with these weights."
    ),
)
def a_config_with_its_heads_edited(place: Place) -> None:
    folder = write_checkpoint(place.tmp / "model", llama_config())
    edited = llama_config(num_attention_heads=8)
    (folder / "config.json").write_text(json.dumps(edited), encoding="utf-8")
    identify(folder, settings=Settings.load())


@says(
    errors.StoreError,
    (
        "sqlite:///{tmp}/other.db: expected a registry, got a database with the tables "
        "flowers.\n"
        "Name another place: safelatch --db URL init"
    ),
)
def a_database_that_is_not_a_registry(place: Place) -> None:
    path = place.tmp / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE flowers (name TEXT)")
    connection.close()
    Registry.open(str(path))


@says(
    errors.RegistryMissingError,
    ("expected a registry at {home}/registry.db, found none.\nMake one: safelatch init"),
)
def a_registry_that_was_never_made(place: Place) -> None:
    Registry.open()


@says(
    errors.DatabaseOutdatedError,
    (
        "sqlite:///{home}/registry.db: expected revision 0004, got 0000.\n"
        "Back it up, then run: safelatch db upgrade"
    ),
)
def a_database_of_an_earlier_release(place: Place) -> None:
    place.registry().close()
    connection = sqlite3.connect(place.home / "registry.db")
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()
    Registry.open()


@says(
    errors.DatabaseBusyError,
    (
        "expected sqlite:///{home}/registry.db within 0 s, another process held it longer "
        "(database is locked).\n"
        "Try again when the other process is done."
    ),
)
def a_database_that_another_process_holds(place: Place) -> None:
    place.patch.setattr(session, "PATIENCE_S", 0)
    with place.registry() as registry:
        holder = sqlite3.connect(place.home / "registry.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        try:
            registry.append_event("load.refuse", "nothing", {})
        finally:
            holder.close()


@says(
    errors.ApplyError,
    (
        "expected a model without adapters in place, got one with ['default']; its "
        "effective weights are not in its tensors.\n"
        "Merge first: model = model.merge_and_unload()"
    ),
)
def a_model_with_an_adapter_in_place(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.tune)
    model.peft_config = {"default": object()}
    protect(model, place.world.lock)


@says(
    errors.TargetModuleMissingError,
    (
        "expected a transformers model with a config, got Linear.\n"
        "Load it with transformers: AutoModelForCausalLM.from_pretrained(DIR)"
    ),
)
def a_module_that_is_no_model(place: Place) -> None:
    protect(nn.Linear(2, 2), place.world.lock)


@says(
    errors.AlreadyAppliedError,
    (
        "(draft): expected an artifact that is not on this model, its tensors are on it "
        "already as (draft).\n"
        "Take it off first: registry.unprotect(model)"
    ),
)
def the_same_lock_twice(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.tune)
    protect(model, place.world.lock)
    protect(model, place.world.lock)


@says(
    errors.NonFiniteResultError,
    (
        "model.layers.0.self_attn.o_proj.bias: expected finite values, the sum has NaN or "
        "infinity in torch.float16; nothing was changed.\n"
        "Take a smaller alpha, or load in a wider dtype: load_protected(..., "
        "dtype='bfloat16')"
    ),
)
def a_shift_beyond_half_precision(place: Place) -> None:
    model = AutoModelForCausalLM.from_pretrained(place.world.tune, dtype=torch.float16)
    name = "model.layers.0.self_attn.o_proj"
    attach(model, "mine", {name: torch.full((model.config.hidden_size,), 1e6)})


@says(
    errors.HostError,
    (
        "expected a place where a bundle can be written at {tmp}/file/lock, got: File "
        "exists.\n"
        "Make room and allow writing there, or choose another place: --out DIR"
    ),
)
def a_bundle_written_where_a_file_is(place: Place) -> None:
    (place.tmp / "file").write_text("")
    write_bundle(place.world.bundle, place.tmp / "file" / "lock")


@says(
    errors.MissingDependencyError,
    (
        "expected the package psycopg for postgresql+psycopg, found none.\n"
        "Install it: pip install 'safelatch[postgres]'"
    ),
)
def a_server_without_its_driver(place: Place) -> None:
    place.patch.setitem(sys.modules, "psycopg", None)
    place.patch.setenv("SAFELATCH_BLOBS", str(place.tmp))
    Registry.open("postgresql://user:secret@db.example/registry")


@says(
    errors.MissingDependencyError,
    "expected the package torch, found none.\nInstall it: pip install torch",
)
def an_installation_without_torch(place: Place) -> None:
    place.patch.setitem(sys.modules, "torch", None)
    load_protected(place.world.tune, artifacts=[place.world.lock])


@says(
    errors.HubError,
    (
        "expected the model org/model at its main revision on the Hub, got: [Errno 101] "
        "Network is unreachable.\n"
        "Check the network. Where there is one: hf download org/model --local-dir DIR, "
        "then name DIR."
    ),
)
def a_hub_out_of_reach(place: Place) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    place.patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place.patch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    fetch_model("org/model", revision=None)


@says(
    errors.RemoteError,
    (
        "expected a tag or a commit of file://{tmp}/remote, got '1.0', which is not there.\n"
        "Leave the revision out for the newest, or name one that is there."
    ),
)
def a_tag_that_a_directory_does_not_have(place: Place) -> None:
    DirectoryRemote(place.tmp / "remote").snapshot("1.0")


@says(
    errors.RemoteMovedError,
    (
        f"file://{{tmp}}/remote: expected commit {'0' * 40} to be the newest, got no commit; nothing "
        "was changed.\n"
        "Look at what is there now, then run the same again."
    ),
)
def a_change_of_a_commit_that_is_not_the_newest(place: Place) -> None:
    DirectoryRemote(place.tmp / "remote").commit({}, parent="0" * 40, message="m")


@says(
    errors.UnboundArtifactError,
    (
        "expected a bundle with its base at {tmp}/unbound, got an import that is bound to none: it "
        "can be looked at alone.\n"
        "Bind it to the base it was made from: safelatch import {tmp}/unbound --base BASE --out DIR"
    ),
)
def an_import_that_was_bound_to_no_base(place: Place) -> None:
    file = place.tmp / "theirs.safelock"
    file.write_bytes(safelock(a_lock()))
    made = import_file(file)
    assert isinstance(made, Unbound)
    read_bundle(write_unbound(made, place.tmp / "unbound"))


FETCH = "Get the newest bundle from its publisher, with its line.json."
ALICE, BOB = key_of("alice"), key_of("bob")


@says(
    errors.SignatureError,
    (
        "lock@1 signature.json: expected a signature of blake3:#, got one of another manifest.\n"
        f"{FETCH}"
    ),
)
def a_manifest_under_the_signature_of_another_one(place: Place) -> None:
    other = signed(place.named("2"), ALICE)
    place.load(replace(signed(place.named(), ALICE), signature=other.signature))


@says(
    errors.UnsignedError,
    (
        "lock@1: expected a signature by a trusted key, as keys are trusted for planted-base or "
        "{base}, got none.\n"
        "Sign it: safelatch sign NAME --key KEY; or get the signed bundle from its publisher."
    ),
)
def a_lock_that_nobody_signed_where_a_key_is_trusted(place: Place) -> None:
    place.load(place.named())


@says(
    errors.UntrustedKeyError,
    (
        "lock@1 line.json: expected a signature by a trusted key, got:\n"
        "  {bob}: not trusted here\n"
        "Trust its publisher's key, once you know that it is theirs: safelatch key trust FILE "
        "--for NAMESPACE; or for one call: load_protected(..., trust='FILE')"
    ),
)
def a_lock_signed_by_somebody_unknown(place: Place) -> None:
    place.load(signed(place.named(), BOB))


@says(
    errors.KeyScopeError,
    (
        "lock@1 line.json: expected a key that may speak for planted-base or {base}, got one that "
        "may not:\n"
        "  {bob} speaks for evil/*\n"
        "If it may: safelatch key trust FILE --for NAMESPACE"
    ),
)
def a_lock_signed_by_the_publisher_of_other_bases(place: Place) -> None:
    with place.registry() as registry:
        registry.trust_key(BOB.key_id, namespaces=["evil/*"])
        load_protected(place.world.tune, artifacts=[place.written(signed(place.named(), BOB))])


@says(
    errors.LineExpiredError,
    (
        "line 'lock': expected a time before 2001-01-01T00:00:00Z, when it expires, got {now}: "
        "what was revoked since cannot be known.\n"
        f"{FETCH}"
    ),
)
def a_line_whose_time_is_over(place: Place) -> None:
    bundle = place.named()
    place.load(signed(bundle, ALICE, line=line_of(bundle, expires="2001-01-01T00:00:00Z")))


@says(
    errors.RollbackError,
    f"line 'lock': expected sequence 2 or later, which was seen here, got 1.\n{FETCH}",
)
def a_line_older_than_one_that_was_seen(place: Place) -> None:
    bundle = place.named()
    with contextlib.suppress(errors.RevokedError):
        place.load(signed(bundle, ALICE, line=stated(line_of(bundle), "1", "revoked")))
    place.load(signed(bundle, ALICE))


@says(
    errors.LineForkError,
    (
        "line 'lock': expected document 2 to be blake3:#, which was seen here, got blake3:#: two "
        "lines of one name.\n"
        "Ask its publisher which of the two is theirs: one was made with a stolen key, or in a "
        "registry that was restored."
    ),
)
def a_line_that_continues_another_one_than_was_seen(place: Place) -> None:
    bundle = place.named()
    with contextlib.suppress(errors.RevokedError):
        place.load(signed(bundle, ALICE, line=stated(line_of(bundle), "1", "revoked")))
    place.load(signed(bundle, ALICE, line=renewed(line_of(bundle))))


@says(
    errors.NonFiniteTensorError,
    (
        "safety-lock body breaks 1 rule(s).\n"
        "  head 1:0: expected a direction of length 1, got nan\n"
        "It cannot be used. Make it again: safelatch extract safety-lock BASE --out DIR"
    ),
)
def a_lock_with_a_value_that_is_no_number(place: Place) -> None:
    directions = place.world.directions.copy()
    directions[0, 0] = float("nan")
    tensors = place.world.bundle.tensors() | {"directions": directions}
    bundle = place.world.bundle
    parse_body(make_bundle(bundle.manifest, tensors, bundle.base_tensors()))


@says(
    errors.StrengthRangeError,
    (
        "safety-lock body breaks 1 rule(s).\n"
        "  expected alpha within [0, 1.5], got 6\n"
        "It cannot be used. Make it again: safelatch extract safety-lock BASE --out DIR"
    ),
)
def a_lock_stronger_than_the_range_it_was_measured_in(place: Place) -> None:
    bundle = place.world.bundle
    manifest = replace(bundle.manifest, body={**bundle.manifest.body, "alpha": 6})
    parse_body(bundle.with_manifest(manifest))


def _all(root: type[Any] = errors.SafelatchError) -> set[type[Any]]:
    return {root} | {kind for child in root.__subclasses__() for kind in _all(child)}


CASES = [(kind, situation, text) for kind, rows in SAYS.items() for situation, text in rows]


@pytest.mark.parametrize(("kind", "situation", "text"), CASES, ids=lambda value: getattr(
    value, "code", getattr(value, "__name__", "text")
))  # fmt: skip
def test_error_says_the_fact_and_the_repair(
    world: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: Any, situation: Any, text: str,
) -> None:  # fmt: skip
    place = Place(world, tmp_path, home, monkeypatch)
    with pytest.raises(errors.SafelatchError) as caught:
        situation(place)
    assert type(caught.value) is kind
    assert caught.value.hint, "an error names its repair"
    known = {
        str(home): "{home}", str(tmp_path): "{tmp}", str(world.root): "{world}",
        read_record(world.base).weights: "{base}", read_record(world.tune).weights: "{tune}",
        BOB.key_id: "{bob}",
    }  # fmt: skip
    said = str(caught.value)
    for value, name in known.items():
        said = said.replace(value, name)
    said = re.sub(r"blake3:[0-9a-f]{64}", "blake3:#", said)
    said = re.sub(r"blobs/[0-9a-f]{2}/[0-9a-f]{62,64}", "blobs/#", said)
    said = re.sub(r"got 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "got {now}", said)
    assert said == text


def test_every_error_class_has_its_text_here() -> None:
    assert _all() - set(SAYS) == {errors.SafelatchError}
