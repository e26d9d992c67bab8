from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.hub import Fault, Hub, client_at, serving
from support.tiny_models import (
    fine_tune,
    llama_config,
    make_tensors,
    qwen2_config,
    save_sharded,
    tensor,
    write_checkpoint,
)

from registry.errors import (
    CheckpointNotFoundError,
    GeometryError,
    HubError,
    UnsafeFormatError,
    UnsupportedArchitectureError,
)
from registry.settings import Settings
from registry.workflows.bases import add_base
from registry.workflows.identify import identify
from registry.workflows.remote_lineage import from_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "org/copy"
SHARDS = 3


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving() as opened, client_at(opened.url, tmp_path / "hub-cache"):
        yield opened


@pytest.fixture
def base(empty_registry: Any, tmp_path: Path) -> Path:
    """A sharded base, registered as ``mine``."""
    folder = save_sharded(tmp_path / "base", llama_config(), shards=SHARDS)
    add_base(empty_registry, identify(folder, settings=Settings.load()), "mine")
    return folder


def headers_of(folder: Path) -> int:
    """Return the size of all headers of the weight files in ``folder``, lengths included."""
    return sum(
        8 + int.from_bytes(file.read_bytes()[:8], "little") for file in folder.glob("*.safetensors")
    )


def test_an_unmodified_copy_is_recognised_and_no_byte_of_its_weights_is_read(
    empty_registry: Any, hub: Hub, base: Path
) -> None:
    commit = hub.add(REPO, base)
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level, found.commit) == ("identical", 4, commit)
    assert found.evidence == "the Hub states the same SHA-256 for every weight file"
    assert [(c.base.name, c.level, c.config_differences) for c in found.candidates] == [
        ("mine", 4, ())
    ]
    assert found.header_bytes == 0
    assert not hub.asked(".safetensors/")
    assert {request.path.rpartition("/")[2] for request in hub.asked("/resolve/")} == {
        "config.json", "model.safetensors.index.json",
    }  # fmt: skip
    assert hub.weight_bytes == 0


def test_a_copy_with_another_card_and_other_file_names_is_recognised(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "one", llama_config())
    add_base(empty_registry, identify(folder, settings=Settings.load()), "mine")
    (folder / "model.safetensors").rename(folder / "renamed.safetensors")
    (folder / "README.md").write_text("# mine now")
    hub.add(REPO, folder)
    assert from_metadata(empty_registry, REPO).relation == "identical"


def test_a_copy_whose_config_was_edited_says_so(empty_registry: Any, hub: Hub, base: Path) -> None:
    (base / "config.json").write_text(json.dumps(llama_config(rms_norm_eps=0.5)))
    hub.add(REPO, base)
    (candidate,) = from_metadata(empty_registry, REPO).candidates
    assert candidate.level == 4
    assert candidate.config_differences == (("rms_norm_eps", 1e-05, 0.5),)


def test_a_copy_with_another_number_of_heads_is_refused(
    empty_registry: Any, hub: Hub, base: Path
) -> None:
    (base / "config.json").write_text(json.dumps(llama_config(num_attention_heads=5)))
    hub.add(REPO, base)
    with pytest.raises(GeometryError):
        from_metadata(empty_registry, REPO)


def test_a_copy_with_one_changed_shard_is_not_the_base(
    empty_registry: Any, hub: Hub, base: Path
) -> None:
    shard = max(base.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    hub.add(REPO, base)
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level) == ("same-shapes", 2)
    assert found.evidence == "names and shapes agree; weights were not read"
    assert [(c.base.name, c.level) for c in found.candidates] == [("mine", 2)]


def test_of_an_unknown_fine_tune_the_headers_are_read_and_nothing_else(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    tuned = fine_tune(make_tensors(llama_config()), 0.01)
    folder = save_sharded(tmp_path / "tuned", llama_config(), tuned, shards=SHARDS)
    hub.add(REPO, folder)
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level) == ("same-shapes", 2)
    assert found.header_bytes == headers_of(folder) == hub.weight_bytes
    assert len(hub.asked(".safetensors")) == 2 * SHARDS + 1  # and the index
    assert all(request.range for request in hub.asked("resolve") if ".index" not in request.path
               and "config" not in request.path)  # fmt: skip


def test_a_model_of_another_geometry_has_no_candidate(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    hub.add(REPO, write_checkpoint(tmp_path / "other", qwen2_config()))
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level, found.candidates) == ("unknown", 0, ())
    assert found.evidence.startswith("no registered base has its names and shapes")


