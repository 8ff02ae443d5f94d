"""The question that a study declared before it ran, answered from the resamples of the report.

Non-inferiority (`within`) and superiority by a margin (`above`) are read off one paired interval of 95 %: yes where all
of it lies on the asked side of the bound, no where none of it does (Piaggio et al., CONSORT for non-inferiority, JAMA
2012). That all variants hold needs no correction for their number (intersection-union test); each alone has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from results.records.schema import Question
from results.statistics.analysis import Analysis
from results.statistics.compare import POINTS, paired_runs
from results.statistics.curves import variant_name
from results.statistics.joint.power import MAX_SEEDS, Spread

__all__ = ["Answer", "Answered", "answer"]

Verdict = Literal["yes", "no", "not decided"]

_REFERENCE = {"dense": "the dense model", "random": "random pruning at the same counts"}
_COLUMNS = {"dense": ("difference", "dense_row"), "random": ("over_random", "random_row")}
_MISSING = {
    "dense": "no dense model with the same seeds and test items is finished",
    "random": "no random pruning at its counts is finished; cropr-study run --random-at-counts adds it",
}
_MAX_TIMES = 1000  # as many test items: more of them is no advice


@dataclass(frozen=True)
class Answer:
    """For one variant (empty where none fits): the difference in points with its interval, and how many seeds or test
    items would decide it if it stays as it is; None where no number would, or nothing is left to decide."""

    verdict: Verdict
    sentence: str
    variant: str = ""
    curve: str = ""
    points: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    items: int = 0
    seeds_needed: int | None = None
    items_needed: int | None = None


@dataclass(frozen=True)
class Answered:
    """The question of one study in words, and its answers."""

    study: str
    question: Question
    asked: str
    answers: tuple[Answer, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether it holds for all variants: no where it does for one not."""
        found = {answer.verdict for answer in self.answers}
        return "no" if "no" in found else "not decided" if "not decided" in found else "yes"

    @property
    def counts(self) -> dict[str, int]:
        """How many variants have each verdict."""
        return dict(Counter(answer.verdict for answer in self.answers))


def answer(question: Question, study: str, analyses: Sequence[Analysis]) -> Answered:
    """`analyses`: one for each metric, the first first. `study`: its name in them."""
    wanted = question.get("metric")
    names = [str(found.variants["metric_name"].iat[0]) for found in analyses]
    if wanted is not None and wanted not in names:
        reason = f"Not decided: no run declares the metric {wanted!r}; they have {', '.join(names)}."
        return Answered(study, question, _asked(question, wanted), (Answer("not decided", reason),))
    found = analyses[0 if wanted is None else names.index(wanted)]
    label = str(found.variants["metric_label"].iat[0])
    own = found.variants[(found.variants["study"] == study) & (found.variants["status"] == "done")]
    fitting = own[[_fits(question, row) for row in own.itertuples()]]
    exact = fitting["variant"].str.split("@").str[0] == question["method"]
    fitting = fitting[exact] if exact.any() else fitting  # else those that its protocol or file has named more fully
    if fitting.empty:
        there = ", ".join(own.loc[~own["is_dense"], "variant"]) or "nothing"
        reason = f"Not decided: no finished variant fits it; finished are: {there}."
        return Answered(study, question, _asked(question, label), (Answer("not decided", reason),))
    answers = tuple(_answer(question, row, found) for row in fitting.reset_index(names="row").to_dict("records"))
    return Answered(study, question, _asked(question, label), answers)


def _fits(question: Question, variant: Any) -> bool:
    asked, name, budget = question["method"], variant.variant, question.get("budget")
    if budget is not None and not math.isclose(variant.budget_asked, budget):
        return False
    if asked == "all":
        return variant.role == "method"
    begins = name.startswith(asked) and name[len(asked) : len(asked) + 1] in ("", ":", "@", "#")
    return not variant.is_dense and (begins or variant.reducer == asked)


