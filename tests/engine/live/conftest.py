"""What the tests of the page share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.live.fake_service import FakeService


@pytest.fixture
def fake_service() -> Iterator[Callable[..., FakeService]]:
    """Make publishers; all are closed at the end."""
    made: list[FakeService] = []

    def make(*args: Any, **settings: Any) -> FakeService:
        made.append(FakeService(*args, **settings))
        return made[-1]

    yield make
    for service in made:
        service.close()
