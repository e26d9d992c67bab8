"""``load_protected`` under a policy file: what it refuses, what it lets pass, what that leaves."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from registry import load_protected
from registry.artifact.signing import PrivateKey
from registry.errors import (
    NoProtectionError,
    NotFoundError,
    PolicyError,
    UnsignedError,
    UsageError,
)
from registry.workflows.sign import Signer, sign_again

if TYPE_CHECKING:
    from pathlib import Path

    from registry import Registry

KEY = "ed25519:" + "3b" * 32
ALL = {
    "models": ["anything/*"], "waive": ["all"], "owner": "Ada", "reason": "a trial",
    "expires": "2999-01-01T00:00:00Z",
}  # fmt: skip


def policy(folder: Path, *rules: dict[str, Any], **members: Any) -> Path:
    path = folder / "policy.json"
    document = {"schema": "safelatch/policy/v1", "rules": list(rules), **members}
    path.write_text(json.dumps(document))
    return path


def actions(registry: Registry) -> list[str]:
    return [event.action for event in registry.events()]


@pytest.mark.parametrize(
    ("rule", "fact"),
    [
        (
            {"bases": ["planted-base"], "require": [{"kind": "safety-lock", "min_version": "2"}]},
            (
                "min-version: rule 1 (planted-base): expected safety-lock of version 2 or later, "
                "got planted-lock@1.0.0 of version 1.0.0"
            ),
        ),
        (
            {"bases": ["*"], "require": [{"kind": "safety-layers", "min_version": "1"}]},
            "required-kind: rule 1 (*): expected an artifact of kind safety-layers, got safety-lock",
        ),
        (
            {"bases": ["*"], "signers": [KEY]},
            (
                f"signer: rule 1 (*): expected planted-lock@1.0.0 signed by {KEY}, got no verified "
                "signature"
            ),
        ),
        (
            {"bases": ["*"], "min_evidence": 4},
            "evidence: rule 1 (*): expected evidence level 4 or more for planted-lock@1.0.0, got 3",
        ),
        (
            {"bases": ["*"], "alpha": {"min": 1.1}},
            "alpha: rule 1 (*): expected alpha at least 1.1 for planted-lock@1.0.0, got 1",
        ),
    ],
    ids=["version", "kind", "signer", "evidence", "alpha"],
)
def test_a_load_that_a_rule_does_not_allow_is_refused_before_the_model_is_opened(
    world: Any,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: dict[str, Any],
    fact: str,
) -> None:
    monkeypatch.setattr(
        "registry.workflows.load.open_model", lambda *_, **__: pytest.fail("opened")
    )
    with pytest.raises(PolicyError) as caught:
        load_protected(world.tune, policy=policy(tmp_path, rule))
    assert caught.value.message == (
        f"expected a load that meets the policy, got 1 violation(s):\n  {fact}"
    )
    refusal = registry.events()[-1]
    assert (refusal.action, refusal.detail["code"]) == ("load.refuse", "policy")


def test_a_distance_beyond_the_rule_is_refused(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    path = policy(tmp_path, {"bases": ["*"], "max_distance": 1e-6})
    with pytest.raises(PolicyError, match="distance: rule 1"):
        load_protected(world.tune, policy=path)
    assert "application.record" not in actions(registry)


def test_a_load_that_meets_the_policy_is_protected_and_a_rule_of_another_base_asks_nothing(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    path = policy(
        tmp_path,
        {"bases": ["planted-base"], "min_evidence": 3, "alpha": {"min": 0.5, "max": 1}},
        {"bases": ["acme/*"], "signers": [KEY]},
    )
    model = load_protected(world.tune, policy=path)
    assert model.safelatch.verified
    assert model.safelatch.policy == "enforce"
    assert registry.events()[-1].action == "application.record"


def test_the_policy_of_the_environment_holds_for_every_load(
    world: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 4})
    monkeypatch.setenv("SAFELATCH_POLICY", str(path))
    with pytest.raises(PolicyError, match="evidence level 4"):
        load_protected(world.tune, registry=registry)


def test_an_enforcing_policy_is_not_talked_down_by_an_argument(
    world: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 3})
    monkeypatch.setenv("SAFELATCH_POLICY", str(path))
    with pytest.raises(UsageError) as caught:
        load_protected(world.tune, registry=registry, policy="warn")
    assert caught.value.message == f"expected policy 'enforce', as {path} says, got 'warn'."


def test_another_file_does_not_take_the_place_of_the_one_that_holds_for_every_load(
    world: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = policy(tmp_path, {"bases": ["*"], "min_evidence": 4})
    monkeypatch.setenv("SAFELATCH_POLICY", str(strict))
    (tmp_path / "own").mkdir()
    lax = policy(tmp_path / "own", {"bases": ["*"], "min_evidence": 1}, mode="warn")
    with pytest.raises(UsageError, match="expected the policy that SAFELATCH_POLICY names"):
        load_protected(world.tune, registry=registry, policy=lax)
    with pytest.raises(PolicyError):
        load_protected(world.tune, registry=registry, policy=strict)


def test_a_policy_that_warns_lets_pass_and_leaves_an_event(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 4}, mode="warn")
    with pytest.warns(UserWarning, match="does not meet the policy, which warns only: evidence"):
        model = load_protected(world.tune, policy=path)
    assert model.safelatch.verified
    assert model.safelatch.policy == "warn"
    (event,) = [one for one in registry.events() if one.action == "policy.warn"]
    assert event.detail["violations"] == [
        "evidence: rule 1 (*): expected evidence level 4 or more for planted-lock@1.0.0, got 3"
    ]
    assert event.detail["policy"].startswith("blake3:")


def test_an_exception_lets_pass_and_leaves_an_event_with_its_owner_and_end(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    model = str(world.tune)
    exception = {**ALL, "models": [model], "waive": ["evidence"]}
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 4}, exceptions=[exception])
    assert load_protected(model, policy=path).safelatch.verified
    (event,) = [one for one in registry.events() if one.action == "policy.exception"]
    assert event.detail["owner"] == "Ada"
    assert event.detail["reason"] == "a trial"
    assert event.detail["expires"] == "2999-01-01T00:00:00Z"
    assert event.detail["violation"].startswith("evidence: rule 1")


def test_an_exception_that_has_expired_lets_nothing_pass(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    model = str(world.tune)
    exception = {**ALL, "models": [model], "expires": "2020-01-01T00:00:00Z"}
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 4}, exceptions=[exception])
    with pytest.raises(PolicyError, match="the exception of Ada expired on 2020-01-01T00:00:00Z"):
        load_protected(model, policy=path)
    assert "policy.exception" not in actions(registry)


def test_a_folder_called_like_a_repository_is_not_the_repository_of_the_exception(
    world: Any, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del registry
    shutil.copytree(world.tune, tmp_path / "acme/tune")
    monkeypatch.chdir(tmp_path)
    exception = {**ALL, "models": ["acme/*", "acme/tune"]}
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 4}, exceptions=[exception])
    with pytest.raises(PolicyError):
        load_protected("acme/tune", policy=path)


def test_without_any_artifact_only_an_exception_for_that_loads(
    world: Any, empty_registry: Registry, tmp_path: Path
) -> None:
    model = str(world.tune)
    rule = {"bases": ["*"], "min_evidence": 3}
    with pytest.raises(NoProtectionError):
        load_protected(model, policy=policy(tmp_path, rule))
    other = {**ALL, "models": [model], "waive": ["evidence"]}
    with pytest.raises(NoProtectionError):
        load_protected(model, policy=policy(tmp_path, rule, exceptions=[other]))
    waived = {**ALL, "models": [model], "waive": ["unprotected"]}
    with pytest.warns(UserWarning, match="WITHOUT protection"):
        loaded = load_protected(model, policy=policy(tmp_path, rule, exceptions=[waived]))
    assert not loaded.safelatch.verified
    assert actions(empty_registry)[-2:] == ["policy.exception", "load.unprotected"]


def test_an_exception_does_not_reach_a_signature_that_is_missing(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    registry.trust_key(KEY, namespaces=["*"])
    exception = {**ALL, "models": [str(world.tune)]}
    path = policy(tmp_path, {"bases": ["*"], "min_evidence": 3}, exceptions=[exception])
    with pytest.raises(UnsignedError):
        load_protected(str(world.tune), policy=path)


def test_a_signer_that_the_policy_names_and_the_registry_trusts_satisfies_it(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    key = PrivateKey.generate()
    registry.trust_key(key.key_id, namespaces=["planted-base"])
    sign_again(registry, "planted-lock", Signer([key]))
    path = policy(tmp_path, {"bases": ["*"], "signers": [key.key_id]})
    model = load_protected(world.tune, policy=path)
    assert model.safelatch.applied[0].signed_by == (key.key_id,)
    other = policy(tmp_path, {"bases": ["*"], "signers": [KEY]})
    with pytest.raises(PolicyError, match=f"got {key.key_id}"):
        load_protected(world.tune, policy=other)


def test_a_policy_that_is_not_there_or_no_word_is_refused(
    world: Any, registry: Registry, tmp_path: Path
) -> None:
    del registry
    with pytest.raises(NotFoundError):
        load_protected(world.tune, policy=tmp_path / "none.json")
    with pytest.raises(UsageError) as caught:
        load_protected(world.tune, policy="relaxed")
    assert caught.value.message == (
        "expected policy 'enforce', 'warn' or the path of a .json file, got 'relaxed'."
    )
