"""Where the data files that travel with the package are.

``schemas/`` and ``migrations/`` live at the top of the repository and inside the wheel as
``registry/_schemas`` and ``registry/_migrations``. A checkout is told from a foreign folder of
the same name in site-packages by the ``pyproject.toml`` beside it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from registry.errors import HostError


def bundled_dir(name: Literal["schemas", "migrations"]) -> Path:
    """Return the folder that holds the bundled ``name``.

    Raises:
        HostError: the folder is missing from the installation.
    """
    package = Path(str(files("registry")))
    installed = package / f"_{name}"
    if installed.is_dir():
        return installed
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise HostError(
        f"expected the '{name}' folder at {installed}, found nothing.",
        hint="Install again: pip install --force-reinstall safelatch",
    )


def read_schema(name: str) -> bytes:
    """Return the bytes of the bundled JSON Schema ``name``, such as ``manifest.v1``."""
    path = bundled_dir("schemas") / f"{name}.schema.json"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise HostError(
            f"expected the schema {path.name} at {path.parent}, found nothing.",
            hint="Install again: pip install --force-reinstall safelatch",
        ) from None
