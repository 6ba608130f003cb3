"""What the tests of the application share."""

from __future__ import annotations

import pytest

from tests.app.exporters import install


@pytest.fixture(scope="session")
def javascript() -> None:
    """JavaScript's exporters, or a skip that says why not."""
    if reason := install():
        pytest.skip(reason)
