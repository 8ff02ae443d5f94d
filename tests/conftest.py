"""For all tests: one torch thread per process, and none of the tests marked gpu where there is no GPU. Modules of this
folder (golden_numbers, tiny_models) are shared: pyproject.toml puts it on the path."""

import os
import signal
import sys

import pytest

# Processes that tests start use several threads each; threads that wait busily slow all of them down, 40 times and
# more, where there are more threads than cores. Read when torch is first used.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests send it to processes of theirs, which inherit that it is ignored where a shell starts all in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    if "torch" in sys.modules:  # tests that know no model do not pay for the import
        sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "slurm" not in item.path.parts)  # it mostly waits: first, while others compute
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not cuda_is_available():
        config.hook.pytest_deselected(items=needs_gpu)
        items[:] = [item for item in items if item not in needs_gpu]


def cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()
