from collections.abc import Iterator

import pytest

from tests.net import serving


@pytest.fixture(params=[serving.in_a_task, serving.handed_over, serving.replied], ids=lambda way: way.__name__)
def every_way(request: pytest.FixtureRequest) -> Iterator[serving.Way]:
    """The test holds however its server's requests get to the handler."""
    serving.ways.append(request.param)
    yield request.param
    serving.ways.pop()
