"""What all tests share: property tests without a clock, caches of their own."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgeskin", deadline=None)
settings.load_profile("edgeskin")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches go to the tests' own folder, also for the processes that tests start."""
    folder: Path = tmp_path_factory.mktemp("cache")
    os.environ["EDGESKIN_CACHE"] = str(folder)
