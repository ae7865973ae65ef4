"""What holds for all tests: none reads or writes the caches of whoever runs them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

NUMBERS = count()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of its own for each test's measured times, made only if the test measures; no code
    is kept unless a test wants it."""
    folder = tmp_path_factory.getbasetemp() / "cache" / str(next(NUMBERS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVC_CACHE", str(folder))
        patch.setenv("CONVC_CACHE_MIB", "0")
        yield
