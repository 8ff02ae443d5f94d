"""Pictures of live patches say what kept.npz says, and are of items that were chosen by their numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import synthetic_records
from synthetic_records import write_live

from results.html.content import Live
from results.pages.sections.live import chosen, live_groups, path_of
from results.records.frames import run_frame
from results.records.items import Items
from results.records.store import load_records
from results.statistics.analysis import analyse

FOLLOWED = np.arange(40) * 2
BLOCKS = {"cropr": (0, 2, 5), "tome": (2,), "random": (0, 2, 5)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("live") / "a"
    methods = ("none", *BLOCKS)
    synthetic_records.write_study(directory, methods, (0.8, 0.5), seeds=2, num_items=100, speed=False)
    write_live(directory, FOLLOWED, (0, 2, 5))
    for path in (directory / "runs").glob("tome-*/kept.npz"):
        arrays = dict(np.load(path))
        level, consistency = np.minimum(arrays["level"], 1), np.zeros((len(FOLLOWED), 0), np.float16)
        np.savez(path, **arrays | {"level": level, "blocks": np.array([2]), "consistency": consistency})
    return directory


def groups(study: Path, items: Items) -> list[Live]:
    return live_groups(analyse(run_frame([load_records(study)])), {study.name: items})


def cells(path: str) -> set[tuple[int, int]]:
    """Row and column of the patches inside a path."""
    found = set()
    for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path):
        assert width == back
        found |= {(int(y), column) for column in range(int(x), int(x) + int(width))}
    assert re.sub(r"M\d+ \d+h\d+v1h-\d+z", "", path) == ""
    return found


def test_paths_are_around_the_marked_patches() -> None:
    rng = np.random.default_rng(0)
    for share in (0, 0.2, 0.7, 1):
        marked = rng.random((5, 5)) < share
        assert cells(path_of(marked)) == {(y, x) for y in range(5) for x in range(5) if marked[y, x]}


def test_each_picture_loses_what_its_run_drops_behind_each_block(study: Path) -> None:
    found = groups(study, Items(list("abcdefghij"), dict.fromkeys(FOLLOWED.tolist(), b"")))
    assert [group.heading for group in found] == [f"a, at {budget} of the dense MACs" for budget in (0.5, 0.8)]
    for group, budget in zip(found, (0.5, 0.8), strict=True):
        assert group.side == 4 and list(group.blocks) == [0, 2, 5]
        assert [row.image for row in group.rows] == [f"a/{2 * (i * 40 // 6)}" for i in range(6)]
        names = [name for name, _ in group.columns]
        assert sorted(names) == [f"{name} at {budget}" for name in ("Cropr", "Random", "ToMe")]
        for place, name in enumerate(names):
            folder = study / "runs" / f"{name.split(' ')[0].lower()}-{budget}-s0"
            kept, read = np.load(folder / "kept.npz"), np.load(folder / "predictions.npz")
            blocks = kept["blocks"].tolist()
            for row in group.rows:
                item = int(row.image.removeprefix("a/"))
                level = kept["level"][item // 2]
                picture, gone = row.cells[place], set()
                for at, block in enumerate(group.blocks, 1):
                    gone |= cells(picture.gone.get(at, ""))
                    behind = sum(own <= block for own in blocks)
                    assert gone == {(i // 4, i % 4) for i in range(16) if level[i] < behind}
                left = " → ".join(str(sum(level > number)) for number in range(len(blocks)))
                assert f"of 16 patches {left} are live behind blocks {', '.join(map(str, blocks))}" in picture.alt
                truth, guess = item % 10, int(read["prediction"][item])
                assert row.name == f"item {item}: {'abcdefghij'[truth]}" and picture.wrong == (guess != truth)
                assert picture.said == ("–" if guess < 0 else "abcdefghij"[guess])
        counts = dict(group.columns)[f"Cropr at {budget}"]
        assert counts == "16 → 12 → 9 → 6"


def test_without_pictures_or_live_patches_there_is_nothing(study: Path, tmp_path: Path) -> None:
    assert groups(study, Items()) == []
    synthetic_records.write_study(tmp_path / "old", ("none", "cropr"), (0.5,), num_items=50, speed=False)
    assert groups(tmp_path / "old", Items([], {0: b""})) == []


def test_items_are_evenly_spaced() -> None:
    assert chosen(list(range(100, 228))) == [100, 121, 142, 164, 185, 206]
    assert chosen([7, 9]) == [7, 9] and chosen([]) == []
