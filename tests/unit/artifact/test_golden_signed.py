"""Wire format of the two envelopes, frozen: Ed25519 is deterministic, so the bytes are too.

The bundle is that of ``golden/v2/safety-lock``; beside its own files a signed one has these. A
changed byte here is a changed format, which no older client verifies: then the next version gets a
folder of its own. Made once by ``python tests/unit/artifact/<this file>``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from support.signed import CREATED, key_of, line_of, trusted

from registry.artifact.bundle import LINE, SIGNATURE, Bundle, read_bundle
from registry.artifact.signing import public_pem, read_public_key
from registry.artifact.trust import signed_line, signed_manifest
from registry.digest import digest_bytes
from registry.workflows.trust import Trust, vouch

if TYPE_CHECKING:
    from registry.artifact.line import Line

GOLDEN = Path(__file__).parents[2] / "golden" / "v2" / "safety-lock-signed"
UNSIGNED = GOLDEN.parent / "safety-lock"
KEY_ID = "ed25519:2f20995ea5454357e356c9353f4214afed76f3d48ac5a7d21e8599c3e34ae0eb"
LINE_DIGEST = "blake3:2acc78ed88f06e3e9a94107cb56b690da9a53d70c59466ae1a48d89f8060be5d"
KEYS = key_of("golden"), key_of("golden, next")


def golden_line(bundle: Bundle) -> Line:
    """Return the third document: another version, later revoked, and an end."""
    other = digest_bytes(b"another manifest")
    line = line_of(bundle).with_version("1.1", other, created=CREATED, expires=None)
    return line.with_state(
        "1.1", "revoked", "it leaked \u2603", created=CREATED, expires="2099-01-01T00:00:00Z"
    )


def made() -> dict[str, bytes]:
    bundle = read_bundle(UNSIGNED)
    return {
        SIGNATURE: signed_manifest(bundle, KEYS),
        LINE: signed_line(golden_line(bundle), KEYS),
        "publisher.pub": public_pem(KEYS[0].key_id),
    }


def test_the_same_key_and_the_same_values_give_the_frozen_bytes() -> None:
    for name, data in made().items():
        assert data == (GOLDEN / name).read_bytes(), f"{name} has other bytes than format v2"


def test_the_frozen_bytes_are_vouched_for_by_the_frozen_key() -> None:
    envelopes = {name: (GOLDEN / name).read_bytes() for name in (SIGNATURE, LINE)}
    bundle = replace(read_bundle(UNSIGNED), signature=envelopes[SIGNATURE], line=envelopes[LINE])
    assert read_public_key(GOLDEN / "publisher.pub") == KEY_ID
    said = vouch(bundle, Trust((trusted(KEYS[0]),), is_given=True), None)
    assert said is not None
    assert said.signers == (KEY_ID,)
    assert (said.line.digest, said.line.sequence) == (LINE_DIGEST, 3)
    assert said.line.versions["1.1"].reason == "it leaked \u2603"
    assert said.line.expires == "2099-01-01T00:00:00Z"


if __name__ == "__main__":
    GOLDEN.mkdir()
    for name, data in made().items():
        (GOLDEN / name).write_bytes(data)
    print("KEY_ID      =", KEYS[0].key_id)
    print("LINE_DIGEST =", golden_line(read_bundle(UNSIGNED)).digest)
