"""One BLAS thread while a frame is reconstructed.

The products of one frame take a fraction of a millisecond each. Splitting them between threads gains nothing
and, as soon as the cores have other work, makes each product wait for a thread that does not run: ten times
slower frames were seen.
"""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the loaded libraries, about a millisecond


def single_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS uses one thread, in the whole process while it is open."""
    limit: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limit
