"""The policy file: what it refuses when it is read, and what it says of a load."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import pytest

from registry.artifact._policy_rules import Code
from registry.artifact.policy import (
    POLICY_LIMIT,
    REPAIR,
    Artifact,
    Load,
    Rule,
    Verdict,
    Violation,
    parse_policy,
    read_policy,
)
from registry.digest import canonical_json, digest_json
from registry.errors import (
    NotFoundError,
    PolicyError,
    SchemaViolationError,
    UnsafeFormatError,
    UnsupportedSchemaVersionError,
)

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "policy.md"
NOW = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
KEY, OTHER_KEY = "ed25519:" + "a" * 64, "ed25519:" + "b" * 64
NAMESPACE = "{}: expected a namespace such as acme/*, acme/base-7b, a digest or '*', got {!r}"
WEIGHTS, TUNE = "blake3:" + "1" * 64, "blake3:" + "2" * 64
LOCK = Artifact("lock@1.2", "safety-lock", "1.2", (KEY,), 2.0, 3, 0.01)
LOAD = Load((WEIGHTS, "acme/base"), (TUNE, "acme/tune"), (LOCK,))
BARE = replace(LOAD, artifacts=())
EXCEPTION = {
    "models": [TUNE],
    "waive": ["all"],
    "owner": "Ada",
    "reason": "a trial",
    "expires": "2027-01-01T00:00:00Z",
}


def document(*rules, exceptions=(), **more):
    return {
        "schema": "safelatch/policy/v1",
        "rules": list(rules),
        "exceptions": list(exceptions),
        **more,
    }


def rule(**asked):
    return {"bases": ["acme/*"], **asked}


def policy(*rules, **more):
    return parse_policy(json.dumps(document(*rules, **more)).encode())


def with_lock(**changes):
    return replace(LOAD, artifacts=(replace(LOCK, **changes),))


def judged(load, *rules, now=NOW, **more):
    return policy(*rules, **more).judge(load, now)


def said(verdict):
    return [(each.code, each.message) for each in verdict.violations]


def findings(*rules, **more):
    with pytest.raises(SchemaViolationError) as caught:
        policy(*rules, **more)
    assert caught.value.hint == REPAIR
    return caught.value.violations


# What each code is about.

FULL = rule(
    require=[{"kind": "safety-lock", "min_version": "1.2"}],
    signers=[KEY],
    min_evidence=3,
    max_distance=0.2,
    alpha={"min": 0.5, "max": 3},
)


def test_a_load_that_meets_every_rule_has_no_violation():
    verdict = judged(LOAD, FULL, rule(min_evidence=1))
    assert verdict == Verdict((), ())
    verdict.require()


@pytest.mark.parametrize(
    ("asked", "load", "code", "fact"),
    [
        (
            {"require": [{"kind": "safety-lock", "min_version": "1.2"}]},
            with_lock(kind="esi-mask"),
            "required-kind",
            "expected an artifact of kind safety-lock, got esi-mask",
        ),
        (
            {"require": [{"kind": "safety-lock", "min_version": "1.10"}]},
            LOAD,
            "min-version",
            "expected safety-lock of version 1.10 or later, got lock@1.2 of version 1.2",
        ),
        (
            {"require": [{"kind": "safety-lock", "min_version": "1.2"}]},
            with_lock(version="1.2rc1"),
            "min-version",
            "expected safety-lock of version 1.2 or later, got lock@1.2 of version 1.2rc1",
        ),
        (
            {"require": [{"kind": "safety-lock", "min_version": "0"}]},
            with_lock(label="(draft)", version=None),
            "min-version",
            "expected safety-lock of version 0 or later, got (draft) of no version",
        ),
        (
            {"require": [{"kind": "safety-lock", "min_version": "0"}]},
            with_lock(version="newest"),
            "min-version",
            "expected safety-lock of version 0 or later, got lock@1.2 of version newest",
        ),
        (
            {"signers": [OTHER_KEY]},
            LOAD,
            "signer",
            f"expected lock@1.2 signed by {OTHER_KEY}, got {KEY}",
        ),
        (
            {"signers": [KEY, OTHER_KEY]},
            with_lock(signers=()),
            "signer",
            f"expected lock@1.2 signed by {KEY} or {OTHER_KEY}, got no verified signature",
        ),
        (
            {"min_evidence": 3},
            with_lock(evidence_level=2),
            "evidence",
            "expected evidence level 3 or more for lock@1.2, got 2",
        ),
        (
            {"max_distance": 0.1},
            with_lock(distance=0.1000001),
            "distance",
            "expected a distance of at most 0.1 for lock@1.2, got 0.1000001",
        ),
        (
            {"max_distance": 0.1},
            with_lock(distance=None),
            "distance",
            "expected a distance of at most 0.1 for lock@1.2, got none that was measured",
        ),
        (
            {"max_distance": 0.1},
            with_lock(distance=math.nan),
            "distance",
            "expected a distance of at most 0.1 for lock@1.2, got nan",
        ),
        (
            {"max_distance": 0.1},
            with_lock(distance=-1.0),
            "distance",
            "expected a distance of at most 0.1 for lock@1.2, got -1",
        ),
        (
            {"alpha": {"min": 0.5, "max": 3}},
            with_lock(alpha=3.5),
            "alpha",
            "expected alpha at least 0.5 and at most 3 for lock@1.2, got 3.5",
        ),
        (
            {"alpha": {"min": 0.5}},
            with_lock(alpha=0.4),
            "alpha",
            "expected alpha at least 0.5 for lock@1.2, got 0.4",
        ),
        (
            {"alpha": {"max": 3}},
            with_lock(alpha=math.nan),
            "alpha",
            "expected alpha at most 3 for lock@1.2, got nan",
        ),
        (
            {"min_evidence": 1},
            BARE,
            "unprotected",
            "expected at least one verified artifact, got none",
        ),
    ],
)
def test_a_violation_says_the_rule_and_both_values(asked, load, code, fact):
    assert said(judged(load, rule(**asked))) == [(code, f"rule 1 (acme/*): {fact}")]


def test_every_code_of_the_schema_is_one_that_is_judged():
    schema = json.loads((ROOT / "schemas" / "policy.v1.schema.json").read_text("utf-8"))
    waive = schema["properties"]["exceptions"]["items"]["properties"]["waive"]
    assert waive["items"]["enum"] == [*get_args(Code), "all"]
    assert waive["maxItems"] == len(get_args(Code))


@pytest.mark.parametrize(
    ("asked", "load"),
    [
        ({"alpha": {"min": 0.5, "max": 3}}, with_lock(alpha=0.5)),
        ({"alpha": {"min": 0.5, "max": 3}}, with_lock(alpha=3.0)),
        ({"alpha": {"min": 0.5, "max": 3}}, with_lock(alpha=None)),
        ({"max_distance": 0.1}, with_lock(distance=0.1)),
        ({"min_evidence": 3}, with_lock(evidence_level=4)),
        ({"signers": [OTHER_KEY, KEY]}, with_lock(signers=(KEY, "ed25519:" + "c" * 64))),
        ({"require": [{"kind": "safety-lock", "min_version": "1.2"}]}, with_lock(version="1.10")),
        ({"require": [{"kind": "safety-lock", "min_version": "1.2"}]}, with_lock(version="1.2.0")),
    ],
)
def test_bounds_include_their_ends_and_versions_are_compared_as_numbers(asked, load):
    assert said(judged(load, rule(**asked))) == []


def test_a_load_without_an_artifact_is_unprotected_and_lacks_each_kind():
    asked = [{"kind": "safety-lock", "min_version": "1"}, {"kind": "esi-mask", "min_version": "1"}]
    assert said(judged(BARE, rule(require=asked))) == [
        ("unprotected", "rule 1 (acme/*): expected at least one verified artifact, got none"),
        ("required-kind", "rule 1 (acme/*): expected an artifact of kind safety-lock, got none"),
        ("required-kind", "rule 1 (acme/*): expected an artifact of kind esi-mask, got none"),
    ]


def test_a_good_artifact_does_not_excuse_one_beside_it():
    """An unsigned or outdated lock put on together with the required one is still applied."""
    beside = replace(LOCK, label="mine@1.0", version="1.0", signers=(), alpha=9.0, distance=0.4)
    verdict = judged(replace(LOAD, artifacts=(LOCK, beside)), FULL)
    assert [each.code for each in verdict.violations] == [
        "min-version",
        "signer",
        "distance",
        "alpha",
    ]
    assert all("mine@1.0" in each.message for each in verdict.violations)


def test_all_rules_about_the_base_hold_together_and_are_named_by_number():
    verdict = judged(
        with_lock(evidence_level=1),
        rule(min_evidence=2),
        {"bases": ["other/*"], "min_evidence": 4},
        {"bases": ["*", "a", "b", "c", "d"], "min_evidence": 3},
    )
    assert said(verdict) == [
        (
            "evidence",
            "rule 1 (acme/*): expected evidence level 2 or more for lock@1.2, got 1",
        ),
        (
            "evidence",
            "rule 3 (*, a, b, 2 more): expected evidence level 3 or more for lock@1.2, got 1",
        ),
    ]


@pytest.mark.parametrize(
    ("pattern", "is_judged"),
    [
        ("acme/*", True),
        ("acme/base", True),
        (WEIGHTS, True),
        ("*", True),
        ("acme", False),
        ("acm/*", False),
        ("acme/base2", False),
        ("Acme/*", False),
        (TUNE, False),
    ],
)
def test_a_rule_is_about_the_names_and_the_digest_of_the_base(pattern, is_judged):
    assert bool(judged(BARE, {"bases": [pattern], "min_evidence": 1}).violations) == is_judged


def test_a_base_that_no_rule_is_about_is_asked_for_nothing():
    assert judged(replace(BARE, base_names=("x/y",)), rule(min_evidence=4)) == Verdict((), ())


def test_an_unknown_base_is_under_the_rule_for_every_base():
    verdict = judged(replace(BARE, base_names=()), {"bases": ["*"], "min_evidence": 1})
    assert [each.code for each in verdict.violations] == ["unprotected"]


def test_a_label_cannot_add_a_line_to_the_message():
    label = "lock\n  signer: rule 9 (x): expected nothing"
    (violation,) = judged(with_lock(label=label, alpha=9.0), rule(alpha={"max": 1})).violations
    assert violation.message.isprintable()
    assert "lock\\n  signer" in violation.message


# Exceptions.


def test_an_exception_waives_and_hands_on_who_why_and_until_when():
    verdict = judged(BARE, rule(min_evidence=1), exceptions=[EXCEPTION])
    assert verdict.violations == ()
    verdict.require()
    (waived,) = verdict.waived
    fact = "rule 1 (acme/*): expected at least one verified artifact, got none"
    assert waived.violation == Violation("unprotected", fact)
    assert (waived.exemption.owner, waived.exemption.reason, waived.exemption.expires) == (
        "Ada",
        "a trial",
        "2027-01-01T00:00:00Z",
    )


def test_an_exception_waives_the_codes_it_names_alone():
    asked = rule(require=[{"kind": "safety-lock", "min_version": "1"}])
    verdict = judged(BARE, asked, exceptions=[dict(EXCEPTION, waive=["required-kind", "alpha"])])
    assert [each.code for each in verdict.violations] == ["unprotected"]
    assert [each.violation.code for each in verdict.waived] == ["required-kind"]


@pytest.mark.parametrize(
    ("model", "is_waived"),
    [
        (TUNE, True),
        ("acme/*", True),
        ("acme/tune", True),
        ("acme/base", False),
        (WEIGHTS, False),
        ("acme/tun", False),
        ("/srv/models/tune", False),
        ("/srv/models/my tune", True),
    ],
)
def test_an_exception_is_for_the_models_it_names_alone(model, is_waived):
    load = replace(BARE, model_names=(TUNE, "acme/tune", "/srv/models/my tune"))
    verdict = judged(load, rule(min_evidence=1), exceptions=[dict(EXCEPTION, models=[model])])
    assert (verdict.violations == ()) == is_waived
    assert bool(verdict.waived) == is_waived


def test_an_expired_exception_waives_nothing_and_is_named():
    ended = [
        dict(EXCEPTION, owner="Bob", expires="2025-01-01T00:00:00Z"),
        dict(EXCEPTION, expires="2026-01-01T00:00:00Z"),
        dict(EXCEPTION, owner="Eve", models=["other/*"], expires="2026-06-01T00:00:00Z"),
    ]
    verdict = judged(BARE, rule(min_evidence=1), exceptions=ended)
    assert verdict.waived == ()
    assert said(verdict) == [
        (
            "unprotected",
            (
                "rule 1 (acme/*): expected at least one verified artifact, got none; the "
                "exception of Ada expired on 2026-01-01T00:00:00Z"
            ),
        )
    ]


@pytest.mark.parametrize(("seconds", "is_waived"), [(-1, True), (0, False), (1, False)])
def test_an_exception_ends_at_its_moment(seconds, is_waived):
    end = datetime(2027, 1, 1, tzinfo=timezone(timedelta(0)))
    now = (end + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=5)))
    verdict = judged(BARE, rule(min_evidence=1), exceptions=[EXCEPTION], now=now)
    assert bool(verdict.waived) == is_waived


def test_a_valid_exception_beside_an_expired_one_waives():
    old = dict(EXCEPTION, owner="Bob", expires="2025-01-01T00:00:00Z")
    verdict = judged(BARE, rule(min_evidence=1), exceptions=[old, EXCEPTION])
    assert [each.exemption.owner for each in verdict.waived] == ["Ada"]


@pytest.mark.parametrize("code", ["revoked", "tampered", "untrusted-key", "negated", "signature"])
def test_what_is_no_code_of_the_policy_cannot_be_waived(code):
    (line,) = findings(rule(min_evidence=1), exceptions=[dict(EXCEPTION, waive=[code])])
    assert line.startswith(f"$.exceptions[0].waive[0]: '{code}' is not one of ['unprotected', ")


def test_what_is_not_waived_is_raised_in_full():
    verdict = Verdict(tuple(Violation("alpha", f"rule {n} (x): no") for n in range(60)), ())
    with pytest.raises(PolicyError) as caught:
        verdict.require()
    lines = "".join(f"\n  alpha: rule {n} (x): no" for n in range(60))
    assert caught.value.message == (
        f"expected a load that meets the policy, got 60 violation(s):{lines}"
    )
    assert caught.value.exit_code == 3


# The file.


def test_mode_is_enforce_unless_it_says_warn():
    assert policy(rule(min_evidence=1)).mode == "enforce"
    assert policy(rule(min_evidence=1), mode="warn").mode == "warn"
    assert findings(rule(min_evidence=1), mode="off") == [
        "$.mode: 'off' is not one of ['enforce', 'warn']"
    ]


def test_a_policy_in_warn_finds_what_one_in_enforce_finds():
    assert judged(BARE, FULL, mode="warn") == judged(BARE, FULL)
    assert judged(BARE, FULL).violations


def test_the_digest_is_that_of_the_canonical_form():
    written = document(FULL)
    pretty = parse_policy(json.dumps(written, indent=4).encode())
    assert pretty.digest == digest_json(written)
    assert pretty == parse_policy(canonical_json(written))
    assert parse_policy(canonical_json(document(FULL, mode="warn"))).digest != pretty.digest


NO_PATTERN = "expected a namespace such as acme/*, acme/base-7b, a digest or '*', got"


def test_all_findings_come_at_once_each_with_its_path():
    assert findings(
        rule(comment="nothing"),
        rule(min_evidence=0),
        {"bases": ["acme/**", "blake3:12", "a b"], "min_evidence": 1},
        rule(require=[{"kind": "safety-lock", "min_version": "newest"}]),
        rule(alpha={"min": 2, "max": 1.5}),
        exceptions=[
            dict(EXCEPTION, models=["*", "/srv/*", "blake3:2", "a/*"], waive=["all", "alpha"]),
            dict(EXCEPTION, expires="2027-02-29T00:00:00Z", owner="A\u202eda"),
        ],
    ) == [
        "$.rules[0]: expected a rule that requires something, got one that requires nothing",
        "$.rules[1]: expected a rule that requires something, got one that requires nothing",
        f"$.rules[2].bases[0]: {NO_PATTERN} 'acme/**'",
        NAMESPACE.format("$.rules[2].bases[1]", "blake3:12"),
        f"$.rules[2].bases[2]: {NO_PATTERN} 'a b'",
        "$.rules[3].require[0].min_version: expected a PEP 440 version, got 'newest'",
        "$.rules[4].alpha: expected min of at most max, got 2 and 1.5",
        (
            "$.exceptions[0].models[0]: expected models that are named, got '*' for all of them, "
            'which is "mode": "warn"'
        ),
        f"$.exceptions[0].models[1]: {NO_PATTERN} '/srv/*'",
        NAMESPACE.format("$.exceptions[0].models[2]", "blake3:2"),
        "$.exceptions[0].waive: expected 'all' alone, got ['all', 'alpha']",
        "$.exceptions[1].expires: expected a moment of the calendar, got '2027-02-29T00:00:00Z'",
        "$.exceptions[1].owner: expected text that can be printed, got 'A\\u202eda'",
    ]


@pytest.mark.parametrize(
    ("first", "second", "pattern"),
    [
        ("acme/*", "acme/*", "acme/*"),
        ("*", "acme/base", "acme/base"),
        ("acme/base", "*", "acme/base"),
        ("acme/*", "acme/base", "acme/base"),
        (WEIGHTS, "*", WEIGHTS),
    ],
)
def test_two_rules_that_leave_no_strength_are_refused(first, second, pattern):
    low = {"bases": [first], "alpha": {"min": 3}}
    high = {"bases": [second], "alpha": {"min": 1, "max": 2.5}}
    (line,) = findings(low, high)
    assert line == (
        f"$.rules[1].alpha: expected a range that meets that of rules[0] for {pattern!r}, got at "
        "least 3 in one and at most 2.5 in the other"
    )


def test_the_tightest_of_several_bounds_contradicts_and_two_rules_are_named_once():
    bases = {"bases": ["acme/*", "other/*"]}
    asked = [{"min": 1}, {"max": 5}, {"min": 3}, {"max": 2.5}, {"max": 4}, {"min": 2}]
    (line,) = findings(*({**bases, "alpha": alpha} for alpha in asked))
    assert line == (
        "$.rules[3].alpha: expected a range that meets that of rules[2] for 'acme/*', got at "
        "least 3 in one and at most 2.5 in the other"
    )


def test_rules_about_other_bases_or_with_a_strength_in_common_stand_together():
    low = {"bases": ["acme/*"], "alpha": {"min": 3}}
    policy(low, {"bases": ["acme/*", "*"], "alpha": {"max": 3}})
    policy(low, {"bases": ["other/base", "acme"], "alpha": {"max": 2}})


def test_two_rules_with_different_signers_ask_for_a_signature_of_each():
    rules = rule(signers=[KEY]), rule(signers=[OTHER_KEY])
    assert [each.code for each in judged(LOAD, *rules).violations] == ["signer"]
    assert said(judged(with_lock(signers=(KEY, OTHER_KEY)), *rules)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("extra",), 1),
        (("rules", 0, "min_evidense"), 3),
        (("rules", 0, "alpha", "maximum"), 3),
        (("rules", 0, "require", 0, "version"), "1"),
        (("exceptions", 0, "ends"), "never"),
    ],
)
def test_an_unknown_member_is_refused(path, value):
    written = copy.deepcopy(document(FULL, exceptions=[EXCEPTION]))
    place = written
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(SchemaViolationError, match=f"'{path[-1]}' was unexpected"):
        parse_policy(json.dumps(written).encode())


@pytest.mark.parametrize("missing", ["models", "waive", "owner", "reason", "expires"])
def test_an_exception_without_a_required_member_is_refused(missing):
    written = {name: value for name, value in EXCEPTION.items() if name != missing}
    (line,) = findings(FULL, exceptions=[written])
    assert line == f"$.exceptions[0]: {missing!r} is a required property"


@pytest.mark.parametrize("blank", ["owner", "reason"])
def test_an_exception_of_nobody_or_for_no_reason_is_refused(blank):
    (line,) = findings(FULL, exceptions=[dict(EXCEPTION, **{blank: "  "})])
    assert line.startswith(f"$.exceptions[0].{blank}: ")


@pytest.mark.parametrize(
    "asked",
    [
        {"max_distance": 0.51},
        {"max_distance": -0.1},
        {"min_evidence": 5},
        {"min_evidence": True},
        {"alpha": {}},
        {"alpha": {"min": -1}},
        {"signers": []},
        {"signers": ["ed25519:" + "A" * 64]},
        {"signers": [KEY + "\n"]},
        {"require": []},
        {"require": [{"kind": "safety-lock"}]},
    ],
)
def test_a_bound_that_cannot_be_is_refused(asked):
    (line,) = findings(rule(**asked))
    assert line.startswith("$.rules[0].")


@pytest.mark.parametrize("rules", [[], None])
def test_a_policy_without_a_rule_is_refused(rules):
    with pytest.raises(SchemaViolationError):
        parse_policy(json.dumps({"schema": "safelatch/policy/v1", "rules": rules}).encode())


def test_a_file_that_is_not_strict_json_is_refused(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text('{"mode": "enforce", "mode": "warn"}', encoding="utf-8")
    with pytest.raises(UnsafeFormatError) as caught:
        read_policy(path)
    assert caught.value.message == "policy.json: not strict JSON: member 'mode' appears twice."
    assert caught.value.hint == REPAIR


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path):
    path = tmp_path / "policy.json"
    path.write_bytes(canonical_json(document(FULL)) + b" " * POLICY_LIMIT)
    with pytest.raises(UnsafeFormatError, match="at most 1,048,576 bytes"):
        read_policy(path)


def test_a_policy_of_a_later_release_is_called_unsupported():
    with pytest.raises(UnsupportedSchemaVersionError, match="safelatch/policy/v1"):
        parse_policy(b'{"schema": "safelatch/policy/v2", "new": 1}')


def test_a_policy_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "policy.json"
    with pytest.raises(NotFoundError) as caught:
        read_policy(path)
    assert caught.value.message == f"expected a policy file at {path}, found none."
    assert "safelatch/policy/v1" in str(caught.value.hint)


def test_the_smallest_policy_of_the_hint_is_one():
    smallest = parse_policy(REPAIR.partition("one: ")[2].encode())
    assert smallest.rules == (Rule(("*",), min_evidence=3),)


# The page.


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    (block,) = re.findall(r"^```json\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("page") / "policy.json"
    path.write_text(block, encoding="utf-8")
    return read_policy(path)


def test_the_example_of_the_page_judges_as_the_page_says(shown):
    assert shown.mode == "enforce"
    (key,) = shown.rules[1].signers
    good = with_lock(signers=(key,))
    assert shown.judge(good, NOW) == Verdict((), ())
    lacking = replace(good, artifacts=(replace(good.artifacts[0], kind="safety-layers"),))
    (violation,) = shown.judge(lacking, NOW).violations
    assert f"    {violation.code}: {violation.message}\n" in PAGE.read_text("utf-8")
    old = replace(with_lock(version="1.1", signers=(key,)), model_names=("acme/old-tune",))
    (waived,) = shown.judge(old, NOW).waived
    assert (waived.violation.code, waived.exemption.owner) == (
        "min-version",
        "Ada, model operations",
    )
    (after,) = shown.judge(old, datetime(2027, 3, 1, tzinfo=timezone.utc)).violations
    assert after.message.endswith(
        "; the exception of Ada, model operations expired on 2027-03-01T00:00:00Z"
    )


def test_the_page_names_every_member_and_every_code():
    schema = json.loads((ROOT / "schemas" / "policy.v1.schema.json").read_text("utf-8"))
    members = schema["properties"]
    names = {
        *members, *members["rules"]["items"]["properties"],
        *members["exceptions"]["items"]["properties"], *get_args(Code),
    }  # fmt: skip
    text = PAGE.read_text("utf-8")
    assert {name for name in names if f"`{name}`" not in text and f'"{name}"' not in text} == set()
