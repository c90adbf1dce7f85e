"""What a running reconstruction has to say, for logs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes
    ----------
    name : str
        A few fixed words with hyphens, such as "frame-failed".
    level : int
        Of `logging`.
    fields : mapping
        Plain values.
    """

    name: str
    level: int = logging.INFO
    fields: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
"""Called from any thread; what it raises is the caller's fault and must not happen."""


def ignore(event: Event) -> None:
    """Do nothing."""
