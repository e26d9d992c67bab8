from __future__ import annotations

import numpy as np
import pytest

from registry.checkpoint.values import PRECISION, held_in, rounded, steps, to_float64


@pytest.mark.parametrize(
    ("dtype", "numpy"),
    [("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("I8", "i1"), ("U16", "<u2"), ("I64", "<i8")],
)
def test_values_of_plain_dtypes(dtype, numpy):
    values = np.array([0, 1, 2, 100]).astype(numpy)
    assert to_float64(values.tobytes(), dtype).tolist() == [0.0, 1.0, 2.0, 100.0]


def test_bool_is_zero_or_one():
    assert to_float64(b"\0\1\2", "BOOL").tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("dtype", "torch_name", "numpy"),
    [
        ("BF16", "bfloat16", np.uint16),
        ("F16", "float16", np.uint16),
        ("F8_E4M3", "float8_e4m3fn", np.uint8),
        ("F8_E5M2", "float8_e5m2", np.uint8),
        ("F8_E8M0", "float8_e8m0fnu", np.uint8),
    ],
)
def test_every_code_of_a_small_float_is_what_torch_reads(dtype, torch_name, numpy):
    import torch

    codes = np.arange(np.iinfo(numpy).max + 1, dtype=numpy)
    expected = torch.from_numpy(codes.copy()).view(getattr(torch, torch_name)).double().numpy()
    np.testing.assert_array_equal(to_float64(codes.tobytes(), dtype), expected)


def test_a_complex_number_is_two_values():
    raw = np.array([1 + 2j], dtype=np.complex64).tobytes()
    assert to_float64(raw, "C64").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_is_what_torch_does(dtype):
    import torch

    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    generator = np.random.default_rng(0)
    values = generator.standard_normal(4096) * 10.0 ** generator.integers(-9, 9, 4096)
    values = np.concatenate([values, [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, 1e-30]])
    values = values.astype(np.float32).astype(np.float64)  # what a file can hold
    expected = torch.from_numpy(values).float().to(names[dtype]).double().numpy()
    np.testing.assert_array_equal(rounded(values, dtype), expected)
    assert rounded(values, "I8") is None


@pytest.mark.parametrize(("dtype", "bits"), [("BF16", 7), ("F16", 10), ("F32", 23)])
def test_a_step_is_the_distance_to_the_next_value(dtype, bits):
    values = np.array([1.0, -1.5, 3.999, 0.5])
    expected = np.array([1.0, 1.0, 2.0, 0.5]) * 2.0**-bits
    assert steps(values, dtype).tolist() == expected.tolist()
    assert PRECISION[dtype] == 2.0 ** -(bits + 1)


def test_the_smallest_dtype_that_holds_values_is_found():
    values = np.array([1.0, 1.0 + 2**-10])
    assert held_in(values, "F32") == "F16"
    assert held_in(values[:1], "F32") == "BF16"
    assert held_in(values + 2**-20, "F32") == "F32"
    assert held_in(values + 2**-40, "F64") == "F64"
