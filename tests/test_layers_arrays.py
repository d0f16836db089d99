"""What callers may give for an array, and what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lstm_engine.arrays import as_float_array, as_index_array, as_lengths, as_mask, describe_axes
from lstm_engine.errors import ShapeError


def test_an_array_that_fits_is_not_copied() -> None:
    x = np.ones((2, 3), np.float32)
    x.setflags(write=False)
    assert as_float_array(x, "x", ("batch", 3)) is x


@pytest.mark.parametrize(
    "x",
    [
        np.ones((2, 3), np.float64),
        np.ones((2, 3), np.float16),
        np.ones((2, 3), ">f4"),
        np.asfortranarray(np.ones((2, 3), np.float32)),
        np.ones((4, 6), np.float32)[::2, ::2],
        np.frombuffer(b"\0" + np.ones(6, np.float32).tobytes(), np.float32, offset=1).reshape(2, 3),
        np.ones((2, 3), np.int64),
        np.ones((2, 3), np.uint8),
        np.ones((2, 3), np.bool_),
        np.ones((2, 3), np.longdouble),
        [[1, 1, 1], [1.0, 1.0, 1.0]],
    ],
    ids=lambda x: f"{getattr(x, 'dtype', 'list')}",
)
def test_what_converts_exactly_is_converted(x: Any) -> None:
    y = as_float_array(x, "x", ("batch", 3))
    assert type(y) is np.ndarray
    assert y.dtype == np.float32
    assert y.flags.c_contiguous
    assert y.flags.aligned
    np.testing.assert_array_equal(y, np.ones((2, 3)))


def test_float64_is_rounded_to_nearest_and_keeps_what_is_not_finite() -> None:
    x = np.array([1 / 3, np.nan, np.inf, -np.inf, 1e-50, -0.0])
    np.testing.assert_array_equal(as_float_array(x, "x"), x.astype(np.float32))
    np.testing.assert_array_equal(as_float_array(x, "x", dtype=np.float64), x)


def test_float64_out_of_range_is_refused_with_its_place() -> None:
    x = np.zeros((2, 3))
    x[1, 2] = -1e39
    with pytest.raises(ShapeError, match=r"x: expected values within the range of float32.*-1e\+39.*\(1, 2\)"):
        as_float_array(x, "x")
    np.testing.assert_array_equal(as_float_array(x, "x", dtype=np.float64), x)


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (2**24, np.float32, True),
        (-(2**24), np.float32, True),
        (2**24 + 1, np.float32, False),
        (-(2**24) - 1, np.float32, False),
        (2**24 + 1, np.float64, True),
        (2**53, np.float64, True),
        (2**53 + 1, np.float64, False),
        (np.iinfo(np.int64).min, np.float32, False),
    ],
)
def test_integers_are_taken_where_they_are_exact(value: int, dtype: Any, fits: bool) -> None:
    if fits:
        assert as_float_array(np.array([value]), "x", dtype=dtype)[0] == value
    else:
        with pytest.raises(ShapeError, match=rf"x: expected integers that {np.dtype(dtype)} holds exactly"):
            as_float_array(np.array([value]), "x", dtype=dtype)


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.ones((2, 3), complex), "complex128"),
        (np.array([["a", "b", "c"]]), "<U1"),
        (np.array([[None, 1, 2]], object), "object"),
        (np.ones((2, 3), "datetime64[s]"), "datetime64"),
        (np.ma.masked_equal([[1.0, 2.0, 3.0]], 2.0), "masked array"),
        ([[1, 2, 3], [1, 2]], "list"),
        (np.ones(3, np.float32), r"shape \(3,\), of rank 1"),
        (np.ones((1, 2, 3), np.float32), r"shape \(1, 2, 3\), of rank 3"),
        (np.ones((2, 4), np.float32), r"axis 1 must have size 3, it has 4"),
        (None, "object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(x: Any, found: str) -> None:
    with pytest.raises(ShapeError, match=rf"^x: expected .*{found}"):
        as_float_array(x, "x", ("batch", 3))


def test_axes_are_shown_as_people_write_shapes() -> None:
    assert describe_axes(("batch", "time", 3)) == "(batch, time, 3)"
    assert describe_axes((4,)) == "(4,)"


@pytest.mark.parametrize("x", [[[1, 2]], np.array([[1.0, 2.0]], np.float32), np.array([[1, 2]], np.uint8)])
def test_indices_may_be_whole_floats(x: Any) -> None:
    y = as_index_array(x, "tokens", ("batch", "time"))
    assert y.dtype == np.intp
    np.testing.assert_array_equal(y, [[1, 2]])


@pytest.mark.parametrize(
    ("x", "found"),
    [
        ([[1.0, 2.5]], r"2\.5.*\(0, 1\)"),
        ([[1.0, np.nan]], "nan"),
        ([[np.inf, 1.0]], "inf"),
        ([[1e300, 1.0]], "1e\\+300"),
        (np.array([[2**64 - 1]], np.uint64), str(2**64 - 1)),
        ([[True, False]], "bool"),
        ([["a"]], "<U1"),
    ],
)
def test_indices_that_are_none_are_refused(x: Any, found: str) -> None:
    with pytest.raises(ShapeError, match=f"^tokens: expected .*{found}"):
        as_index_array(x, "tokens")


def test_masks() -> None:
    assert as_mask(np.ones((2, 3), bool), "mask", (2, 3)).dtype == np.bool_
    np.testing.assert_array_equal(as_mask([[1, 0]], "mask"), [[True, False]])
    with pytest.raises(ShapeError, match=r"^mask: expected a bool mask.*float64"):
        as_mask([[1.0, 0.0]], "mask")
    with pytest.raises(ShapeError, match=r"^mask: .*from 0 to 2.*lengths="):
        as_mask([[2, 0]], "mask")
    with pytest.raises(ShapeError, match=r"^mask: expected shape \(2, 3\), found shape \(3, 2\)"):
        as_mask(np.ones((3, 2), bool), "mask", (2, 3))


def test_lengths() -> None:
    y = as_lengths(np.array([0, 3], np.int16), "lengths", 2, 3)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, [0, 3])
    assert as_lengths([], "lengths", 0, 3).shape == (0,)
    with pytest.raises(ShapeError, match=r"^lengths: expected lengths from 0 to 3.*found 4 for row 1"):
        as_lengths([0, 4], "lengths", 2, 3)
    with pytest.raises(ShapeError, match="found -1 for row 0"):
        as_lengths([-1, 4], "lengths", 2, 3)
    with pytest.raises(ShapeError, match=r"expected integers.*float64"):
        as_lengths([1.0, 2.0], "lengths", 2, 3)
    with pytest.raises(ShapeError, match=r"expected shape \(2,\)"):
        as_lengths([1], "lengths", 2, 3)
