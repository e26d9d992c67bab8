"""Hostile checkpoints: each is refused whole, by one error of ours, without reading what is endless.

docs/hostile-inputs.md is the list; the rules of a header alone are in tests/unit/test_tensorfile.py.
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from support.refusals import refusal
from support.tiny_models import (
    Tensor,
    llama_config,
    make_tensors,
    save_sharded,
    tensor,
    write_checkpoint,
    write_file,
)

from registry.checkpoint.fingerprint import fingerprint
from registry.checkpoint.lineage import judge
from registry.checkpoint.reader import PIECE, Checkpoint
from registry.checkpoint.sketch import positions
from registry.digest import digest_bytes
from registry.errors import CheckpointNotFoundError, HostError, UnsafeFormatError
from registry.tensorfile import HEADER_LIMIT

CONFIG = llama_config()
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
NORM = "model.norm.weight"
DOCUMENTS = ("config.json", "tokenizer.json", "tokenizer_config.json", INDEX)
TERABYTE = 1 << 40


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "model", CONFIG)


@pytest.fixture
def sharded(tmp_path):
    return save_sharded(tmp_path / "sharded", CONFIG)


def read(path):
    with Checkpoint.open(path) as checkpoint:
        return fingerprint(checkpoint)


def refused(path, *said, kind=UnsafeFormatError):
    return refusal(kind, lambda: read(path), *said)


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="U8", shape=(0,), begin=0, end=0):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


# Sizes


@pytest.mark.timeout(20)
@pytest.mark.parametrize("length", [90_000_000, HEADER_LIMIT + 1, 1 << 63, (1 << 64) - 1])
def test_header_of_90_megabytes_and_more(folder, length):
    (folder / ONE).write_bytes(struct.pack("<Q", length) + b"{")
    os.truncate(folder / ONE, TERABYTE)
    refused(folder, f"expected a header of at most 16,777,216 bytes, got {length:,}")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [*DOCUMENTS, "chat_template.jinja", "tokenizer.model"])
def test_document_of_a_terabyte(sharded, name):
    (sharded / name).touch()
    os.truncate(sharded / name, TERABYTE)
    refused(sharded, f"{name}: expected at most ", "bytes, got 1,099,511,627,776")


@pytest.mark.timeout(20)
def test_header_of_200000_broken_tensors(folder):
    broken = b",".join(b'"%d":0' % index for index in range(200_000))
    (folder / ONE).write_bytes(file_of(b"{" + broken + b"}"))
    refused(folder, "'0': expected exactly dtype, shape and data_offsets", "and 980 more")


# Truncated


def test_header_cut_off(folder):
    data = (folder / ONE).read_bytes()
    (folder / ONE).write_bytes(data[:100])
    refused(folder, "expected a header of ", "bytes, the file has 100")


@pytest.mark.parametrize("change", [-1, 1, -1000, 1000])
def test_data_cut_off_or_too_long(folder, change):
    size = (folder / ONE).stat().st_size + change
    os.truncate(folder / ONE, size)
    refused(folder, "tensors end at byte", "of the data, the file has")


def test_several_broken_shards_are_told_together(sharded):
    (sharded / "model-00001-of-00003.safetensors").write_bytes(b"")
    (sharded / SHARD).write_bytes(file_of(b"[]"))
    refused(
        sharded,
        "2 of 3",
        "model-00001-of-00003.safetensors: expected a safetensors file, got 0 bytes",
        f"{SHARD}: expected a JSON object as header",
    )


# JSON


def with_members(name, members, *, folder):
    """Write ``members`` (JSON text) into the document ``name``, what it needs kept."""
    needed = {
        "config.json": CONFIG,
        "tokenizer.json": {"version": "1.0"},
        INDEX: {"weight_map": {}},
    }
    if name == "header":
        (folder / SHARD).write_bytes(file_of(b'{"__metadata__":{' + members + b"}}"))
    else:
        text = json.dumps(needed.get(name, {"bos": "x"})).encode()
        (folder / name).write_bytes(text[:-1] + b"," + members + b"}")


@pytest.mark.parametrize("name", [*DOCUMENTS, "header"])
def test_member_named_twice(sharded, name):
    with_members(name, b'"a":"1","b":"1","a":"2","\\u0062":"2"', folder=sharded)
    refused(sharded, "member 'a', 'b' appears twice")


@pytest.mark.parametrize("name", [*DOCUMENTS, "header"])
@pytest.mark.parametrize("depth", [65, 900, 200_000])
def test_nesting_deeper_than_64(sharded, name, depth):
    with_members(name, b'"a":' + b"[" * depth + b"]" * depth, folder=sharded)
    refused(sharded, "nested deeper than 64")


@pytest.mark.parametrize("name", [*DOCUMENTS, "header"])
@pytest.mark.parametrize("text", [b'"a":"\\ud800"', b'"\\udfff":"a"', b'"a":"\\ude00\\ud83d"'])
def test_half_a_surrogate_pair(sharded, name, text):
    with_members(name, text, folder=sharded)
    refused(sharded, "half a surrogate pair")


@pytest.mark.parametrize("name", [*DOCUMENTS, "header"])
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (b"9" * 400, "a number of at most 300 digits, got 400"),
        (b"9" * 5000, "a number of at most 300 digits, got 5,000"),
        (b"1e400", "1e400 is beyond a double"),
        (b"-0", "-0 is an integer to one reader and a float to another"),
        (b"NaN", "NaN is not a JSON number"),
        (b"-Infinity", "-Infinity is not a JSON number"),
    ],
)
def test_number_that_readers_understand_differently(sharded, name, number, said):
    with_members(name, b'"a":' + number, folder=sharded)
    refused(sharded, said)


def test_tokenizer_of_ordinary_numbers_and_pairs_is_read(folder):
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": int(1e30), "bos": "\U0001f600", "text": "\\ud800"})
    )
    assert read(folder).weights


def test_two_chat_templates_of_one_name(folder):
    named = [{"name": "default", "template": text} for text in ("refuse", "comply")]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    refused(folder, "expected 2 chat templates of different names, got 1")


# Files that are none


def plant(path, what, aside):
    if path.is_file():
        path.rename(aside)
    if what == "device without end":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link in a circle":
        path.symlink_to(path.name)
    elif what == "link to nothing":
        path.symlink_to(aside.with_name("nowhere"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [ONE, "config.json", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("what", ["device without end", "pipe", "folder", "link in a circle"])
def test_file_of_a_model_that_is_no_file(folder, tmp_path, name, what):
    plant(folder / name, what, tmp_path / "aside")
    refused(folder, f"{name}: expected a")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["device without end", "pipe", "folder", "link in a circle",
                                  "link to nothing"])  # fmt: skip
@pytest.mark.parametrize("name", [SHARD, INDEX])
def test_shard_or_index_that_is_no_file(sharded, tmp_path, name, what):
    plant(sharded / name, what, tmp_path / "aside")
    if name == INDEX:
        refused(sharded, f"{INDEX}: expected a file")
    else:
        refused(sharded, "no file for 1 of 3", SHARD, kind=CheckpointNotFoundError)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["device without end", "pipe", "link in a circle"])
def test_model_that_is_no_folder(tmp_path, what):
    plant(tmp_path / "model", what, tmp_path / "aside")
    refused(tmp_path / "model", "expected a checkpoint at", kind=CheckpointNotFoundError)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["device without end", "pipe", "folder", "link in a circle"])
def test_only_weights_of_another_name_that_are_no_file(folder, tmp_path, what):
    (folder / ONE).unlink()
    plant(folder / "weights.safetensors", what, tmp_path / "aside")
    refused(folder, "found neither", kind=CheckpointNotFoundError)


def test_link_to_a_file_elsewhere_is_a_file(folder, tmp_path):
    expected = read(folder).weights
    (folder / ONE).rename(tmp_path / "blob")
    (folder / ONE).symlink_to(tmp_path / "blob")
    assert read(folder).weights == expected  # as in the cache of the Hub's client


def test_index_that_names_many_files_it_may_not(sharded):
    names = {
        "a": "/dev/zero", "b": "../../etc/passwd", "c": "/etc/passwd", "d": "a\0.safetensors",
        "e": "sub\\x.safetensors", "f": "\x1b[31m.safetensors", "g": 7, "h": "x" * 300,
    }  # fmt: skip
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] |= names
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, "got 8 others", *(f"{name!r}: {file!r:.60}" for name, file in names.items()))


def test_index_that_names_many_missing_shards(sharded):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] |= {f"t{number}": f"more-{number}.safetensors" for number in range(3)}
    (sharded / INDEX).write_text(json.dumps(index))
    names = [f"more-{number}.safetensors" for number in range(3)]
    refused(sharded, "no file for 3 of 6", *names, kind=CheckpointNotFoundError)


@pytest.mark.parametrize(
    "name",
    ["a\0b", "x" * 300, "/".join("y" * 200 for _ in range(40)), "~nobody-of-this-name/x"],
    ids=["NUL", "long name", "long path", "home of nobody"],
)
def test_path_that_no_system_has(name):
    with pytest.raises((CheckpointNotFoundError, UnsafeFormatError)) as caught:
        Checkpoint.open(name)
    assert caught.value.hint
    assert str(caught.value).replace("\n", "").isprintable()


def test_folder_whose_name_is_no_text(folder, tmp_path):
    expected = read(folder)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.rename(odd)
    assert read(odd) == expected
    (odd / "config.json").unlink()
    refused(odd, "config.json", "\\udcff\\udcfe", kind=CheckpointNotFoundError)


@pytest.mark.parametrize("name", [ONE, "config.json", "tokenizer.json"])
def test_file_that_may_not_be_read(folder, monkeypatch, name):
    (folder / "tokenizer.json").write_text("{}")
    real = os.open

    def guarded(path, *arguments, **options):
        if os.fspath(path).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", guarded)
    refused(folder, f"{name}: expected a readable file, got: Permission denied", kind=HostError)


# Files that change while they are read


@pytest.fixture
def large(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 3 * PIECE, dtype=np.uint8).tobytes()
    tensors = make_tensors(CONFIG) | {"z.large": Tensor("I8", (3 * PIECE,), data)}
    return write_checkpoint(tmp_path / "large", CONFIG, tensors)


@pytest.mark.parametrize("cut", [PIECE + 5, PIECE, 0])
def test_file_that_becomes_shorter_while_it_is_read(large, cut):
    with Checkpoint.open(large) as checkpoint:
        pieces = checkpoint.pieces("z.large")
        next(pieces)
        kept = checkpoint.tensors["z.large"].offset + PIECE + cut
        os.truncate(large / ONE, kept)
        refusal(UnsafeFormatError, lambda: list(pieces), f"when it was opened, got {kept:,}")


def test_file_that_becomes_longer_after_it_was_opened(large):
    with Checkpoint.open(large) as checkpoint, (large / ONE).open("ab") as file:
        size = (large / ONE).stat().st_size
        file.write(b"more")
        file.flush()
        said = f"expected {size:,} bytes as when it was opened, got {size + 4:,}"
        refusal(UnsafeFormatError, lambda: checkpoint.read("z.large"), said)


def test_disk_that_gives_an_error_while_it_is_read(large, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    with Checkpoint.open(large) as checkpoint:
        monkeypatch.setattr(os, "preadv", broken)
        refusal(HostError, lambda: checkpoint.read("z.large"), "got: Input/output error")


# Values


def test_tensors_of_no_dimension_and_of_no_element(tmp_path):
    odd = {
        "scale": tensor(np.array(2.5)), "none": tensor(np.zeros((0,))),
        "wide": tensor(np.zeros((5, 0, 7)), "BF16"), "ones": tensor(np.ones((1, 1, 1))),
    }  # fmt: skip
    record = read(write_checkpoint(tmp_path, CONFIG, make_tensors(CONFIG) | odd))
    entries = {item.name: item for item in record.entries}
    for name, item in odd.items():
        assert entries[name].shape == item.shape
        assert entries[name].digest == digest_bytes(item.data)
        assert record.samples[name] == item.data  # they are taken whole
    assert judge(record, record).relation == "identical"


@pytest.mark.parametrize("bits", ["7fc00000", "7fc00001", "ff800001", "7f800000", "ff800000"])
def test_weights_that_are_not_finite_are_digested_bit_by_bit(tmp_path, bits):
    def with_bits(pattern, name):
        item = make_tensors(CONFIG)[NORM]
        data = bytes.fromhex(pattern)[::-1] + item.data[4:]
        tensors = make_tensors(CONFIG) | {NORM: Tensor("F32", item.shape, data)}
        return read(write_checkpoint(tmp_path / name, CONFIG, tensors)), data

    record, data = with_bits(bits, "a")
    digests = {item.name: item.digest for item in record.entries}
    assert digests[NORM] == digest_bytes(data)
    assert record.samples[NORM] == data
    others = [with_bits(pattern, pattern)[0] for pattern in ("7fc00002", "00000000", "80000000")]
    assert len({record.weights, *(other.weights for other in others)}) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", NORM])
@pytest.mark.parametrize("side", ["base", "child"])
def test_weights_that_are_not_finite_never_make_a_distance(tmp_path, value, name, side):
    clean = make_tensors(CONFIG)
    values = clean[name].values.copy()
    values.ravel()[positions(name, values.shape)[0]] = value
    broken = read(write_checkpoint(tmp_path / "b", CONFIG, clean | {name: tensor(values)}))
    whole = read(write_checkpoint(tmp_path / "a", CONFIG, clean))
    lineage = judge(broken, whole) if side == "base" else judge(whole, broken)
    assert not any(map(math.isnan, (lineage.distance, lineage.vectors, *lineage.per_layer)))
    assert not lineage.is_descendant
    assert json.dumps(lineage.to_dict(), allow_nan=False)


# Two names for one tensor


def test_tensor_named_in_two_unicode_spellings(folder):
    both = {"caf\u00e9": tensor(np.ones(1)), "cafe\u0301": tensor(np.ones(1))}
    write_file(folder / ONE, make_tensors(CONFIG) | both)
    refused(folder, "'cafe\u0301': expected a printable name in Unicode NFC")


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\u202eb", "a\u200bb", "a\x00b", "a\nb", "a\x9bb"])
def test_tensor_name_that_would_steer_a_terminal(folder, name):
    write_file(folder / ONE, make_tensors(CONFIG) | {name: tensor(np.ones(1))})
    refused(folder, f"{name!r}: expected a printable name")


def test_tensors_whose_names_differ_in_case_are_two(tmp_path):
    both = {"A_log": tensor(np.ones(1)), "a_log": tensor(np.zeros(1))}
    record = read(write_checkpoint(tmp_path, CONFIG, make_tensors(CONFIG) | both))
    assert {"A_log", "a_log"} <= {item.name for item in record.entries}
