"""What is missing without the extra `live`, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ConfigError


@contextmanager
def live_extra() -> Iterator[None]:
    """Turn a missing library into a ConfigError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; expected the libraries of the live service; "
            "pip install 'deq-mpi[live]'"
        ) from error
