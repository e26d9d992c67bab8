"""The edge to other libraries: one error of ours, whatever they raise or if they are not there.

Beside the command line this is the only module that may catch everything. It is for calls of
``transformers`` and ``tokenizers`` on a repository's files, never for code of our own.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from registry.errors import HostError, MissingDependencyError, SafelatchError
from registry.plainfile import REACH, is_out_of_reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def refusing(refuse: Callable[[str], SafelatchError]) -> Iterator[None]:
    """Turn whatever a library raises about somebody else's files into one error of ours.

    Hostile files reach code that nobody wrote for them: what comes out may be any exception, also a
    panic of Rust, which is no ``Exception``. Our own errors, Ctrl-C and exits pass.

    Args:
        refuse: Makes the error from one line that says what was raised.

    Raises:
        MissingDependencyError: the library lacks a package.
        HostError: memory ran out, or a file is there and cannot be read.
    """
    try:
        yield
    except (SafelatchError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines() or ["no message"]
        fact = f"{type(error).__name__}: {lines[0][:300]}"
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise HostError(
                f"expected enough memory, got {fact}",
                hint="Close other programs, or use a device with more memory.",
            ) from error
        if isinstance(error, ImportError):
            raise _lacking(error, fact) from error
        if isinstance(error, OSError) and is_out_of_reach(error):
            raise HostError(f"expected files that can be read, got {fact}", hint=REACH) from error
        raise refuse(fact) from error


@contextmanager
def importing() -> Iterator[None]:
    """Turn an import of a package that is not installed into one error of ours.

    Raises:
        MissingDependencyError: it names the package and how it is installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise not_installed(error) from error


def _lacking(error: ImportError, fact: str) -> MissingDependencyError:
    """Return the error about a package that a library asks for.

    Only ``ModuleNotFoundError`` names what is missing; other import errors name who asked.
    """
    package = str(error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package and not sys.modules.get(package):
        return not_installed(error)
    return MissingDependencyError(
        f"expected the packages that transformers needs, got {fact}",
        hint="Install what transformers asks for.",
    )


def not_installed(error: ModuleNotFoundError) -> MissingDependencyError:
    """Return the error about a package that an installation of ours lacks."""
    package = str(error.name).partition(".")[0].replace("_", "-")
    return MissingDependencyError(
        f"expected the package {package}, found none.", hint=f"Install it: pip install {package}"
    )
