"""Policies: another file is another digest or an error of ours, and rules only ever add up."""

from __future__ import annotations

import copy
import json
from collections import Counter
from datetime import datetime, timezone
from functools import cache
from typing import get_args

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from registry.artifact._policy_rules import Code
from registry.artifact.policy import Artifact, Load, parse_policy
from registry.digest import canonical_json, digest_json
from registry.errors import PolicyError, SafelatchError

KEYS = ["ed25519:" + digit * 64 for digit in "abc"]
WEIGHTS = ["blake3:" + digit * 64 for digit in "123"]
KINDS = ["safety-lock", "esi-mask", "safety-layers"]
BASES = ["*", "acme/*", "acme/base", "other/*", "plain", *WEIGHTS]
MODELS = ["acme/*", "acme/tune", "/srv/tune", *WEIGHTS]
VERSIONS = ["0", "1.0", "1.2rc1", "1.10", "2!1.0"]
STAMPS = ["2020-01-01T00:00:00Z", "2026-11-21T12:00:00Z", "2030-01-01T00:00:00Z"]
VALID = {
    "schema": "safelatch/policy/v1",
    "mode": "enforce",
    "rules": [
        {
            "bases": ["acme/*", WEIGHTS[0]],
            "require": [{"kind": "safety-lock", "min_version": "1.0"}],
            "signers": [KEYS[0]],
            "min_evidence": 3,
            "max_distance": 0.25,
            "alpha": {"min": 0.5, "max": 3},
            "comment": "ours",
        },
        {"bases": ["*"], "min_evidence": 2},
    ],
    "exceptions": [
        {
            "models": ["acme/tune"],
            "waive": ["alpha"],
            "owner": "Ada",
            "reason": "a trial",
            "expires": STAMPS[1],
        }
    ],
}

subsets = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)
bounds = st.sampled_from([0.1, 0.25, 1, 2.5])
members = st.fixed_dictionaries(
    {"bases": st.lists(st.sampled_from(BASES), min_size=1, max_size=3)},
    optional={
        "require": st.lists(
            st.fixed_dictionaries(
                {"kind": st.sampled_from(KINDS), "min_version": st.sampled_from(VERSIONS)}
            ),
            min_size=1,
            max_size=2,
        ),
        "signers": subsets,
        "max_distance": st.sampled_from([0, 0.1, 0.5]),
        # one end alone: two rules can then leave no strength only where one has a min
        "alpha": st.fixed_dictionaries({"max": bounds}),
    },
)
rules = st.builds(lambda asked, level: {**asked, "min_evidence": level}, members, st.integers(1, 4))
exceptions = st.fixed_dictionaries(
    {
        "models": st.lists(st.sampled_from(MODELS), min_size=1, max_size=2),
        "waive": st.just(["all"])
        | st.lists(st.sampled_from(get_args(Code)), min_size=1, max_size=7),
        "owner": st.sampled_from(["Ada", "Bob"]),
        "reason": st.just("a trial"),
        "expires": st.sampled_from(STAMPS),
    }
)
documents = st.fixed_dictionaries(
    {
        "schema": st.just("safelatch/policy/v1"),
        "rules": st.lists(rules, min_size=1, max_size=3),
        "exceptions": st.lists(exceptions, max_size=3),
    }
)
numbers = st.none() | st.sampled_from([0.1, 0.25, 1.0, 2.5, 3.0]) | st.floats()
artifacts = st.builds(
    Artifact,
    label=st.sampled_from(["a", "b"]) | st.text(),
    kind=st.sampled_from(KINDS) | st.text(),
    version=st.none() | st.sampled_from([*VERSIONS, "1" * 5000]) | st.text(),
    signers=st.lists(st.sampled_from(KEYS) | st.text(), max_size=3).map(tuple),
    alpha=numbers,
    evidence_level=st.integers(-1, 5),
    distance=numbers,
)
loads = st.builds(
    Load,
    base_names=st.lists(st.sampled_from(BASES) | st.text(), max_size=3).map(tuple),
    model_names=st.lists(
        st.sampled_from(["acme/tune", "/srv/tune", *WEIGHTS]) | st.text(), max_size=3
    ).map(tuple),
    artifacts=st.lists(artifacts, max_size=3).map(tuple),
)
moments = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)  # noqa: DTZ001
)  # fmt: skip