def _answer(question: Question, variant: dict[str, Any], found: Analysis) -> Answer:
    column, reference = _COLUMNS[question["against"]]
    points, low, high = (float(variant[f"{column}{end}_points"]) for end in ("", "_low", "_high"))
    claim = f"{variant_name(pd.Series(variant))} is {{}}{_claim(question)}"
    if math.isnan(low):
        sentence = f"Not decided whether {claim.format('')}: {_MISSING[question['against']]}."
        return Answer("not decided", sentence, variant["variant"], variant["curve"], seeds=int(variant["seeds"]))
    ours, theirs = paired_runs(variant["row"], variant[reference], found.variants, found.runs, found.replicates)
    bound = question["margin_points"] * (-1 if question["kind"] == "within" else 1)
    items = int(variant["num_items"])
    seen = f"{_points(points)} points [{_points(low)}, {_points(high)}] ({_count(len(ours), 'seed')}, {items:,} items)"
    verdict: Verdict = "yes" if low >= bound else "no" if high < bound else "not decided"
    said = {"yes": f"Yes: {claim.format('')}", "no": f"No: {claim.format('not ')}",
            "not decided": f"Not decided whether {claim.format('')}"}[verdict]  # fmt: skip
    seeds_needed, items_needed, advice = None, None, ""
    if verdict == "not decided":
        replicates, clusters = found.replicates, int(variant["clusters"])
        gaps = replicates.observed[ours] - replicates.observed[theirs]
        spread = Spread.of(gaps, replicates.accuracy[ours] - replicates.accuracy[theirs], clusters)
        seeds_needed, items_needed, advice = _advice(spread, abs(points - bound) / POINTS, items)
    return Answer(
        verdict, f"{said}: {seen}.{advice}", variant["variant"], variant["curve"], points, low, high, len(ours), items,
        seeds_needed, items_needed,
    )  # fmt: skip


def _advice(spread: Spread, gap: float, items: int) -> tuple[int | None, int | None, str]:
    """Seeds and items that would decide it, and sentences of them. `gap`: from the difference to the bound, a share."""
    seeds, clusters = spread.seeds_for(gap), spread.clusters_for(gap)
    seeds = None if seeds is None else max(seeds, spread.num_seeds + 1)
    times = None if clusters is None else max(clusters, spread.num_clusters + 1) / spread.num_clusters
    needed = None if times is None or times > _MAX_TIMES else math.ceil(items * times)
    ways = [] if seeds is None else [f"{seeds} seeds on these items"]
    ways += [] if needed is None else [f"{_two_digits(needed):,} test items with {_count(spread.num_seeds, 'seed')}"]
    said = f" About {' or '.join(ways)} would decide it, if the difference stays as it is." if ways else ""
    if spread.num_seeds == 1:
        said += " What other seeds would give cannot be told from one."
    elif seeds is None:
        said += f" Seeds alone cannot: with {MAX_SEEDS} of them {_left(spread, MAX_SEEDS, 1)} is left."
    if needed is None:
        left = _left(spread, spread.num_seeds, _MAX_TIMES)
        said += f" Test items alone cannot: with {_MAX_TIMES:,} times as many {left} is left."
    return seeds, needed, said


def _left(spread: Spread, seeds: int, times: int) -> str:
    return f"±{POINTS * spread.half_width(seeds, times * spread.num_clusters):.2g} points"


def _asked(question: Question, metric: str) -> str:
    who = "every method" if question["method"] == "all" else question["method"]
    budget = question.get("budget")
    return f"Is {who}{'' if budget is None else f' at {budget:g}'} {_claim(question)}, in {metric}?"


def _claim(question: Question) -> str:
    margin, reference = question["margin_points"], _REFERENCE[question["against"]]
    if not margin:
        return f"{'no worse than' if question['kind'] == 'within' else 'at least as good as'} {reference}"
    size = f"{margin:g} point{'' if margin == 1 else 's'}"
    return f"within {size} of {reference}" if question["kind"] == "within" else f"at least {size} above {reference}"


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _two_digits(number: int) -> int:
    """Rounded up to two significant digits."""
    unit = 10 ** max(0, int(np.log10(number)) - 1)
    return -(-number // unit) * unit