def test_a_longer_vocabulary_is_the_same_structure_and_is_listed(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    config = llama_config(vocab_size=97)
    hub.add(REPO, write_checkpoint(tmp_path / "longer", config, make_tensors(config)))
    (candidate,) = from_metadata(empty_registry, REPO).candidates
    assert (candidate.level, candidate.reshaped) == (2, ("model.embed_tokens.weight",))
    assert candidate.config_differences == (("vocab_size", 96, 97),)


@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_another_layer_is_another_structure(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path, change: str
) -> None:
    tensors = make_tensors(llama_config())
    name = "model.layers.1.mlp.up_proj.weight"
    weight = tensors.pop(name)
    if change == "reshaped":
        tensors[name] = tensor(weight.values[1:])
    hub.add(REPO, write_checkpoint(tmp_path / "other", llama_config(), tensors))
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level) == ("unknown", 0)
    assert getattr(found.candidates[0], change) == (name,)


def test_a_head_of_its_own_is_another_structure(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    config = llama_config(tie_word_embeddings=False)
    hub.add(REPO, write_checkpoint(tmp_path / "headed", config, make_tensors(config)))
    found = from_metadata(empty_registry, REPO)
    assert found.relation == "unknown"
    assert found.candidates[0].unexpected == ("lm_head.weight",)


def _known_by_commit(registry: Any, folder: Path, commit: str, *, files: str | None) -> None:
    """Register what an older release registered from the Hub: without the files' alias."""
    from registry.artifact.tensors import write_payloads

    model = identify(folder, settings=Settings.load())
    aliases = [("hub", f"{REPO}@{commit}"), *([("sha256-set", files)] if files else [])]
    payload = write_payloads(model.record.to_tensors())
    registry.add_base("mine", model.record, payload, aliases=aliases)


def test_a_commit_that_a_base_was_registered_from_is_that_base(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "base", llama_config())
    _known_by_commit(empty_registry, folder, hub.add(REPO, folder), files=None)
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.evidence) == (
        "identical", "the base was registered from this commit",
    )  # fmt: skip
    assert hub.weight_bytes == 0


def test_a_commit_is_no_evidence_against_other_files(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "base", llama_config())
    commit = hub.add(REPO, folder)
    _known_by_commit(empty_registry, folder, commit, files="sha256:" + "0" * 64)
    assert from_metadata(empty_registry, REPO).relation == "same-shapes"


def test_a_base_that_is_only_called_like_the_files_is_not_taken(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    other = save_sharded(
        tmp_path / "other", llama_config(), make_tensors(llama_config(), seed=3), shards=SHARDS
    )
    hub.add(REPO, other)
    files = from_metadata(empty_registry, REPO).sha256_set
    stranger = write_checkpoint(
        tmp_path / "stranger", llama_config(), make_tensors(llama_config(), seed=4)
    )
    add_base(empty_registry, identify(stranger, settings=Settings.load()), files)
    assert from_metadata(empty_registry, REPO).relation == "same-shapes"


def test_a_head_that_is_stored_and_tied_is_no_other_structure(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    tensors = make_tensors(llama_config())
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    hub.add(REPO, write_checkpoint(tmp_path / "stored", llama_config(), tensors))
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.candidates[0].unexpected) == ("same-shapes", ())


def test_weights_of_which_the_hub_states_no_sha256_are_not_identical(
    empty_registry: Any, hub: Hub, base: Path
) -> None:
    commit = hub.add(REPO, base)
    files = hub.repos[REPO].commits[commit].files
    siblings = [{"rfilename": name, "size": len(blob.data)} for name, blob in files.items()]
    body = json.dumps({"id": REPO, "sha": commit, "siblings": siblings}).encode()
    hub.faults.append(Fault("/api/models", body=body))
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.sha256_set) == ("same-shapes", None)


