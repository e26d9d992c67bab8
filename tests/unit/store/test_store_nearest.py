from __future__ import annotations

from registry.store._nearest import did_you_mean, nearest


def test_closest_name_is_first_and_at_most_three_are_named() -> None:
    found = nearest("lock", ["locks", "lock-a", "lock-b", "lock-c", "zebra"])
    assert found[0] == "locks"
    assert len(found) == 3


def test_question_is_empty_when_nothing_resembles() -> None:
    assert not did_you_mean("lock", ["zebra"])
    assert not did_you_mean("lock", [])


def test_question_names_every_candidate() -> None:
    assert did_you_mean("lokc", ["lock"]) == " Did you mean lock?"


def test_among_10_000_names_the_near_one_is_found_whatever_its_place() -> None:
    known = [f"organisation/model-{number}" for number in range(10_000)]
    assert nearest("organisation/modle-4711", known)[0] == "organisation/model-4711"
    assert nearest("tiny-lama", [*known, "tiny-llama"]) == ["tiny-llama"]
    assert nearest("", known) == []
