"""What kept records say of a method: accuracy at equal cost beside random pruning and Cropr, speed beside random
pruning at the same counts. Figures are those of the report (results/statistics) and of `bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd

from results.figures.numbers import NOTHING, fixed, signed
from results.records.frames import run_frame
from results.records.store import Records, load_records
from results.statistics.analysis import Analysis, analyse
from results.statistics.compare import POINTS, differences, trained_alike
from studies.catalogue import studies
from studies.docs.rows import head, line
from studies.docs.speed import RECORDS

__all__ = ["about", "measured", "overview"]

FIELD = "field"
SPEED = "speed/methods"  # of `bench`


def about() -> list[str]:
    """What the figures of all methods rest on."""
    records, found = _field()
    run = next(iter(records.runs.values()))
    origin = run["provenance"]
    seeds = sorted(found.runs["seed"].dropna().astype(int).unique())
    dense = found.variants[found.variants["is_dense"]].iloc[0]
    return [
        f"**Accuracy**: `cropr-study run {FIELD}`, {dense['backbone']} on {dense['dataset']}, top-1 of "
        f"{int(dense['num_items']):,} test items, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, commit "
        f"{origin['commit'][:7]}, {origin['device_name']}. ± and brackets: 95 % intervals over test items"
        f"{' alone: with one seed they say nothing of other seeds' if len(seeds) == 1 else ' and seeds'}. The dense "
        f"model: {_accuracy(dense)} %. At a budget: trained at that share of the dense MACs. Off the shelf: the "
        "fine-tuned dense model, reduced. Minus random: random pruning that leaves as many tokens at every block, "
        "trained or not likewise. The standard five methods have learning rates chosen on validation items, the others "
        "the recipe as it is.",
        *_about_speed(),
    ]


def _about_speed() -> list[str]:
    timings = _timings()
    if not timings:
        return []
    clock = timings[0]
    rounds = ", ".join(f"{one['rounds']} at batch {one['batch_size']}" for one in timings)
    return [
        "",
        f"**Speed**: `cropr-study bench`, {clock['backbone']} at {clock['img_size']} px, random weights, "
        f"{clock['dtype']}, {clock['num_threads']} threads of an {clock['device_name']}, commit "
        f"{clock['provenance']['commit'][:7]}; medians [5th, 95th percentile] of interleaved rounds ({rounds}), half "
        "of the dense MACs. Above 1 is possible: what leaves inside a block spares that block's MLP, where random "
        "pruning at the same counts works behind it.",
    ]


def measured(name: str) -> list[str]:
    """Two tables in Markdown of the method `name`; nothing where no record has it."""
    accuracy, speed = list(_accuracy_rows(name)), list(_speed_rows(name))
    found = []
    if accuracy:
        budgets = [f"{budget:g}" for budget in _budgets()]
        found += ["", *head("at equal cost", *budgets), *accuracy]
    if speed:
        found += ["", *head("speed", "MAC ratio", "× dense", "× random at its counts"), *speed]
    return found


def overview() -> list[str]:
    """One line a method, the most accurate at the smallest budget first: top-1 at each, trained and off the shelf."""
    trained, shelf = (_own(shelf=value).set_index(["reducer", "budget_asked"]) for value in (False, True))
    budgets = _budgets()
    named = [how + f"{budget:g}" for how in ("at ", "off the shelf, ") for budget in budgets]
    lines = head("top-1, %", *named)
    for name, best in trained.xs(budgets[-1], level="budget_asked").sort_values("metric", ascending=False).iterrows():
        cells = [
            _accuracy(frame.loc[(name, budget)]) if (name, budget) in frame.index else NOTHING
            for frame in (trained, shelf)
            for budget in budgets
        ]
        lines.append(line(f"[{best['label'].split(' (')[0]}](#{name})", *cells))
    return lines


def _own(shelf: bool) -> pd.DataFrame:
    """Variants of methods as they are by default, trained at their budgets or off the `shelf`."""
    variants = _field()[1].variants
    options = variants["options"].map(json.loads)
    plain = options.map(lambda given: "like" not in given and ("trained_at" in given) == shelf)
    return variants[variants["role"].isin(["method", "random"]) & plain]


@cache
def _field() -> tuple[Records, Analysis]:
    records = load_records(RECORDS / FIELD)
    return records, analyse(run_frame([records], "top1"))


def _yardstick() -> str:
    """What the study of the field asks about."""
    question = studies()[FIELD].question
    assert question is not None
    return question.method


@cache
def _timings() -> list[dict[str, Any]]:
    """Of `bench`, smallest batch first."""
    if not (RECORDS / SPEED).exists():
        return []
    return sorted(load_records(RECORDS / SPEED).speeds.values(), key=lambda record: record["batch_size"])


def _budgets() -> list[float]:
    return sorted(_field()[1].variants["budget_asked"].dropna().unique(), reverse=True)


def _accuracy_rows(name: str) -> Iterator[str]:
    for shelf, title in ((False, "trained"), (True, "off the shelf")):
        variants = _own(shelf)
        rows = variants[variants["reducer"] == name].sort_values("budget_asked", ascending=False)
        if rows.empty:
            continue
        yield line(f"{title}: top-1, %", *map(_accuracy, rows.to_dict("records")))
        if rows["over_random_points"].notna().any():
            gaps = zip(*(rows[f"over_random{end}_points"] for end in ("", "_low", "_high")), strict=True)
            yield line(f"{title}: minus random, points", *(_interval(*gap) for gap in gaps))
        if not shelf and name != _yardstick():
            yield line(f"{title}: minus {_yardstick()}, points", *(_minus_yardstick(row) for _, row in rows.iterrows()))


def _minus_yardstick(row: pd.Series) -> str:
    """At the same budget, with the interval."""
    found = _field()[1]
    others = found.variants[found.variants["budget_asked"] == row["budget_asked"]]
    others = others[(others["reducer"] == _yardstick()) & trained_alike(others, row)]
    if others.empty:
        return NOTHING
    pair = [(int(row.name), int(others.index[0]))]
    gap = differences(pair, found.variants, found.runs, found.replicates, found.means).iloc[0]
    return _interval(*(gap[f"difference{end}_points"] for end in ("", "_low", "_high")))


def _speed_rows(name: str) -> Iterator[str]:
    for record in _timings():
        for entry in record["variants"]:
            if entry["reducer"] == name and entry.get("role") != "dense":
                ratios = (_spread(entry.get(key)) for key in ("ratio", "ratio_to_random"))
                yield line(f"batch {record['batch_size']}", fixed(entry["mac_ratio"], 2), *ratios)


def _accuracy(row: pd.Series | dict[str, Any]) -> str:
    half = (row["metric_high"] - row["metric_low"]) / 2
    return f"{fixed(POINTS * row['metric'], 1)} ± {fixed(POINTS * half, 1)}"


def _interval(middle: float, low: float, high: float) -> str:
    return NOTHING if pd.isna(middle) else f"{signed(middle)} [{signed(low)}, {signed(high)}]"


def _spread(value: dict[str, Any] | None) -> str:
    if value is None or value["median"] is None:
        return NOTHING
    median, p5, p95 = (fixed(value[key], 2) for key in ("median", "p5", "p95"))
    return f"{median} [{p5}, {p95}]"