def judged(document, load, now):
    return parse_policy(canonical_json(document)).judge(load, now)


def codes(verdict):
    return Counter(each.code for each in verdict.violations)


@cache
def places():
    """Return the path of every value of the valid policy, and of a new member in each object."""

    def walk(value, path):
        yield path
        if isinstance(value, dict):
            yield (*path, "other")
            for name, item in value.items():
                yield from walk(item, (*path, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from walk(item, (*path, index))

    return [path for path in walk(VALID, ()) if path]


DROP = object()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
near_values = st.sampled_from(
    [DROP, "*", "acme/*", "acme/**", "1.0", "v1", "1.0\n", "all", "signer", "warn", "blake3:1", 0, 1,
     0.5, 3.0, -0.0, 1e308, 2**53, "\u202e", [], {}, ["all"], ["all", "signer"], *STAMPS,
     "2027-02-29T00:00:00Z", *KEYS, *WEIGHTS]
)  # fmt: skip


@settings(max_examples=400)
@given(path=st.sampled_from(places()), value=near_values | json_values)
@example(path=("exceptions", 0, "expires"), value=STAMPS[2])
def test_a_policy_with_one_member_changed_has_another_digest_or_is_refused(path, value):
    document = copy.deepcopy(VALID)
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is not DROP:
        place[path[-1]] = value
    elif path[-1] != "other":
        del place[path[-1]]
    same = digest_json(VALID)
    try:
        policy = parse_policy(json.dumps(document).encode())
    except SafelatchError:
        return
    assert (policy.digest == same) == (canonical_json(document) == canonical_json(VALID))


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_with_an_error_of_ours(data):
    try:
        parse_policy(data)
    except SafelatchError:
        return
    raise AssertionError(data)


@settings(max_examples=200)
@given(documents, loads, moments)
def test_a_load_is_judged_whatever_it_is(document, load, now):
    verdict = judged(document, load, now)
    assert all(each.message.isprintable() for each in verdict.violations)
    if not verdict.violations:
        verdict.require()
        return
    with pytest.raises(PolicyError) as caught:
        verdict.require()
    assert caught.value.message.count("\n") == len(verdict.violations)


@settings(max_examples=200)
@given(documents, rules, st.integers(0, 3), loads, moments)
def test_adding_a_rule_never_removes_a_violation(document, rule, at, load, now):
    before = judged(document, load, now)
    more = {**document, "rules": [*document["rules"], rule]}
    assert set(before.violations) <= set(judged(more, load, now).violations)
    more["rules"] = [*document["rules"]]
    more["rules"].insert(at, rule)  # the numbers that messages name move on
    assert codes(before) <= codes(judged(more, load, now))


@settings(max_examples=200)
@given(documents, exceptions, st.integers(0, 3), loads, moments)
def test_adding_an_exception_never_adds_a_violation_and_loses_none(
    document, exception, at, load, now
):
    before = judged(document, load, now)
    more = copy.deepcopy(document)
    more["exceptions"].insert(at, exception)
    after = judged(more, load, now)
    assert codes(after) <= codes(before)
    assert len(after.violations) + len(after.waived) == len(before.violations) + len(before.waived)


@settings(max_examples=200)
@given(documents, loads, moments)
def test_an_expired_exception_is_as_none(document, load, now):
    assume(document["exceptions"])
    for exception in document["exceptions"]:
        exception["expires"] = "1999-01-01T00:00:00Z"
    verdict = judged(document, load, now)
    assert verdict.waived == ()
    assert codes(verdict) == codes(judged({**document, "exceptions": []}, load, now))
