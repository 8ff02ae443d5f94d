"""The named studies, one file each: it ends in its `Study`, which is all that is known of it elsewhere. Those that
`--task` means stand here, what a part is worth in questions/, what costs what in costs/; own.py reads a user's own.

Knows recipes and tasks and nothing else: names of methods are text here.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from studies.catalogue.declaration import Full, Question, Study, Timing
from studies.tasks import TASKS

__all__ = ["Full", "Question", "Study", "Timing", "studies"]


@cache
def studies() -> dict[str, Study]:
    """By name, those that tasks mean first, in the order of tasks."""
    names = [m.name for m in pkgutil.walk_packages(__path__, f"{__name__}.") if not m.ispkg]
    found = [module.STUDY for module in map(import_module, names) if hasattr(module, "STUDY")]
    tasks = list(TASKS)

    def place(study: Study) -> tuple[bool, int, str]:
        return not study.default_of_task, tasks.index(study.task) if study.default_of_task else 0, study.name

    return {study.name: study for study in sorted(found, key=place)}
