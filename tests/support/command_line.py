"""Run the ``safelatch`` command in this process, its two outputs apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from registry.cli.main import cli


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def safelatch(*arguments: object) -> Outcome:
    """Run ``safelatch ARGUMENTS``."""
    typed = [str(argument) for argument in arguments]
    result = CliRunner().invoke(cli, typed, prog_name="safelatch")
    return Outcome(result.exit_code, result.stdout, result.stderr)
