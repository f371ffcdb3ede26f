"""No test reaches the network, and a run of the tests repeats itself."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.faults.figures import figure, pytest_addoption, pytest_terminal_summary  # noqa: F401

# Each worker of pytest-xdist keeps to its share of the cores, which PyTorch reads when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    _worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, _cores[_worker::_workers] or [_cores[_worker % len(_cores)]])

# huggingface_hub reads this when it is imported
os.environ["HF_HUB_OFFLINE"] = "1"

# The examples of the properties are the same in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto`: a worker a core, and no more than memory is sure to hold."""
    return min(len(os.sched_getaffinity(0)), 4)
