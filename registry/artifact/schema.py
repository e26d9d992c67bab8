"""JSON Schema validation: every violation, located, in one error.

The schemas are data files (``schemas/*.schema.json``); this module is the only one that
imports jsonschema.
"""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from registry.errors import SchemaViolationError, UnsupportedSchemaVersionError
from registry.resources import read_schema
from registry.wording import INSTALL_NEWER, REMAKE

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_VIOLATIONS = 1000  # a hostile megabyte has 900,000, which take half a minute


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    schema = json.loads(read_schema(name))
    Draft202012Validator.check_schema(schema)
    return extend(Draft202012Validator, {"pattern": _pattern})(schema)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    """Yield a violation unless ``pattern`` is found, where ``$`` is the end and nothing else.

    JSON Schema means the regular expressions of ECMA-262; in Python's, ``$`` also matches in
    front of a line break at the end, so that two names could look like one.
    """
    from jsonschema import ValidationError

    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def validate(document: Any, schema: str, *, what: str, hint: str = REMAKE) -> None:
    """Check ``document`` against a bundled schema.

    Args:
        document: Parsed JSON.
        schema: Name and version of the schema, such as ``manifest.v1``.
        what: How to call the document in an error.
        hint: What to do about a document that does not follow it.

    Raises:
        SchemaViolationError: with one line per violation, ``$.path: message``.
    """
    found = islice(_validator(schema).iter_errors(document), _MOST_VIOLATIONS)
    errors = sorted(found, key=lambda error: error.json_path)
    if errors:
        lines = [f"{error.json_path}: {error.message[:200]}" for error in errors]
        more = " or more" if len(errors) == _MOST_VIOLATIONS else ""
        raise SchemaViolationError(
            f"{what} does not follow schema {schema}: {len(errors)}{more} violation(s).",
            lines,
            hint=hint,
        )


def require_schema(document: Any, expected: str, *, what: str) -> None:
    """Check the ``schema`` member, so that a newer document is called newer and not broken.

    Raises:
        UnsupportedSchemaVersionError: the member is missing or names another version.
    """
    got = document.get("schema") if isinstance(document, dict) else None
    if got != expected:
        raise UnsupportedSchemaVersionError(
            f"{what}: expected schema {expected!r}, got {str(got)[:80]!r}.",
            hint=INSTALL_NEWER,
        )
