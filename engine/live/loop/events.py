"""Events that a running reconstruction reports, for logs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """Event: something that happened.

    Attributes
    ----------
    name : str
        Name of a few fixed words with hyphens, such as "frame-failed".
    level : int
        Level of `logging`.
    fields : mapping
        Plain values by name.
    """

    name: str
    level: int = logging.INFO
    fields: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
"""A function that gets events, from any thread; it must not raise."""


def ignore(event: Event) -> None:
    """Do nothing with an event."""
