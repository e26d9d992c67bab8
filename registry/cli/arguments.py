"""What several verbs take: models, artifacts, places, and how TAB completes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.completion import artifacts, folders, or_folders
from registry.errors import UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

_ON_THE_HUB = re.compile(
    r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)([\w.-]+/[\w.-]+)"
)

_TIME = re.compile(r"([0-9]{1,6})([smhd])|0")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Model(click.ParamType):  # type: ignore[type-arg] # generic in newer clicks only
    """A folder, a ``.safetensors`` file or a Hub id; pasting a URL is told what to type."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        text = str(value)
        if "://" in text:  # what stands behind may hold a password
            found = _ON_THE_HUB.match(text)
            named = f"its Hub id: {found[1]}" if found else "a folder of this machine."
            raise UsageError(
                "expected a folder or a Hub id such as ns/name, got a URL "
                f"({text.partition('://')[0]}://...).",
                hint=f"Name it by {named}",
            )
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return folders(ctx, param, incomplete)


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in newer clicks only
    """A number and a unit: ``90d``, ``36h``, or ``0``."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dt.timedelta:
        """Return what was typed as a time span."""
        import datetime as dt

        if isinstance(value, dt.timedelta):
            return value
        found = _TIME.fullmatch(str(value))
        if found is None:
            self.fail(
                f"expected a number and s, m, h or d, such as 14d, got {value!r}.", param, ctx
            )
        return dt.timedelta(**{_UNITS[found[2] or "s"]: int(found[1] or 0)})


MODEL = _Model()
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

model_argument = click.argument("model", type=MODEL)
artifact_argument = click.argument("ref", metavar="NAME@V", shell_complete=or_folders(artifacts))
revision_option = click.option(
    "--revision", metavar="REV", help="Branch, tag or commit on the Hub. [default: main]"
)
no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Read every byte again, whatever was read before."
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run the model; auto takes cuda where there is one.",
)


def seed_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that gives a verb its ``--seed``."""
    return click.option("--seed", type=int, default=0, show_default=True, metavar="N", help=text)
