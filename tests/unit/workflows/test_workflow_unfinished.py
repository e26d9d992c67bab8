"""Measurements of a run that was interrupted are found again by the same run, and by no other."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from registry.digest import digest_json
from registry.errors import DigestMismatchError, HostError, UnsafeFormatError, UsageError
from registry.workflows import unfinished
from registry.workflows.unfinished import Unfinished, Unkept

RUN = {"kind": "safety-layers", "base": "blake3:00", "seed": 0, "options": {"limit": 4}}


def test_what_was_kept_is_there_in_the_next_run(tmp_path):
    first = Unfinished(tmp_path / "out", RUN)
    assert (first.taken_up, first.recall("a")) == (0, None)
    first.keep("a", [1, 0])
    first.keep("b", {"x": 0.5})
    again = Unfinished(tmp_path / "out", RUN)
    assert again.taken_up == 2
    assert (again.recall("a"), again.recall("b"), again.recall("c")) == ([1, 0], {"x": 0.5}, None)


def test_a_run_that_keeps_nothing_leaves_no_file(tmp_path):
    Unfinished(tmp_path / "out", RUN).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_takes_its_notes_away(tmp_path):
    notes = Unfinished(tmp_path / "out", RUN)
    notes.keep("a", 1)
    assert notes.path == tmp_path / "out.unfinished"
    notes.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed: expected 1, got 0"),
        ({"base": "blake3:11"}, "base: expected 'blake3:11', got 'blake3:00'"),
        ({"options": {"limit": 8}}, "options: expected {'limit': 8}, got {'limit': 4}"),
    ],
)
def test_notes_of_another_run_are_refused_and_left_there(tmp_path, change, said):
    Unfinished(tmp_path / "out", RUN).keep("a", 1)
    before = (tmp_path / "out.unfinished").read_bytes()
    with pytest.raises(UsageError) as refused:
        Unfinished(tmp_path / "out", RUN | change)
    assert said in refused.value.message
    assert "Remove it to begin anew" in (refused.value.hint or "")
    assert (tmp_path / "out.unfinished").read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema":"safelatch/unfinished/v1","run":{}}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    (tmp_path / "out.unfinished").write_text(text, "utf-8")
    with pytest.raises(UsageError, match="expected the notes of an unfinished run"):
        Unfinished(tmp_path / "out", RUN)


def test_a_torn_file_is_refused(tmp_path):
    Unfinished(tmp_path / "out", RUN).keep("a", 1)
    path = tmp_path / "out.unfinished"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnsafeFormatError):
        Unfinished(tmp_path / "out", RUN)


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "closed").write_text("a file", "utf-8")
    with pytest.raises(HostError, match="expected to write down what was measured"):
        Unfinished(tmp_path / "closed" / "out", RUN).keep("a", 1)


def test_the_file_is_json_that_names_its_run(tmp_path):
    notes = Unfinished(tmp_path / "out", RUN)
    notes.keep("a", 1)
    document = json.loads(notes.path.read_text("utf-8"))
    digest = document.pop("digest")
    assert document == {"schema": "safelatch/unfinished/v1", "run": RUN, "notes": {"a": 1}}
    assert digest == digest_json({"a": 1})


def test_notes_that_were_edited_are_refused(tmp_path):
    notes = Unfinished(tmp_path / "out", RUN)
    notes.keep("a", "0110")
    edited = notes.path.read_text("utf-8").replace("0110", "1111")
    notes.path.write_text(edited, "utf-8")
    with pytest.raises(DigestMismatchError, match="somebody edited them"):
        Unfinished(tmp_path / "out", RUN)


ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 4), np.float32)}


def arrays_of(kept):
    return {name: (array.dtype.str, array.tolist()) for name, array in kept.items()}


def test_arrays_are_there_in_the_next_run_and_new_ones_take_their_place(tmp_path):
    notes = Unfinished(tmp_path / "out", RUN)
    assert notes.recall_tensors("sums") is None
    notes.keep_tensors("sums", {"pairs": 1}, {name: array + 1 for name, array in ARRAYS.items()})
    notes.keep("a", 1)
    notes.keep_tensors("sums", {"pairs": 2}, ARRAYS)
    assert len(list(tmp_path.iterdir())) == 2  # the notes, and one file of arrays
    again = Unfinished(tmp_path / "out", RUN)
    value, arrays = again.recall_tensors("sums")
    assert value == {"pairs": 2}
    assert arrays_of(arrays) == arrays_of(ARRAYS)
    again.finish()
    assert list(tmp_path.iterdir()) == []


def test_no_arrays_at_all_are_kept_too(tmp_path):
    Unfinished(tmp_path / "out", RUN).keep_tensors("sums", 1, {})
    assert Unfinished(tmp_path / "out", RUN).recall_tensors("sums") == (1, {})


def test_a_file_of_arrays_that_a_killed_run_left_goes_away_and_no_other_file_does(tmp_path):
    others = [tmp_path / "out.unfinished-mine", tmp_path / f"other.unfinished-{'0' * 16}"]
    for path in (tmp_path / f"out.unfinished-{'0' * 16}", *others):
        path.write_bytes(b"left")
    notes = Unfinished(tmp_path / "out", RUN)
    notes.keep_tensors("sums", 1, ARRAYS)
    assert not (tmp_path / f"out.unfinished-{'0' * 16}").exists()
    notes.finish()
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("change", ["edited", "cut", "gone"])
def test_arrays_that_are_not_those_that_were_kept_are_refused(tmp_path, change):
    Unfinished(tmp_path / "out", RUN).keep_tensors("sums", 1, ARRAYS)
    (path,) = tmp_path.glob("out.unfinished-*")
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if change == "cut" else b"\1" + data[1:])
    with pytest.raises(DigestMismatchError, match="expected measurements of blake3:") as refused:
        Unfinished(tmp_path / "out", RUN).recall_tensors("sums")
    assert refused.value.hint.startswith("Remove it to begin anew")


def test_arrays_for_which_there_is_no_room_are_refused_and_those_before_are_there(
    tmp_path, monkeypatch
):
    notes = Unfinished(tmp_path / "out", RUN)
    notes.keep_tensors("sums", 1, ARRAYS)
    monkeypatch.setattr(unfinished.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(HostError) as refused:
        notes.keep_tensors("sums", 2, ARRAYS)
    assert refused.value.message == (
        f"{tmp_path}: expected room for 24 bytes of measurements and 67,108,864 to spare, got "
        "1,000,000."
    )
    value, arrays = Unfinished(tmp_path / "out", RUN).recall_tensors("sums")
    assert (value, arrays_of(arrays)) == (1, arrays_of(ARRAYS))


def test_arrays_at_a_place_that_cannot_be_written_to_are_told(tmp_path):
    (tmp_path / "closed").write_text("a file", "utf-8")
    with pytest.raises(HostError, match="expected to write down what was measured"):
        Unfinished(tmp_path / "closed" / "out", RUN).keep_tensors("sums", 1, ARRAYS)


def test_unkept_notes_remember_nothing():
    notes = Unkept()
    notes.keep("a", 1)
    notes.keep_tensors("a", 1, ARRAYS)
    assert notes.recall_tensors("a") is None
    assert notes.recall("a") is None
