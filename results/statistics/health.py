"""What in the records casts doubt on figures of the report: a function for each check, all of them in CHECKS.

Intervals are of 95 %, differences in points. A check looks at variants one by one, or in pairs, or at those of one
timing, and yields what it saw of each; where a record is too old to tell, or holds no such thing, it says so.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from results.statistics.bootstrap import smallest_p_over_seeds
from results.statistics.compare import same_training
from results.statistics.curves import GROUP
from results.statistics.findings import Check, Evidence, Look

__all__ = ["CHECKS"]

MAX_TIED = 0.01  # share of images
MAX_MASK_GAP = 0.05  # share of patches
MAX_POINTS = 1.0  # between two figures of one run that should be alike
SEED_ALPHA = 0.01
ALPHA = 0.05
MIN_ORDERED = 0.5  # share of the pairs of a timing
MIN_LATENCY_MS = 10.0


def rising_curve(evidence: Evidence) -> Iterator[Look]:
    """A budget whose paired interval lies above that of the next larger one of the same method."""
    done = evidence.done()
    curves = done[~done["is_dense"]].groupby([*GROUP, "curve"], dropna=False)
    pairs = [pair for _, rows in curves for pair in pairwise(rows.sort_values("budget_reached").index)]
    for row in evidence.differences(pairs).itertuples():
        seen = f"with fewer MACs it is better: {_difference(row)}" if row.difference_low_points > 0 else ""
        yield Look((row.row, row.other), None if np.isnan(row.difference_low_points) else seen)


def below_random(evidence: Evidence) -> Iterator[Look]:
    """A method whose interval lies below random pruning at its counts, or at its budget where no run has its counts."""
    pairs = []
    for _, group in evidence.done().groupby(GROUP, dropna=False):
        chance = group[group["role"] == "random"]
        for row, variant in group[group["role"] == "method"].iterrows():
            if not np.isnan(variant["over_random_high_points"]):
                numbers = _difference(variant, "over_random")
                below = variant["over_random_high_points"] < 0
                yield Look((row,), f"minus random pruning at the same counts: {numbers}" if below else "")
                continue
            same = chance[chance["budget_asked"] == variant["budget_asked"]]
            if same.empty:
                yield Look((row,), None)
            else:
                pairs.append((row, same_training(same, variant)))
    for row in evidence.differences(pairs).itertuples():
        seen = f"minus random pruning at the same budget: {_difference(row)}" if row.difference_high_points < 0 else ""
        yield Look((row.row,), None if np.isnan(row.difference_high_points) else seen)


def ties(evidence: Evidence) -> Iterator[Look]:
    """Images of which a reducer had to choose among equal scores, in the worst of its seeds."""
    dense = evidence.variants["is_dense"]
    for row, held in evidence.lists("tied_at_cut"):
        if not dense[row]:
            share, place = max(
                ((share, place) for (shares,) in held for place, share in enumerate(shares, 1)), default=(0, 0)
            )
            seen = f"{share:.1%} of images have equal scores at the cut of reducer {place}" if share > MAX_TIED else ""
            yield Look((row,), seen if held else None)


def mask_gap(evidence: Evidence) -> Iterator[Look]:
    """A training mask that keeps another share than it was asked to, in the worst of its seeds."""
    for row, held in evidence.lists("mask_asked", "mask_kept"):
        gaps = [
            (abs(asked - kept), asked, kept, place)
            for both in held
            for place, (asked, kept) in enumerate(zip(*both, strict=False), 1)
        ]
        if gaps:
            gap, asked, kept, place = max(gaps)
            text = f"mask {place} was asked to keep {asked:.1%} of patches and keeps {kept:.1%}"
            yield Look((row,), text if gap > MAX_MASK_GAP else "")


def mask_score_gap(evidence: Evidence) -> Iterator[Look]:
    """Another metric under the mask of training than as deployed."""
    done = evidence.done()
    yield from _apart(done[done["metric_masked"].notna()], "metric_masked", "under the mask of training", both=True)


def loss_above_start(evidence: Evidence) -> Iterator[Look]:
    """A last epoch whose training loss is above that of the first (or no number), in any of the seeds."""
    for row, held in evidence.lists("train_loss"):
        trained = [losses for (losses,) in held if len(losses) > 1]
        worse = [f"{losses[0]:.3g} → {losses[-1]:.3g}" for losses in trained if not losses[-1] <= losses[0]]
        seen = f"training loss, first → last epoch: {', '.join(worse)} ({len(worse)} of {len(trained)} runs)"
        if evidence.variants["epochs"][row] > 1:
            yield Look((row,), (seen if worse else "") if trained else None)


def best_above_final(evidence: Evidence) -> Iterator[Look]:
    """A best epoch far above the last one, the mean over seeds of both, by the items that epochs are scored on."""
    yield from _apart(evidence.done(), "metric_best", "in the best epoch", base="metric_last")


def pulled_away(evidence: Evidence) -> Iterator[Look]:
    """A dense model that fine-tuning first makes worse, in an epoch or in the end."""
    done = evidence.done()
    for row, before, lowest, last in done.loc[
        done["is_dense"], ["metric_before", "metric_lowest", "metric_last"]
    ].itertuples():
        seen = f"{before:.1%} before fine-tuning, {lowest:.1%} in its worst epoch, {last:.1%} in the last"
        worse = 100 * (before - lowest) > MAX_POINTS or last < before
        yield Look((row,), None if np.isnan(before - lowest) else seen if worse else "")


def seeds_apart(evidence: Evidence) -> Iterator[Look]:
    """Cochran's Q, chi-square of S − 1 degrees: squared distances of the seeds from their mean over the variance that
    drawing clusters of test items gives one of them. Seeds share their items, which makes the test conservative."""
    replicates = evidence.replicates
    for row, rows in evidence.done()["members"].items():
        if len(rows) < 2:
            continue
        values, variance = replicates.observed[rows], replicates.accuracy[rows].var(axis=1).mean()
        if not variance > 0:  # NaN without predictions; zero where every item is hit
            yield Look((row,), None)
            continue
        p = chdtrc(len(rows) - 1, ((values - values.mean()) ** 2).sum() / variance)
        shown = ", ".join(f"{100 * value:.1f}" for value in values)
        seen = f"{shown} % by seed, where items explain ± {196 * variance**0.5:.1f} points of one (p {_p(p)})"
        yield Look((row,), seen if p < SEED_ALPHA else "")


def few_seeds(evidence: Evidence) -> Iterator[Look]:
    """Seeds with which the report's p cannot fall below 0.05 by what differs between seeds, see
    `bootstrap.smallest_p_over_seeds`."""
    for _, study in evidence.done().groupby("study", sort=False):
        for seeds, rows in study.groupby("seeds"):
            smallest = smallest_p_over_seeds(int(seeds), evidence.means.shape[1])
            seen = (
                f"with {seeds} seed no p over seeds is below {smallest:.2g}; the p values here rest on test items and "
                "say nothing about other seeds"
            )
            yield Look(tuple(rows.index), seen if smallest >= ALPHA else "", marks=len(rows) < len(study))


def unranked_speed(evidence: Evidence) -> Iterator[Look]:
    """A timing that orders fewer than half of the pairs of its variants. Two are in order where their intervals from
    5th to 95th percentile over rounds do not meet: of the ratio to dense, which is taken within rounds, or of images/s
    where there is no ratio. Concerned are those that meet their neighbour in rank."""
    for timing in evidence.timings():
        of = "images_per_s" if timing["ratio_to_dense_p5"].isna().any() else "ratio_to_dense"
        rows = timing[timing["timed_as"] == ""].sort_values(f"{of}_median")  # a model that several have was timed once
        low, high = rows[f"{of}_p5"].to_numpy(), rows[f"{of}_p95"].to_numpy()
        num_pairs = len(rows) * (len(rows) - 1) // 2
        if np.isnan([low, high]).any() or not num_pairs:
            yield Look(tuple(rows["row"]), None)
            continue
        ordered = int((low[:, None] > high).sum())
        meets = low[1:] <= high[:-1]
        concerned = rows[np.append(meets, False) | np.insert(meets, 0, False)]
        what = "× dense" if of == "ratio_to_dense" else "images/s"
        seen = f"{ordered} of {num_pairs} pairs have intervals of {what} that do not meet"
        bad = ordered < MIN_ORDERED * num_pairs
        yield Look(tuple(concerned["row"] if bad else rows["row"]), seen if bad else "")


def overhead_latency(evidence: Evidence) -> Iterator[Look]:
    """A dense model whose pass of one image takes so little on a CPU that differences are those of calls, not MACs."""
    for timing in evidence.timings():
        dense = timing[timing["role"] == "dense"]
        if (timing["device"] != "cpu").any():
            continue
        latency = dense["latency_ms_median"].min()
        seen = f"the dense model takes {latency:.2g} ms for one image on a CPU"
        rows = tuple(timing["row"])
        yield Look(rows, None if np.isnan(latency) else seen if latency < MIN_LATENCY_MS else "", marks=False)


CHECKS = (
    Check("curve rises", rising_curve, "interval of two budgets",
          "Add seeds; if it stays, look for a budget that is trained with other options or did not converge."),
    Check("below random", below_random, "random pruning at the same counts or budget",
          "Look at its scores and their sign; do not report its choice as worth anything."),
    Check("ties at the cut", ties, "tied_at_cut",
          "Look for scores that are constant or of too low precision: position, not score, chooses here."),
    Check("mask keeps another share", mask_gap, "masked",
          "Raise the weight of the ratio loss or train longer: it was not trained for the budget it is run at."),
    Check("mask scores differently", mask_score_gap, "metric under a mask",
          "Compare the tokens seen in training and deployed; report both figures."),
    Check("loss above its start", loss_above_start, "loss of two epochs",
          "Lower the learning rate or look for a term that grows; leave the run out until it converges."),
    Check("best epoch above final", best_above_final, "metric of epochs",
          "Train with a schedule that ends at rest; never report the best epoch, it is chosen by its score."),
    Check("backbone pulled away", pulled_away, "metric before fine-tuning",
          "Lower the learning rate of the backbone (backbone_lr, layer_decay), or warm up longer."),
    Check("seeds differ", seeds_apart, "two seeds with predictions",
          "Add seeds and look at the outlying one; quote the spread over seeds, not that over items."),
    Check("too few seeds", few_seeds, "finished run",
          "Run more seeds: from two on the report counts what they differ by; six are needed for a sign test over "
          "seeds below 0.05."),
    Check("speeds not ranked", unranked_speed, "interval of two throughputs",
          "Time again on an idle machine with more rounds; until then say nothing about which is faster.", "speed"),
    Check("latency is overhead", overhead_latency, "latency of a dense model on a CPU",
          "Claim no latency from this model; time a larger backbone or image.", "speed"),
)  # fmt: skip


def _apart(variants: pd.DataFrame, column: str, where: str, both: bool = False, base: str = "metric") -> Iterator[Look]:
    """Variants whose `column` is more than MAX_POINTS above `base`, or below as well if `both`."""
    for row, other, metric in variants[[column, base]].itertuples():
        gap = 100 * (other - metric)
        seen = f"{100 * other:.1f} % {where}, {100 * metric:.1f} % in the end" + (" as deployed" if both else "")
        found = (abs(gap) if both else gap) > MAX_POINTS
        yield Look((row,), None if np.isnan(gap) else seen if found else "")


def _difference(row: Any, what: str = "difference") -> str:
    points, low, high = (getattr(row, f"{what}{part}_points") for part in ("", "_low", "_high"))
    return f"{points:+.1f} points [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
