"""A study of a user's own: a TOML file in the vocabulary of `Study`, or a Python file that ends in one.

claim = "with three heads Cropr is within 2 points of the dense model"
reducers = ["none", "random", "cropr:heads=3"]
budgets = [0.65]
[question]
method = "cropr:heads=3"
against = "dense"
margin_points = 2

What it does not say is that of its `base`, a study of the catalogue (the task's own, unless it names another). All of
it is checked before anything runs. A Python file is run, so it is read only where the user names it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from cropr.nearest import nearest, one_of
from results.records.files import CorruptRecord, path_of
from results.records.schema import check
from studies.catalogue import studies
from studies.catalogue.declaration import TRAINS, Question, Study
from studies.catalogue.recipes import RECIPES
from studies.config import Recipe, replace_key, settings
from studies.tasks import TASKS

__all__ = ["find_study", "is_file", "read_study"]

SUFFIXES = (".toml", ".py")


class QuestionTable(TypedDict):
    """[question]"""

    method: str
    against: str
    margin_points: float
    kind: NotRequired[str]
    budget: NotRequired[float]
    metric: NotRequired[str]


class StudyTable(TypedDict):
    """The file. Names are those of `Study`."""

    claim: str
    base: NotRequired[str]
    name: NotRequired[str]
    summary: NotRequired[str]
    source: NotRequired[str]
    expected: NotRequired[str]
    seen: NotRequired[str]
    time: NotRequired[str]
    values: NotRequired[str]
    question: NotRequired[QuestionTable]
    task: NotRequired[str]
    reducers: NotRequired[str | list[str]]
    budgets: NotRequired[float | list[float]]
    seeds: NotRequired[int]
    dataset: NotRequired[str]
    data: NotRequired[str]
    backbone: NotRequired[str]
    train: NotRequired[str]
    protocol: NotRequired[str]
    random_at_counts: NotRequired[bool]
    recipe: NotRequired[str | dict[str, Any]]
    backbone_recipe: NotRequired[dict[str, Any]]


def is_file(text: str) -> bool:
    """Whether what names a study is that of a file."""
    return text.endswith(SUFFIXES)


def find_study(text: str) -> Study:
    """A study of the catalogue by name, or of a file. Raises ValueError, OSError."""
    if is_file(text):
        return read_study(text)
    one_of("study", text, studies())
    return studies()[text]


def read_study(text: str) -> Study:
    """The study of a file. Raises ValueError that names the file, the key and what is valid; OSError."""
    path = path_of(text)
    if not path.is_file():
        raise ValueError(f"the study {text} does not exist: no such file")
    study = _declared(path) if path.suffix == ".py" else _of_table(path)
    study = dataclasses.replace(study, file=text, default_of_task=False)
    try:
        return _checked(study)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _of_table(path: Path) -> Study:
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    for kind, keys, fields in (
        ("key", table, StudyTable.__annotations__),
        ("key of [question]", table.get("question"), QuestionTable.__annotations__),
    ):
        if isinstance(keys, dict) and (unknown := [key for key in keys if key not in fields]):
            raise ValueError(f"{path}: {nearest(kind, unknown[0], fields)}")
    try:
        check(path, table, StudyTable)
    except CorruptRecord as error:
        raise ValueError(f"{path}: {error.reason}{_hint(table)}") from None
    try:
        return _made(path, table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _hint(table: dict[str, Any]) -> str:
    """What a study needs, where that is what it lacks."""
    return "" if "claim" in table else '; a study says what it claims before it runs, as in: claim = "..."'


def _made(path: Path, table: dict[str, Any]) -> Study:
    """The study of a table whose types are right. Raises ValueError."""
    values = dict(table)
    base = _base(values.pop("base", None), values.get("task"))
    for key in ("reducers", "budgets"):
        if isinstance(values.get(key), list | float | int):
            listed = values[key] if isinstance(values[key], list) else [values[key]]
            values[key] = ",".join(map(str, listed))
    if "question" in values:
        values["question"] = Question(**values["question"])
    for key in ("recipe", "backbone_recipe"):
        if key in values:
            values |= {f"quick_{key}": _recipe(values[key], getattr(base, f"quick_{key}"), key),
                       key: _recipe(values[key], getattr(base, key), key)}  # fmt: skip
    texts = {"name": path.stem, "summary": values["claim"], "source": f"{path.name}", "expected": "", "seen": "",
             "time": "not measured yet.", "values": f"recipes of {base.name}", "question": None}  # fmt: skip
    return dataclasses.replace(base, **{**texts, "tuned": base.tuned or base.name, "timing": None, **values})


def _base(name: str | None, task: str | None) -> Study:
    if task is not None:
        one_of("task", task, TASKS)
    if name is None:
        return next(study for study in studies().values() if study.task == (task or next(iter(TASKS))))
    one_of("base", name, studies())
    base = studies()[name]
    if task not in (None, base.task):
        raise ValueError(f"task {task} is not that of its base {name}, {base.task}")
    if base.timing is not None:
        raise ValueError(f"base {name} is only timed; valid: a study that trains or scores models")
    return base


def _recipe(said: str | dict[str, Any], base: Recipe | None, where: str) -> Recipe | None:
    """A published recipe by name, or that of the base with other settings. Raises ValueError."""
    if isinstance(said, str):
        one_of("recipe", said, RECIPES)
        return RECIPES[said]
    recipe = base or Recipe()
    for key, value in said.items():
        if key not in settings():
            raise ValueError(f"[{where}]: {nearest('setting', key, settings())}")
        written = "/".join(map(str, value)) if isinstance(value, list) else settings()[key].write(value)
        recipe = replace_key(recipe, key, written)
    return recipe


def _declared(path: Path) -> Study:
    """The STUDY of a Python file."""
    content = path.read_bytes()
    found = _run(path.resolve(), content)
    if not isinstance(found, Study):
        raise ValueError(f"{path} ends in no study: STUDY = Study(...) or replace(...) of one, as in studies/catalogue")
    return found


@cache
def _run(path: Path, content: bytes) -> Any:
    """What a file calls STUDY; it is run once, unless its content changes."""
    name = f"_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} does not import: {type(error).__name__}: {error}") from None
    finally:
        del sys.modules[name]
    return getattr(module, "STUDY", None)


def _checked(study: Study) -> Study:
    """The study, if its values are some. What names methods, data and models is checked with the plan of its runs."""
    if len(study.claim.split()) < 3:
        raise ValueError(f"claim {study.claim!r} is no sentence; a study says what it claims before it runs")
    if not study.name or {"/", "\0", "\n"} & set(study.name) or study.name in (".", ".."):
        raise ValueError(f"name {study.name!r} is none of a folder; valid: a word such as my-study")
    one_of("task", study.task, TASKS)
    one_of("train", study.train, TRAINS)
    if not 1 <= study.seeds <= 1000:
        raise ValueError(f"seeds {study.seeds} is outside [1, 1000]")
    if study.question is not None:
        metrics = [metric.name for metric in TASKS[study.task].metrics if metric.statistic]
        if study.question.metric is not None:
            one_of("metric of the question", study.question.metric, metrics)
    return study
