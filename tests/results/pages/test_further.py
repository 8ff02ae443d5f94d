"""Where reducers begin to pay, and what changed between two studies, each against a slow count."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.sections.further import break_even, break_even_grid, change_grids
from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.analysis import Analysis, analyse

SEEDS = 3


@pytest.mark.parametrize(
    ("sizes", "ratios", "found"),
    [
        ([32, 128], [0.5, 1.5], (64.0, 32, 128)),  # half of the way, on a logarithmic axis
        ([32, 64, 128], [0.5, 1.0, 2.0], (64.0, 32, 64)),
        ([10, 20, 40], [0.9, 0.95, 0.99], None),
        ([10, 20, 40], [1.1, 1.2, 1.3], None),
        ([1, 10, 100], [0.75, 1.25, 0.5], (10**0.5, 1, 10)),
        ([1], [0.5], None),
    ],
)
def test_break_even(sizes: list[int], ratios: list[float], found: tuple[float, int, int] | None) -> None:
    assert break_even(sizes, ratios) == (None if found is None else pytest.approx(found))


def test_break_even_table_keeps_settings_apart() -> None:
    def timed(variant: str, role: str, img_size: int, batch_size: int, ratio: float) -> dict[str, object]:
        return {
            "directory": "a", "device_name": "x", "dtype": "float32", "num_threads": 1, "variant": variant,
            "role": role, "img_size": img_size, "batch_size": batch_size, "ratio_to_dense_median": ratio,
        }  # fmt: skip

    rows = [timed("none", "dense", size, batch, 1.0) for size in (32, 128) for batch in (1, 16)]
    rows += [timed("tome@0.5", "method", 32, 1, 0.5), timed("tome@0.5", "method", 128, 1, 1.5)]
    rows += [timed("tome@0.5", "method", 32, 16, 1.2), timed("tome@0.5", "method", 128, 16, 1.6)]
    grid = break_even_grid(pd.DataFrame(rows))
    assert grid is not None and [row[1:3] + row[-1:] for row in grid.rows] == [
        ["image side", "batch 1", "about 64.0 px (measured: 32, 128)"],
        ["image side", "batch 16", "the smallest measured, 32 px"],
        ["batch", "image side 32", f"about {16 ** (0.5 / 0.7):.2f} images (measured: 1, 16)"],
        ["batch", "image side 128", "the smallest measured, 1 images"],
    ]
    assert break_even_grid(pd.DataFrame(rows[:1])) is None and break_even_grid(pd.DataFrame()) is None


def read(*directories: Path) -> Analysis:
    return analyse(run_frame([load_records(directory) for directory in directories]))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two studies, alike but for ToMe, which has become worse by about ten points in the second."""
    root = tmp_path_factory.mktemp("further")
    first, second = root / "first", root / "second"
    for directory in (first, second):
        synthetic_records.write_study(
            directory, methods=("none", "cropr", "tome"), budgets=(0.5,), seeds=SEEDS, num_items=400, speed=False
        )
    gone = np.random.default_rng(1).random(400) < 0.1  # the same items in every seed
    for folder in (second / "runs").glob("tome-*"):
        arrays = dict(np.load(folder / "predictions.npz"))
        arrays["prediction"] = np.where(gone, -1, arrays["prediction"])
        np.savez(folder / "predictions.npz", **arrays)
        record = json.loads((folder / "result.json").read_text())
        record["metrics"]["final"]["top1"] = float((arrays["prediction"] == arrays["target"]).mean())
        (folder / "result.json").write_text(json.dumps(record))
    return first, second


def test_only_what_changed_is_shown_and_the_rest_is_folded(two: tuple[Path, Path]) -> None:
    changed, same = change_grids(read(*two), "top-1")
    assert not changed.folded and [row[0] for row in changed.rows] == ["ToMe"]
    assert same.folded and [row[0] for row in same.rows] == ["Dense", "Cropr"]
    tops = [
        [
            json.loads(path.read_text())["metrics"]["final"]["top1"]
            for path in sorted((d / "runs").glob("tome-*/result.json"))
        ]
        for d in two
    ]
    first, second = (100 * np.mean(own) for own in tops)
    assert changed.rows[0][2:5] == [f"{first:.1f}", f"{second:.1f}", f"{second - first:+.1f}".replace("-", "−")]
    assert {row[4] for row in same.rows} == {"+0.0"} and changed.header[2:4] == ["top-1, %: first", "top-1, %: second"]
    assert change_grids(read(two[0]), "top-1") == []
