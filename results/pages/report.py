"""Everything in DIR/report/ from the records alone, also while runs are still going."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from results.pages import answer_box, curves, health_box, notes, objects, tables
from results.pages.latex import latex
from results.records import frames
from results.records.published import published_points
from results.records.store import load_records, write_bytes, write_text
from results.statistics.analysis import Analysis, analyse
from results.statistics.compare import comparable
from results.statistics.details import coverage_frame, detail_frame
from results.statistics.findings import Evidence, Health, add_findings, assess
from results.statistics.health import CHECKS
from results.statistics.joint import equal_cost, fronts
from results.statistics.question import Answered, answer

__all__ = ["Report", "build"]

_MAX_PAIRS = 100  # more than that are in pairwise.csv, equal_cost.csv only
_LOSS_POINTS = 1.0  # to the dense model, at which costs are compared where no question has a margin


@dataclass(frozen=True)
class Report:
    """What was written, and the same for the terminal."""

    paths: tuple[Path, ...]
    summary: pd.DataFrame  # one row per variant, as in summary.csv
    notes: tuple[str, ...]
    health: Health
    answers: tuple[Answered, ...]  # one for each study that declared a question
    terminal: RenderableType


def build(dirs: Sequence[Path], published: bool = False) -> Report:
    """Writes summary.csv, speed.csv, pairwise.csv, curves.csv, equal_cost.csv, cost_at_loss.csv, health.json, table.md,
    table.tex and the figures into `report/` of the first of `dirs`, and answer.json where one of them declared a
    question; several are compared in one report. Of a task with more metrics than one each further one has its table,
    its files and its figures, with its name in theirs. Only finished runs are in it; what is missing is named below the
    table.

    Raises:
        ValueError: a directory holds no study or is given twice, nothing is finished in any of them, or their tasks
            differ.
        OSError: the report cannot be written; what was there before is whole.
    """
    real = [directory.resolve() for directory in dirs]
    if twice := next((str(path) for path, own in zip(dirs, real, strict=True) if real.count(own) > 1), None):
        raise ValueError(f"{twice} is given twice")
    studies = [load_records(directory) for directory in dirs]
    runs, speeds = frames.run_frame(studies), frames.speed_frame(studies)
    if runs.empty:
        missing = notes.missing_notes(studies)
        raise ValueError("\n".join([f"nothing to report in {', '.join(map(str, dirs))}: no run is finished", *missing]))
    found = analyse(runs)
    variants = found.variants
    health = assess(Evidence(runs, variants, speeds, found.replicates, found.means), CHECKS)
    title = notes.title_of(variants)
    below = [*notes.footnotes(runs, variants, speeds, found.replicates), *notes.missing_notes(studies)]
    metrics = frames.declared_metrics(studies)
    others = [metric["name"] for metric in metrics[1:] if metric.get("statistic") and not metric.get("of")]
    analyses = [found, *(analyse(frames.run_frame(studies, metric)) for metric in others)]
    for one in analyses:
        add_findings(one.variants, health)
        below += [note for note in one.replicates.notes if note not in below]
    summaries = [tables.summary_frame(one.variants, speeds) for one in analyses]
    summary = summaries[0]
    asked = tuple(
        answer(study.study["question"], name, analyses)
        for study, name in zip(studies, frames.study_names(studies), strict=True)
        if study.study.get("question")
    )

    coverage = coverage_frame(found)
    figures = _figures(summaries, speeds, coverage, title, published)
    captions = "".join(f"- `{name}`: {caption}\n" for name, (caption, _) in figures.items())
    text = tables.markdown(summary, below, title, answer_box.markdown(asked) + health_box.markdown(health))
    text += "".join(f"\n{tables.scores_markdown(other)}" for other in summaries[1:])
    details = {}
    for metric in metrics:
        if own := [detail for detail in metrics if detail.get("of") == metric["name"]]:
            details[metric["name"]] = detail_frame(studies, [metric, *own])
            text += f"\n{objects.details_markdown(details[metric['name']], metric)}"
    if len(coverage):
        text += f"\n{objects.coverage_markdown(coverage)}"
    if len(methods := tables.glossary(variants)):
        text += f"\n## Methods\n\n{methods}"
    texts = {
        "speed.csv": speeds.to_csv(index=False),
        "health.json": json.dumps(health_box.json_values(health), indent=1, ensure_ascii=False) + "\n",
    }
    if asked:
        texts["answer.json"] = json.dumps(answer_box.json_values(asked), indent=1, ensure_ascii=False) + "\n"
    for ending, one, own in zip(["", *(f"_{metric}" for metric in others)], analyses, summaries, strict=True):
        texts[f"summary{ending}.csv"] = own.to_csv(index=False)
        texts[f"pairwise{ending}.csv"] = one.pairs.to_csv(index=False)
        if 0 < len(one.pairs) <= _MAX_PAIRS:
            text += f"\n{tables.pairs_markdown(one.pairs, own['metric_label'].iat[0] if ending else '')}"
    of_curves, more = _curves(found, speeds, _loss(asked))
    texts |= of_curves
    text += more
    if details:
        texts["details.csv"] = pd.concat(details.values()).to_csv(index=False)
    if len(coverage):
        texts["coverage.csv"] = coverage.to_csv(index=False)
    texts["table.md"] = f"{text}\n## Figures\n\n{captions}"
    texts["table.tex"] = latex(summary, below, title)
    texts["table.tex"] += "".join(f"\n{latex(other, [], title, costs=False)}" for other in summaries[1:])
    folder = dirs[0] / "report"
    folder.mkdir(exist_ok=True)
    for name, content in texts.items():
        write_text(folder / name, content)
    paths = [folder / name for name in texts]
    for name, (_, files) in figures.items():
        for kind, data in files.items():
            paths.append(folder / f"{name}.{kind}")
            write_bytes(paths[-1], data)
    written = Text(f"written to {folder}", style="dim")
    boxes = [*answer_box.terminal(asked), health_box.terminal(health)]
    terminal = Group(*boxes, tables.terminal(summaries, below, title), written)
    return Report(tuple(paths), summary, tuple(below), health, asked, terminal)


def _curves(found: Analysis, speeds: pd.DataFrame, loss_points: float) -> tuple[dict[str, str], str]:
    """Files about whole curves, of the first metric, and what table.md shows of them."""
    tested = comparable(found.variants, found.runs, found.replicates)
    of_curves = fronts.curve_frame(found.variants, found.means, tested)
    measured = equal_cost.measured(found.variants, speeds)
    equal, costs = equal_cost.equal_frame(found, measured), equal_cost.cost_frame(found, measured, loss_points)
    frames_of = {"curves.csv": of_curves, "equal_cost.csv": equal, "cost_at_loss.csv": costs}
    texts = [curves.curves_markdown(of_curves, costs), curves.equal_markdown(equal, _MAX_PAIRS)]
    files = {name: frame.to_csv(index=False) for name, frame in frames_of.items() if len(frame)}
    return files, "".join(f"\n{text}" for text in texts if text)


def _loss(asked: Sequence[Answered]) -> float:
    """The margin of a question that allows a loss, or what is usual."""
    margins = [one.question["margin_points"] for one in asked if one.question["kind"] == "within"]
    return next((margin for margin in margins if margin), _LOSS_POINTS)


def _figures(
    summaries: Sequence[pd.DataFrame], speeds: pd.DataFrame, coverage: pd.DataFrame, title: str, published: bool
) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Caption and files (by kind) of every figure that has something to show: of the first metric all, of the others
    those that show it, with its name in place of `accuracy`."""
    from results.figures import coverage as covered
    from results.figures import panels, plots, scaling  # matplotlib is half of the imports

    scaled = scaling.draw_scaling(speeds, title)
    found = {}
    for number, summary in enumerate(summaries):
        drawn = {panel: plots.draw(panel, summary, title) for panel in panels.PANELS if panel.scored or not number}
        if published:
            rows = published_points(summary)
            at_zero = summary["difference_points"].mask(summary["role"] == "dense", 0.0)  # dense minus itself
            relative = summary.assign(difference_points=at_zero)
            drawn |= {panel: plots.draw(panel, relative, title, rows) for panel in panels.PUBLISHED_PANELS}
        what = summary["metric_name"].iat[0] if number else "accuracy"
        for panel, figure in drawn.items():
            found[panel.name.replace("accuracy", what)] = (plots.caption(panel, summary), figure)
    found["coverage"] = (covered.CAPTION, covered.draw_coverage(coverage, title))
    found["scaling_img_size"] = (scaling.CAPTION, scaled)
    return {
        name: (caption, {kind: plots.figure_bytes(figure, kind) for kind in ("png", "svg")})
        for name, (caption, figure) in found.items()
        if figure is not None
    }
