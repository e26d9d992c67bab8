from __future__ import annotations

import errno
import os

import pytest

from registry.errors import HostError, MissingDependencyError, UnsafeFormatError
from registry.foreign import refusing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), HostError),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), HostError),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), UnsafeFormatError),
        (OSError("no file named model.safetensors"), UnsafeFormatError),
        (ValueError("broken"), UnsafeFormatError),
    ],
    ids=str,
)
def test_a_disk_that_fails_is_not_the_fault_of_the_file(error, kind):
    with pytest.raises(kind) as caught, refusing(UnsafeFormatError):
        raise error
    assert str(error) in caught.value.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'a_b'", name="a_b.c"), "pip install a-b"),
        (ImportError("\nAutoModel requires PyTorch.\nMore."), "what transformers asks for"),
        (ImportError("cannot import name", name="transformers"), "what transformers asks for"),
    ],
    ids=str,
)
def test_a_package_that_is_missing_is_not_the_fault_of_the_file(error, said):
    with pytest.raises(MissingDependencyError) as caught, refusing(UnsafeFormatError):
        raise error
    assert said in str(caught.value.hint)
