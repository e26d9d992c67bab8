"""What a key is trusted for: as JSON, in words, and what other words change about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.artifact.trust import TrustedKey


def document(found: TrustedKey) -> dict[str, Any]:
    """Return the JSON form of a key that this registry trusts or has revoked."""
    from registry.moment import now, stamp

    moments = {
        "not_before": found.not_before,
        "not_after": found.not_after,
        "trusted_at": found.trusted_at,
        "revoked_at": found.revoked_at,
    }
    refusal = found.refusal(now())
    state = "revoked" if found.revoked_at else "trusted" if refusal is None else "not valid now"
    return {
        "key_id": found.key_id,
        "state": state,
        "label": found.label,
        "namespaces": list(found.namespaces),
        **{name: None if moment is None else stamp(moment) for name, moment in moments.items()},
        "reason": found.revoked_reason,
    }


def unknown(key_id: str) -> dict[str, Any]:
    """Return the JSON form of a key of which this registry knows nothing."""
    from registry.artifact.trust import TrustedKey

    return {**document(TrustedKey(key_id, ())), "state": "unknown here"}


def in_words(key: TrustedKey) -> str:
    """Return what ``key`` is trusted for: ``for acme/*, until 2028-01-01T00:00:00Z``."""
    return ", ".join([f"for {', '.join(key.namespaces)}", *_others(key)])


def require_no_loss(now: TrustedKey, asked: TrustedKey) -> None:
    """Raise ``ConfirmationRequiredError`` if ``asked`` says another thing than holds ``now``."""
    from registry.errors import ConfirmationRequiredError

    if _facts(now) != _facts(asked):
        raise ConfirmationRequiredError(
            f"{now.key_id}: expected what it is trusted for already ({in_words(now)}), got "
            f"{in_words(asked)}.",
            hint="To replace it, give all of it with --replace: safelatch key trust PUB --for "
            "NAMESPACE --replace",
        )


def dropped(before: TrustedKey, after: TrustedKey) -> str | None:
    """Return which facts of ``before`` do not hold ``after``, in words; ``None`` if all do."""
    gone = [name for name in before.namespaces if name not in after.namespaces]
    gone += [fact for fact in _others(before) if fact not in _others(after)]
    return f"no longer: {', '.join(gone)}" if gone else None


def _facts(key: TrustedKey) -> tuple[object, ...]:
    return set(key.namespaces), key.label, key.not_before, key.not_after


def _others(key: TrustedKey) -> list[str]:
    from registry.moment import stamp

    facts = (
        ("label", key.label),
        ("from", None if key.not_before is None else stamp(key.not_before)),
        ("until", None if key.not_after is None else stamp(key.not_after)),
    )
    return [f"{word} {value}" for word, value in facts if value is not None]
