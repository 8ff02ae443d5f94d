"""`show`: pictures of the patches that images lose, of the saved models of a study or of models off the shelf."""

from __future__ import annotations

from pathlib import Path

from studies.commands.reading.options import backbone_of, parse_budgets
from studies.models.methods import GROUPS, parse

__all__ = ["show_image", "show_study"]


def show_study(directory: Path, items: str, runs: str | None, out: Path | None) -> list[Path]:
    """A picture for each test item: what the saved models make of it. Returns the paths. Raises ValueError, OSError."""
    from studies.show import rows_of_study
    from studies.shown_objects import LEGEND

    numbers = []
    for part in items.split(","):
        if not part.strip().isdigit():
            raise ValueError(f"item {part!r} is not a number; items are numbers of test images, such as 0,1,2")
        numbers.append(int(part))
    chosen = None if runs is None else [run.strip() for run in runs.split(",")]
    found = rows_of_study(directory, numbers, chosen)
    folder = out or directory / "report"
    paths = []
    for item, rows in found.items():
        legend = LEGEND if any(shown.boxes for row in rows for shown in row.maps) else ""
        paths.append(_write(folder / f"tokens_{item}.png", rows, f"test item {item}{legend}"))
    return paths


def show_image(
    file: Path, backbone: str, pretrained: bool, reducers: str, budgets: str, out: Path | None
) -> list[Path]:
    """One picture of an image file, with a model off the shelf. Returns its path. Raises ValueError, OSError."""
    from studies.show import rows_of_image

    name, checkpoint = backbone_of(backbone)
    methods = parse(reducers)
    if reducers.strip() in GROUPS:
        methods = [method for method in methods if not method.learns]
    rows = rows_of_image(file, name, checkpoint, pretrained, methods, parse_budgets(budgets))
    weights = "" if pretrained or checkpoint else ", random weights"
    return [_write((out or Path()) / f"tokens_{file.stem}.png", rows, f"{file.name}, {name}{weights}")]


def _write(path: Path, rows: list, title: str) -> Path:
    from results.figures.pictures import draw_rows
    from results.figures.plots import figure_bytes
    from results.records.files import write_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, figure_bytes(draw_rows(rows, title), "png"))
    return path
