"""Of a report: what each of its files is, the runs behind each variant, and those that are missing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from results.html.content import Point, Unfinished
from results.records.store import Records
from results.statistics.analysis import Analysis

__all__ = ["guide", "points_of", "unfinished"]

_FILES = {  # the beginning of a name, and what such a file is
    "index.html": "The report as one page to explore and to send on; it needs no network.",
    "README.md": "This list.",
    "table.md": "The table in Markdown, with the health box, further tables and what the figures are.",
    "table.tex": "The table in LaTeX (booktabs).",
    "summary": "One row per variant, all figures in full precision, units in the names of the columns.",
    "pairwise": "Differences between methods at the same budget, with intervals and corrected p.",
    "speed.csv": "One row per variant of every timing.",
    "health.json": "The health box for other programs, with the names of all variants.",
    "curves.csv": "Hypervolume of every curve, and its difference to random pruning.",
    "equal_cost.csv": "Differences between curves at equal MACs and at equal latency.",
    "cost_at_loss.csv": "What each curve costs at a given loss to the dense model.",
    "answer.json": "The declared question and its answer, for other programs.",
    "details.csv": "Metrics in detail, by size of objects.",
    "reliability.csv": "Items, mean confidence and accuracy of each bin of confidence.",
    "robustness.csv": "Accuracy under corruptions of the test items, with differences to dense and to random pruning.",
    "kept.csv": "Live patches: recall of the foreground, IoU between seeds and methods, consistency of scores.",
    "coverage.csv": "Objects with a live token behind each reduction.",
}


def guide(names: Iterable[str], captions: Mapping[str, str]) -> str:
    """README.md of a report: a line for each file of `names`; `captions` of figures by their stem."""
    lines = []
    for name in sorted(names):
        stem, _, kind = name.rpartition(".")
        if stem in captions:
            if kind == "png":  # three kinds of one figure are one line
                kinds = " · ".join(f"`{stem}.{own}`" for own in ("png", "svg", "pdf"))
                lines.append(f"- {kinds}: {captions[stem]}")
            continue
        said = next((said for beginning, said in _FILES.items() if name.startswith(beginning)), None)
        lines.append(f"- `{name}`: {said}" if said else f"- `{name}`")
    return "# What lies here\n\nAll of it is made from the records; writing it again loses nothing.\n\n" + "".join(
        f"{line}\n" for line in lines
    )


def points_of(analyses: Sequence[Analysis], command: Callable[[Path, int], str] | None = None) -> list[Point]:
    """Of every variant its runs, with the metrics of all `analyses` in percent."""
    runs = analyses[0].runs
    ids, seeds, paths = (runs[column].to_numpy() for column in ("id", "seed", "path"))
    metrics = [100 * one.runs["metric"].to_numpy(dtype=float) for one in analyses]
    points = []
    for members in analyses[0].variants["members"]:
        made = [run for run in members if ids[run]]  # what was only timed has no runs
        again = command(Path(paths[made[0]]), int(max(seeds[made])) + 1) if command and made else ""
        values = [[float(value) for value in np.round(metric[made], 6)] for metric in metrics]
        points.append(Point([str(ids[run]) for run in made], [int(seeds[run]) for run in made], values, again))
    return points


def unfinished(studies: Sequence[Records]) -> list[Unfinished]:
    """Failed, broken, running and pending runs, in this order for each study."""
    found = []
    for study in studies:
        name = study.directory.resolve().name
        found += [Unfinished(name, run, "failed", error) for run, error in study.failures.items()]
        found += [Unfinished(name, error.path.parent.name, "broken", error.reason) for error in study.broken]
        waiting = sorted(study.unfinished.items(), key=lambda item: (item[1].state != "running", item[0]))
        found += [Unfinished(name, run, status.state, status.detail) for run, status in waiting]
    return found
