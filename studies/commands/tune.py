"""`tune`: the values of each method's grid, tried on validation items; the best of them go into chosen.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import log
from pathlib import Path
from typing import Any

from cropr.method import GRID_SIZE, Method
from results.records.store import read_result, write_json
from results.statistics.health import MAX_POINTS
from studies.commands.reading.asked import Options, recipe_of, reducers_of, study_of
from studies.commands.reading.options import parse_budgets
from studies.commands.run import configs_of
from studies.config import Recipe, RunConfig
from studies.study import own_way
from studies.tasks import TASKS, Metric

__all__ = ["Trial", "choose", "directory", "lines", "trials"]


@dataclass(frozen=True)
class Trial:
    """One combination of a method's grid, and its run of each seed."""

    method: Method
    factors: dict[str, float]
    runs: list[RunConfig]


def directory(options: Options) -> Path:
    """Where trials are kept unless `--out` says otherwise."""
    return options.out or Path("out") / f"{options.name}-tune"


def trials(options: Options) -> list[Trial]:
    """All that are to be run, as many for each method, at the middle one of the study's budgets, or of two the lower.
    Raises ValueError."""
    study = study_of(options)
    if study.train != "recipe" or study.protocol != "own" or options.recipe is not None:
        raise ValueError("tune chooses values of the study's own recipe: no --train, --protocol or --recipe")
    methods = reducers_of(options)
    names = [method.name for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"values are chosen for a method, and {twice} is asked for twice")
    if scored := next((str(method) for method in methods if method.trained_at is not None), None):
        raise ValueError(f"values are chosen for what is trained, and {scored} is trained elsewhere")
    budgets = sorted(parse_budgets(study.budgets))
    at = replace(
        options, budgets=str(budgets[(len(budgets) - 1) // 2]), seeds=options.seeds or 1, random_at_counts=False
    )
    return [trial for method in methods for trial in _of_method(method, at, recipe_of(options))]


def _of_method(method: Method, options: Options, recipe: Recipe) -> Iterator[Trial]:
    grid = [dict(zip(method.grid, values, strict=True)) for values in product(*method.grid.values())]
    if len(grid) != GRID_SIZE:
        raise ValueError(f"the grid of {method.name} has {len(grid)} combinations; every method has {GRID_SIZE}")
    kept = {setting.partition("=")[0] for setting in options.settings}
    for factors in grid:
        alone = replace(options, reducers=str(method))
        configs = configs_of(alone, partial(own_way, factors={method.name: factors}, kept=kept))
        yield Trial(method, factors, [replace(config, split="val") for config in configs])


def choose(tried: list[Trial], options: Options, command: str) -> Path:
    """Write the best combination of each method, with all that were tried: one that never pulls the backbone away, if
    there is any; of equal ones the nearest to the recipe. Raises OSError, CorruptRecord."""
    out, metric = options.directory, TASKS[study_of(options).task].metrics[0]
    methods: dict[str, Any] = {}
    for method in {trial.method.name: trial.method for trial in tried}.values():
        rows = [_row(trial, out, metric) for trial in tried if trial.method.name == method.name]
        sign = 1 if metric.higher_is_better else -1
        best = max(rows, key=lambda row: (
            row["fallen"] <= MAX_POINTS, sign * row["mean"], -sum(abs(log(f)) for f in row["factors"].values())
        ))  # fmt: skip
        methods[method.name] = {"factors": best["factors"], "mean": best["mean"], "trials": rows}
    record = read_result(out / "runs" / tried[0].runs[0].id / "result.json")
    path = out / "chosen.json"
    write_json(path, {
        "study": options.name, "task": record["task"], "dataset": record["dataset"], "backbone": record["backbone"],
        "budget": tried[-1].runs[0].budget, "seeds": len(tried[0].runs), "metric": metric.name, "split": "val",
        "num_items": record["num_items"], "command": command,
        "source": {key: record["provenance"].get(key) for key in ("commit", "dirty", "device_name", "finished")},
        "methods": methods,
    })  # fmt: skip
    return path


def _row(trial: Trial, out: Path, metric: Metric) -> dict[str, Any]:
    records = [read_result(out / "runs" / run.id / "result.json") for run in trial.runs]
    values = [record["metrics"]["final"][metric.name] for record in records]
    return {
        "factors": trial.factors, "settings": dict(trial.runs[0].own), "runs": [run.id for run in trial.runs],
        metric.name: values, "mean": sum(values) / len(values),
        "fallen": max(_fallen(record, metric) for record in records),
    }  # fmt: skip


def _fallen(record: dict[str, Any], metric: Metric) -> float:
    """Points by which a dense model's worst epoch was below the one before fine-tuning. What others were before is no
    measure: their rates may still grow."""
    epochs = (record.get("validation") or []) if record["role"] == "dense" else []
    sign = 100 if metric.higher_is_better else -100
    before = [epoch[metric.name] for epoch in epochs if epoch["epoch"] == 0]
    return max((sign * (start - epoch[metric.name]) for start in before for epoch in epochs), default=0.0)


def lines(chosen: dict[str, Any]) -> Iterator[str]:
    """A line for each method, for a reader."""
    for name, method in chosen["methods"].items():
        told = [f"{_said(row['factors'])} {100 * row['mean']:.1f}{_pulled(row)}" for row in method["trials"]]
        yield f"{name}: {_said(method['factors'])} of {'; '.join(told)} ({chosen['metric']}, %, on validation items)"


def _pulled(row: dict[str, Any]) -> str:
    return f" (fell by {row['fallen']:.1f} at first)" if row["fallen"] > MAX_POINTS else ""


def _said(factors: dict[str, float]) -> str:
    return ", ".join(f"{key} × {factor:g}" for key, factor in factors.items())
