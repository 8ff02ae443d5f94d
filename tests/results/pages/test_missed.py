"""Items that the dense model gets right and others miss, against a slow count."""

from pathlib import Path

import numpy as np
import pytest
import synthetic_records

from results.pages.sections.missed import Missed, galleries, missed_grid, missed_of
from results.records.frames import run_frame
from results.records.items import Items
from results.records.store import load_records
from results.statistics.analysis import analyse

SEEDS, NUM = 3, 400


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose runs say what they read instead, and how sure they are."""
    directory = tmp_path_factory.mktemp("missed") / "a"
    methods = ("none", "cropr", "tome")
    synthetic_records.write_study(directory, methods, (0.5,), seeds=SEEDS, num_items=NUM, speed=False)
    rng = np.random.default_rng(0)
    for folder in sorted((directory / "runs").iterdir()):
        arrays = dict(np.load(folder / "predictions.npz"))
        other = (arrays["target"] + rng.integers(1, 10, NUM)) % 10
        again = rng.random(NUM) < 0.1 * folder.name.startswith("tome")
        arrays["prediction"] = np.where((arrays["prediction"] < 0) | again, other, arrays["prediction"])
        np.savez(folder / "predictions.npz", **arrays, confidence=rng.random(NUM).astype(np.float16))
    return directory


@pytest.fixture(scope="module")
def missed(study: Path) -> list[Missed]:
    return missed_of(analyse(run_frame([load_records(study)])))


def counted(study: Path, reducer: str) -> tuple[int, list[tuple[int, list[int]]]]:
    """How many items dense gets right in every seed; of those that the other misses the number and the seeds."""
    runs = {path.name: np.load(path / "predictions.npz")["prediction"] for path in (study / "runs").iterdir()}
    sure = [i for i in range(NUM) if all(runs[f"none-None-s{s}"][i] == i % 10 for s in range(SEEDS))]
    found = [(i, [s for s in range(SEEDS) if runs[f"{reducer}-0.5-s{s}"][i] != i % 10]) for i in sure]
    return len(sure), sorted([(i, own) for i, own in found if own], key=lambda one: (-len(one[1]), one[0]))


def test_the_table_counts_them_and_names_those_that_most_seeds_miss(study: Path, missed: list[Missed]) -> None:
    items = Items(list("abcdefghij"))
    grid = missed_grid(missed, {"a": items})
    assert grid is not None
    for row, reducer in zip(grid.rows, ("cropr", "tome"), strict=True):
        sure, found = counted(study, reducer)
        assert row[2:4] == [f"{sum(len(own) == SEEDS for _, own in found)} of {sure}", f"{len(found)} of {sure}"]
        named = row[4].split("; ")
        assert len(named) == 8
        for text, (item, seeds) in zip(named, found, strict=False):
            assert text.startswith(f"{item} ({'abcdefghij'[item % 10]} → ") and text.endswith(f") {len(seeds)}/{SEEDS}")
            for seed in seeds:
                read = np.load(study / "runs" / f"{reducer}-0.5-s{seed}" / "predictions.npz")
                guess = "abcdefghij"[read["prediction"][item]]
                (said,) = [part for part in text.split(" %)") if f" {guess} (" in part]
                assert f"{100 * float(read['confidence'][item]):.0f}" in said.rpartition("(")[2].split(", ")


def test_the_gallery_shows_those_that_have_a_picture(study: Path, missed: list[Missed]) -> None:
    pictured = set(range(0, NUM, 5))
    found, said = galleries(missed, {"a": Items([], dict.fromkeys(sorted(pictured), b""))})
    assert f"Pictures are of {len(pictured)} test items" in said
    for gallery, reducer, name in zip(found, ("cropr", "tome"), ("Cropr", "ToMe"), strict=True):
        sure, every = counted(study, reducer)
        seen = [(item, seeds) for item, seeds in every if item in pictured]
        assert [(card.image, card.item, card.seeds) for card in gallery.cards] == [
            (f"a/{item}", item, f"{len(seeds)} of 3 seeds") for item, seeds in seen[:12]
        ]
        in_all = sum(len(own) == SEEDS for _, own in every)
        assert gallery.heading == (
            f"{name} at 0.5: {len(every)} of {sure} items, {in_all} of them in all 3 seeds; "
            f"those with a picture are {len(seen)}, shown: {min(12, len(seen))}"
        )
    assert len(found[1].cards) > 1


def test_records_without_pictures_or_confidence(study: Path, missed: list[Missed], tmp_path: Path) -> None:
    found, said = galleries(missed, {"a": Items()})
    assert "no pictures" in said and [len(gallery.cards) for gallery in found] == [
        min(12, len(one.item)) for one in missed
    ]
    assert not any(card.image for gallery in found for card in gallery.cards)
    synthetic_records.write_study(tmp_path / "b", ("none", "cropr"), (0.5,), num_items=50, speed=False)
    (one,) = missed_of(analyse(run_frame([load_records(tmp_path / "b")])))
    assert one.confidence is None and {one.guesses(i, Items()) for i in range(len(one.item))} <= {"–"}
