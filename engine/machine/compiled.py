"""Compilation of the loops that numpy cannot express: one decorator with the settings of every kernel."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

FASTMATH = frozenset({"reassoc", "contract", "arcp"})
"""Liberties of the compiler: sums may be reordered, so that they use vector registers, and a * b + c fused.

NaN and infinity keep their meaning: a kernel that is given one returns one, and the caller can say so.
"""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernel(*signatures: str) -> Callable[[Kernel], Kernel]:
    """Compile a function for some signatures, when its module is imported.

    The machine code is kept in numba's cache: beside the module, or in the user's cache folder if that place
    is read-only. Where neither can be written the function is compiled anew in every process, which costs
    seconds at import and changes no result.

    Parameters
    ----------
    *signatures : str
        Argument types in numba's notation, contiguous arrays as such: "void(float32[:, ::1], int64[::1])".

    Returns
    -------
    callable
        Decorator. The compiled function accepts exactly these types, and holds no Python lock while it runs.
    """

    def compile_kernel(function: Kernel) -> Kernel:
        try:
            return _compile(function, signatures, cache=True)
        except (RuntimeError, OSError):  # numba found no place for its cache, or could not write there
            return _compile(function, signatures, cache=False)

    return compile_kernel


def _compile(function: Kernel, signatures: tuple[str, ...], *, cache: bool) -> Kernel:
    decorator = numba.njit(
        list(signatures), cache=cache, fastmath=set(FASTMATH), error_model="numpy", nogil=True
    )
    return cast("Kernel", decorator(function))
