"""Everything in DIR/report/ from the records alone, also while runs are still going."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from results.html.content import About, Content, Grid
from results.html.page import page as html
from results.pages import answer_box, health_box, notes, tables
from results.pages.latex import IN_LATEX, latex
from results.pages.made import guide, points_of, unfinished
from results.pages.sections import curves, further, kept, live, missed, objects, robustness
from results.records import frames
from results.records.items import Items, read_items
from results.records.published import published_points
from results.records.store import CorruptRecord, Records, load_records, write_bytes
from results.statistics.analysis import Analysis, analyse
from results.statistics.compare import comparable
from results.statistics.details import coverage_frame, detail_frame, light
from results.statistics.findings import Evidence, Health, add_findings, assess
from results.statistics.health import CHECKS
from results.statistics.insight.calibration import ECE, add_calibration, reliability_frame
from results.statistics.insight.kept import kept_frame
from results.statistics.insight.robustness import add_robustness, robustness_frame
from results.statistics.joint import equal_cost, fronts
from results.statistics.question import Answered, answer

__all__ = ["Page", "Report", "build"]

Figures = dict[str, tuple[str, dict[str, bytes]]]  # caption, and files by kind

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


@dataclass(frozen=True)
class Page:
    """What index.html says that no run holds: what a study claims or asks (of its name and its study.json), the command
    that makes the runs of a variant again (of the folder of one of them, and how many seeds)."""

    about: Callable[[str, dict[str, Any]], About] | None = None
    command: Callable[[Path, int], str] | None = None

    def said(self, studies: Sequence[Records], asked: Sequence[Answered]) -> list[About]:
        if self.about is None:
            return []
        answered = {one.study: one for one in asked}
        said = [self.about(name, study.study) for name, study in zip(frames.study_names(studies), studies, strict=True)]
        return [answer_box.about(each, answered.get(each.study)) for each in said]


def build(dirs: Sequence[Path], published: bool = False, page: Page | None = None) -> Report:
    """Writes into `report/` of the first of `dirs`: summary.csv, speed.csv, pairwise.csv, what is known of whole curves
    (curves.csv, equal_cost.csv, cost_at_loss.csv), health.json, table.md, table.tex, the figures, answer.json where a
    study declared a question, with `page` index.html, and README.md, which says what each file is. Several directories
    are compared in one report. Of a task with more metrics than one each further one has its table, its files and its
    figures, with its name in theirs. Only finished runs are in it; what is missing is named below the table.

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
    metrics = frames.declared_metrics(studies)
    beside = {metric["name"]: frames.run_frame(studies, metric["name"]) for metric in metrics if light(metric)}
    found = analyse(runs, beside)
    variants, items = found.variants, _items(studies)
    add_calibration(found)
    corrupted = robustness_frame(found)
    add_robustness(variants, corrupted)
    reliability = reliability_frame(found)
    health = assess(Evidence(runs, variants, speeds, found.replicates, found.means), CHECKS)
    title = notes.title_of(variants)
    below = notes.footnotes(runs, variants, speeds, found.replicates)
    missing = notes.missing_notes(studies)
    others = [metric["name"] for metric in metrics[1:] if metric.get("statistic") and not metric.get("of")]
    analyses = [found, *(analyse(frames.run_frame(studies, metric)) for metric in others)]
    for one in analyses:
        add_findings(one.variants, health)
        below += [note for note in one.replicates.notes if note not in below]
    summaries = [tables.summary_frame(one.variants, speeds) for one in analyses]
    asked = tuple(
        answer(study.study["question"], name, analyses)
        for study, name in zip(studies, frames.study_names(studies), strict=True)
        if study.study.get("question")
    )
    scores = [tables.texts_of(one, tables.scores_of(one) if i else None) for i, one in enumerate(summaries)]

    coverage, patches = coverage_frame(found), kept_frame(found)
    details = {
        metric["name"]: detail_frame(studies, [metric, *own], found.beside)
        for metric in metrics
        if (own := [one for one in metrics if one.get("of") == metric["name"] and one.get("statistic") != ECE])
    }
    figures = _figures(summaries, speeds, coverage, reliability, title, published)
    sections = [grid for one, own in zip(analyses, summaries, strict=True)
                for grid in further.change_grids(one, own["metric_label"].iat[0])]  # fmt: skip
    sections += [grid for metric in metrics if metric["name"] in details
                for grid in objects.details_grids(details[metric["name"]], metric)]  # fmt: skip
    sections += [objects.coverage_grid(coverage)] if len(coverage) else []
    sections += [robustness.robustness_grid(corrupted, metrics[0]["label"])] if len(corrupted) else []
    sections += kept.kept_grids(patches, _MAX_PAIRS) if len(patches) else []
    lost = missed.missed_of(found)
    sections += filter(None, [further.break_even_grid(speeds), missed.missed_grid(lost, items)])
    sections += [tables.glossary(variants)] if variants["about"].notna().any() else []
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
            sections.append(tables.pairs_grid(one.pairs, own["metric_label"].iat[0] if ending else ""))
    of_curves, grids = _curves(found, speeds, _loss(asked))
    texts |= of_curves
    sections += grids
    if details:
        texts["details.csv"] = pd.concat(details.values()).to_csv(index=False)
    if len(reliability):
        texts["reliability.csv"] = reliability.to_csv(index=False)
    if len(corrupted):
        texts["robustness.csv"] = corrupted.to_csv(index=False)
    if len(patches):
        texts["kept.csv"] = patches.to_csv(index=False)
    if len(coverage):
        texts["coverage.csv"] = coverage.to_csv(index=False)
    box = answer_box.markdown(asked) + health_box.markdown(health)
    texts["table.md"] = _markdown(scores, [*below, *missing], title, box, sections, figures)
    texts["table.tex"] = latex(scores[0], [*below, *missing], title)
    texts["table.tex"] += "".join(f"\n{latex(other, [], title, costs=False)}" for other in scores[1:])
    if page is not None:
        pictures = {name: (caption, files["svg"]) for name, (caption, files) in figures.items()}
        content = Content(
            title, summaries, scores, texts["summary.csv"].splitlines(), points_of(analyses, page.command),
            page.said(studies, asked), health_box.parts(health), sections, pictures, published_points(summaries[0]),
            published, below, unfinished(studies), notes.provenance(runs), IN_LATEX, _images(items),
            live.live_groups(found, items), live.SAID, *missed.galleries(lost, items),
        )  # fmt: skip
        texts["index.html"] = html(content)
    files = {name: text.encode() for name, text in texts.items()}
    files |= {f"{name}.{kind}": data for name, (_, own) in figures.items() for kind, data in own.items()}
    captions = {name: caption for name, (caption, _) in figures.items()}
    files["README.md"] = guide([*files, "README.md"], captions).encode()
    folder = dirs[0] / "report"
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    written = Text(f"written to {folder}", style="dim")
    boxes = [*answer_box.terminal(asked), health_box.terminal(health)]
    terminal = Group(*boxes, tables.terminal(summaries, [*below, *missing], title), written)
    paths = tuple(folder / name for name in files)
    return Report(paths, summaries[0], (*below, *missing), health, asked, terminal)


