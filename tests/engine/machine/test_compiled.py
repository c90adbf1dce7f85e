import numpy as np
import pytest

from engine.machine.compiled import kernel

SUM_TOLERANCE = 1e-6  # float32 sums of ten numbers of order one, in any order


def _inner(a, b):
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


SIGNATURE = "float32(float32[::1], float32[::1])"


@pytest.fixture(scope="module")
def inner():
    return kernel(SIGNATURE)(_inner)


def test_compiled_function_computes_what_python_does(inner):
    a, b = np.random.default_rng(0).uniform(0, 1, (2, 10)).astype(np.float32)
    assert inner(a, b) == pytest.approx(_inner(a, b), rel=SUM_TOLERANCE)


def test_other_types_are_refused_rather_than_compiled_again(inner):
    with pytest.raises(TypeError, match="No matching definition"):
        inner(np.ones(3), np.ones(3))


def test_nan_and_infinity_keep_their_meaning(inner):
    ones = np.ones(40, np.float32)
    for bad in (np.nan, np.inf):
        values = ones.copy()
        values[17] = bad
        assert not np.isfinite(inner(values, ones))


def test_a_function_without_a_place_for_its_cache_still_compiles():
    # Code from a string has no folder, so numba finds no place; as in a read-only installation.
    namespace = {}
    source = "def double(a):\n    for i in range(a.shape[0]):\n        a[i] *= 2\n"
    exec(compile(source, "<no file>", "exec"), namespace)  # noqa: S102
    double = kernel("void(float32[::1])")(namespace["double"])
    values = np.arange(3, dtype=np.float32)
    double(values)
    assert values.tolist() == [0, 2, 4]


def test_a_cache_that_cannot_be_written_does_not_stop_the_import(monkeypatch):
    def refuse(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", refuse)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.load", lambda *_: None)
    assert kernel(SIGNATURE)(_inner)(np.ones(3, np.float32), np.ones(3, np.float32)) == 3
