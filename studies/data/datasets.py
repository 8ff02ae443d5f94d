"""The data sets by name, and the one of a run."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from cropr.nearest import one_of
from studies.config import RunConfig
from studies.data import Data, Dataset, sets

__all__ = ["create_dataset", "datasets"]


@cache
def datasets() -> dict[str, Dataset]:
    """Those that the modules of sets/ declare, embedded ones first."""
    modules = [import_module(f"{sets.__name__}.{found.name}") for found in pkgutil.iter_modules(sets.__path__)]
    found = {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Dataset)}
    return dict(sorted(found.items(), key=lambda entry: (bool(entry[1].folder), entry[0])))


def create_dataset(config: RunConfig, workers: int = 0) -> Data:
    """The data set of a run; `workers` processes decode what is in files (0: this one). Raises ValueError for an
    unknown one, one of another task, and missing or unreadable data."""
    one_of("data set", config.dataset, datasets())
    dataset = datasets()[config.dataset]
    if config.task not in dataset.tasks:
        raise ValueError(f"data set {dataset.name} serves {' and '.join(dataset.tasks)}, not {config.task}")
    if dataset.folder and config.data_dir is None:
        raise ValueError(f"{dataset.name} needs --data DIR: {dataset.folder}")
    if not dataset.folder and config.data_dir is not None:
        raise ValueError(f"data set {dataset.name} is embedded and reads no --data {config.data_dir!r}")
    if config.ignore is not None and not dataset.ignore:
        those = ", ".join(name for name, other in datasets().items() if other.ignore)
        raise ValueError(f"data set {dataset.name} reads no --ignore {config.ignore}; valid with {those}")
    return dataset.make(config, workers)