def _items(studies: Sequence[Records]) -> dict[str, Items]:
    """Pictures of test items by study; a file that cannot be read is named with what is broken."""
    found = {}
    for study, name in zip(studies, frames.study_names(studies), strict=True):
        try:
            found[name] = read_items(study.directory)
        except CorruptRecord as error:
            study.broken.append(error)
            found[name] = Items()
    return found


def _images(items: dict[str, Items]) -> dict[str, bytes]:
    return {f"{study}/{item}": file for study, own in items.items() for item, file in own.pictures.items()}


def _markdown(
    scores: Sequence[Grid], below: Sequence[str], title: str, box: str, sections: Sequence[Grid], figures: Figures
) -> str:
    text = tables.markdown(scores[0], below, title, box)
    text += "".join(f"\n{tables.section(grid)}" for grid in [*scores[1:], *sections])
    captions = "".join(f"- `{name}`: {caption}\n" for name, (caption, _) in figures.items())
    return f"{text}\n## Figures\n\n{captions}"


def _curves(found: Analysis, speeds: pd.DataFrame, loss_points: float) -> tuple[dict[str, str], list[Grid]]:
    """Files about whole curves, of the first metric, and what is shown of them."""
    tested = comparable(found.variants, found.runs, found.replicates)
    of_curves = fronts.curve_frame(found.variants, found.means, tested)
    measured = equal_cost.measured(found.variants, speeds)
    equal, costs = equal_cost.equal_frame(found, measured), equal_cost.cost_frame(found, measured, loss_points)
    frames_of = {"curves.csv": of_curves, "equal_cost.csv": equal, "cost_at_loss.csv": costs}
    grids = [curves.curves_grid(of_curves, costs), curves.equal_grid(equal, _MAX_PAIRS)]
    files = {name: frame.to_csv(index=False) for name, frame in frames_of.items() if len(frame)}
    return files, [grid for grid in grids if grid.rows]


def _loss(asked: Sequence[Answered]) -> float:
    """The margin of a question that allows a loss, or what is usual."""
    margins = [one.question["margin_points"] for one in asked if one.question["kind"] == "within"]
    return next((margin for margin in margins if margin), _LOSS_POINTS)


def _figures(
    summaries: Sequence[pd.DataFrame],
    speeds: pd.DataFrame,
    coverage: pd.DataFrame,
    reliability: pd.DataFrame,
    title: str,
    published: bool,
) -> Figures:
    """Caption and files (by kind) of every figure that has something to show: of the first metric all, of the others
    those that show it, with its name in place of `accuracy`."""
    from results.figures import coverage as covered
    from results.figures import panels, plots, scaling  # matplotlib is half of the imports
    from results.figures import reliability as calibrated

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
    found["reliability"] = (calibrated.CAPTION, calibrated.draw_reliability(reliability, title))
    found["scaling_img_size"] = (scaling.CAPTION, scaled)
    return {
        name: (caption, {kind: plots.figure_bytes(figure, kind) for kind in ("png", "svg", "pdf")})
        for name, (caption, figure) in found.items()
        if figure is not None
    }