def test_claims_are_listed_with_the_base_of_that_id_and_prove_nothing(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "base", llama_config())
    _known_by_commit(empty_registry, folder, hub.add(REPO, folder), files=None)
    config = qwen2_config() | {"_name_or_path": "org/liar"}
    liar = write_checkpoint(tmp_path / "liar", config)
    (liar / "README.md").write_text(
        f"---\nbase_model:\n- {REPO}\n- org/unheard\nbase_model_relation: finetune\n---\n"
    )
    hub.add("org/liar", liar)
    found = from_metadata(empty_registry, "org/liar")
    assert (found.relation, found.level) == ("unknown", 0)
    assert [(claim.base, claim.relation, base and base.name) for claim, base in found.claims] == [
        (REPO, "finetune", "mine"), ("org/unheard", "finetune", None),
    ]  # fmt: skip
    document = json.loads(json.dumps(found.to_dict()))
    assert document["base"] is None
    assert document["metadata"]["commit"] == found.commit
    assert document["claims"][0] == {
        "sources": ["README.md"], "base": REPO, "relation": "finetune", "revision": None,
        "registered_as": "mine",
    }  # fmt: skip


def test_a_claim_of_another_commit_is_not_the_registered_base(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "base", llama_config())
    _known_by_commit(empty_registry, folder, hub.add(REPO, folder), files=None)
    (tmp_path / "adapter").mkdir()
    adapter = {"base_model_name_or_path": REPO, "revision": "f" * 40}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(adapter))
    hub.add("org/adapter", tmp_path / "adapter")
    (claimed,) = from_metadata(empty_registry, "org/adapter").claims
    assert claimed[1] is None


def test_an_adapter_is_unknown_with_its_claim_and_none_of_it_is_read(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"0" * 100)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    hub.add(REPO, folder)
    found = from_metadata(empty_registry, REPO)
    assert (found.relation, found.level) == ("unknown", 0)
    assert found.evidence == "an adapter without a model; its weights were not read"
    assert [claim.base for claim, _ in found.claims] == ["org/base"]
    assert hub.weight_bytes == 0


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({"pytorch_model.bin": b"x"}, CheckpointNotFoundError, "found neither"),
        ({"sub/model.safetensors": b"x"}, CheckpointNotFoundError, "found neither"),
        (
            {"model.safetensors": b"x", "model.safetensors.index.json": b"{}"},
            UnsafeFormatError, "expected one checkpoint in org/copy, got 2",
        ),
        ({"a.safetensors": b"x", "b.safetensors": b"x"}, UnsafeFormatError, "got 2: a.safete"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"x": "m.safetensors"}}'},
            CheckpointNotFoundError, "no file for 1 of 1:\n  m.safetensors",
        ),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"x": "../m.safetensors"}}'},
            UnsafeFormatError, "expected the plain name of a .safetensors file",
        ),
        ({"model.safetensors": b"x"}, CheckpointNotFoundError, "expected config.json beside"),
        ({"model.safetensors": b"x", "config.json": b"[]"}, UnsafeFormatError, "a JSON object"),
        ({"model.safetensors": b"x", "config.json": b"{}"}, UnsafeFormatError, "got 1 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_here_is_none_there(
    empty_registry: Any, hub: Hub, tmp_path: Path, files: dict[str, bytes], error: Any, says: str
) -> None:
    for name, data in files.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(data)
    hub.add(REPO, tmp_path / "repo")
    with pytest.raises(error) as caught:
        from_metadata(empty_registry, REPO)
    assert says in caught.value.message


def test_an_index_that_contradicts_the_headers_is_refused(
    empty_registry: Any, hub: Hub, tmp_path: Path
) -> None:
    folder = save_sharded(tmp_path / "sharded", llama_config(), shards=SHARDS)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("00001-of", "00002-of", 1))
    hub.add(REPO, folder)
    with pytest.raises(UnsafeFormatError, match="expected files that agree, got 1 contradictions"):
        from_metadata(empty_registry, REPO)


def test_a_family_without_a_row_is_refused(empty_registry: Any, hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, write_checkpoint(tmp_path / "other", llama_config() | {"model_type": "rwkv"}))
    with pytest.raises(UnsupportedArchitectureError, match="got model_type 'rwkv'"):
        from_metadata(empty_registry, REPO)


def test_a_hub_that_is_down_is_said(empty_registry: Any, hub: Hub, base: Path) -> None:
    hub.add(REPO, base)
    hub.faults.append(Fault("/api/models", 503))
    with pytest.raises(HubError, match="503 Service Unavailable"):
        from_metadata(empty_registry, REPO)


def test_gated_weights_are_said_to_be_gated(
    empty_registry: Any, hub: Hub, base: Path, tmp_path: Path
) -> None:
    hub.add(REPO, base)
    hub.faults.append(Fault("/resolve/", 403, "GatedRepo"))
    with pytest.raises(HubError, match="Ask for access on the page of org/copy, then log in"):
        from_metadata(empty_registry, REPO)
