"""Run code as an ordinary user would, so that the permissions of files hold for root as well.

Root may write anywhere because of two capabilities. On Linux they belong to a thread: one that gives
them up obeys the permissions of files like everybody, ends, and leaves the others as they were.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
needs_permissions = pytest.mark.skipif(
    os.name == "nt" or (IS_ROOT and not sys.platform.startswith("linux")),
    reason="needs POSIX permissions, and Linux to be root and obey them",
)

_OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_VERSION = 0x20080522


def obeying_permissions(call: Callable[[], ResultT]) -> ResultT:
    """Return what ``call`` returns, or raise what it raises, run where permissions hold."""
    if not IS_ROOT:
        return call()
    outcome: list[ResultT] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _give_up_capabilities()
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 -- raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def _give_up_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)  # of this thread
    sets = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    if libc.capget(header, sets) == 0:
        for index in (0, 1):
            sets[index] &= ~_OVERRIDE
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "expected to give up capabilities")
