"""A row in the table is a promise: every verb's functions are there, with these parameters."""

from __future__ import annotations

from inspect import getmembers, isfunction, signature
from typing import get_args

import pytest

from registry.errors import UnsupportedSchemaVersionError, UsageError
from registry.kinds import KINDS, Verb, kind_of, parse_body
from registry.kinds.contract import (
    CONTRACT,
    PatchesVerb,
    PresentVerb,
    TrainingConfigVerb,
)
from registry.kinds.foreign import Bindable, ForeignVerb


def test_the_contract_speaks_of_the_six_verbs():
    assert set(CONTRACT) == set(get_args(Verb))


@pytest.mark.parametrize("verb", sorted(CONTRACT))
@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_offers_every_function_of_a_verb(name, verb):
    module = KINDS[name].verb(verb)
    promised = {
        function: parameters
        for function, method in getmembers(CONTRACT[verb], isfunction)
        if not function.startswith("_")
        and (parameters := [p for p in signature(method).parameters if p != "self"])
    }
    assert promised
    for function, parameters in promised.items():
        offered = getattr(module, function, None)
        assert offered is not None, f"{module.__name__} has no {function}"
        assert list(signature(offered).parameters) == parameters


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_that_imports_files_offers_how_and_no_other_does(name):
    kind, promised = KINDS[name], ("read_foreign", "parse_foreign", "FOREIGN_FORMAT")
    module = kind.verb("extract")
    assert {hasattr(module, each) for each in promised} == {bool(kind.imports)}
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in kind.imports)
    for function in promised[:2] if kind.imports else ():
        wanted = [p for p in signature(getattr(ForeignVerb, function)).parameters if p != "self"]
        assert list(signature(getattr(module, function)).parameters) == wanted


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_a_kind_says_was_published_is_there_and_can_be_bound(name):
    published = getattr(KINDS[name].verb("extract"), "PUBLISHED", {})
    assert list(published) == list(KINDS[name].published)
    for each, found in published.items():
        assert each == each.lower()
        for method in ("describe", "bind"):
            wanted = list(signature(getattr(Bindable, method)).parameters)
            assert ["self", *signature(getattr(found, method)).parameters] == wanted


def test_no_two_kinds_published_under_one_name():
    names = [name for kind in KINDS.values() for name in kind.published]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_with_training_configs_takes_what_the_contract_says(name):
    offered = getattr(KINDS[name].verb("guard"), "training_config", None)
    wanted = [p for p in signature(TrainingConfigVerb.training_config).parameters if p != "self"]
    assert offered is None or list(signature(offered).parameters) == wanted


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_that_presents_its_artifacts_takes_what_the_contract_says(name):
    offered = getattr(KINDS[name].verb("body"), "present", None)
    wanted = [p for p in signature(PresentVerb.present).parameters if p != "self"]
    assert offered is None or list(signature(offered).parameters) == wanted


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_that_is_projected_takes_what_the_contract_says(name):
    module, promised = KINDS[name].verb("inspect"), ("patches", "inspect_beside")
    assert len({hasattr(module, function) for function in promised}) == 1
    for function in promised if hasattr(module, "patches") else ():
        wanted = [p for p in signature(getattr(PatchesVerb, function)).parameters if p != "self"]
        assert list(signature(getattr(module, function)).parameters) == wanted


def test_an_unknown_kind_that_was_typed_is_a_usage_error():
    with pytest.raises(UsageError, match="safety-lock"):
        kind_of("safety-locks")


def test_a_bundle_of_a_kind_of_a_later_release_is_called_unsupported():
    class Later:
        class manifest:  # noqa: N801
            kind = "esi-dream"

    with pytest.raises(
        UnsupportedSchemaVersionError, match=r"expected a kind out of .*, got 'esi-dream'"
    ):
        parse_body(Later)
