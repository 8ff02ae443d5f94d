"""Agreement on patches, recall of the foreground and consistency of ranks, against loops over sets of places."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import synthetic_records

from results.pages.report import Page, build
from results.pages.sections.kept import kept_grids
from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.analysis import analyse
from results.statistics.bootstrap import RESAMPLES, cluster_weights, interval, resample_seeds
from results.statistics.insight.kept import chance_iou, kept_frame

ITEMS, GRID, BLOCKS, KEEP = 30, 20, (0, 2, 3), (14, 9, 5)
METHODS = ("random", "cropr", "evit")


def write_kept(study, seeds=2):
    """Nested live patches; Cropr looks for the foreground, and ToMe's records are older."""
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    foreground = rng.random((ITEMS, GRID)) < 0.3
    foreground[7] = False  # an image of nothing
    for name in METHODS:
        for seed in range(seeds):
            taste = rng.random((ITEMS, GRID)) + foreground * (name == "cropr")
            rank = (-taste).argsort(axis=1).argsort(axis=1)
            level = sum((rank < keep).astype(np.uint8) for keep in KEEP)
            consistency = rng.uniform(-1, 1, (ITEMS, 2)).astype(np.float16)
            consistency[:, 1] = np.nan if name == "evit" else consistency[:, 1]
            newer = {} if name == "evit" else {"mirrored": other.permuted(level, axis=1)}
            np.savez(
                study / "runs" / f"{name}-0.5-s{seed}" / "kept.npz", **newer, blocks=np.array(BLOCKS),
                item=np.arange(ITEMS) * 3, cluster=np.arange(ITEMS) // 2, level=level,
                foreground=np.packbits(foreground, axis=1), consistency=consistency,
            )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kept") / "pareto"
    methods = ("none", *METHODS, "tome")
    synthetic_records.write_study(directory, methods, (0.5,), seeds=2, num_items=100, speed=False)
    write_kept(directory)
    return directory


@pytest.fixture(scope="module")
def frame(study):
    return kept_frame(analyse(run_frame([load_records(study)])))


def sets(study, method, seed, number=-1):
    """Live places of each item behind reduction `number`, and those of the foreground."""
    with np.load(study / "runs" / f"{method}-0.5-s{seed}" / "kept.npz") as arrays:
        level, truth = arrays["level"].tolist(), np.unpackbits(arrays["foreground"], axis=1)[:, :GRID].tolist()
        rho = arrays["consistency"].astype(float)
    live = [{i for i, own in enumerate(row) if own > number % len(BLOCKS)} for row in level]
    return live, [{i for i, one in enumerate(row) if one} for row in truth], rho


def row_of(frame, measure, method, **more):
    rows = frame[(frame["measure"] == measure) & (frame["variant"] == f"{method}@0.5")]
    for column, value in more.items():
        rows = rows[rows[column] == value]
    (row,) = rows.to_dict("records")
    return row


def ends(values, there):
    """Interval of values [S, I] by resampling clusters, resample by resample, then seeds."""
    cluster = np.unique(np.arange(ITEMS)[there] // 2, return_inverse=True)[1]
    drawn = np.concatenate([own for _, own in cluster_weights(cluster.max() + 1, RESAMPLES)])
    of_items = drawn[:, cluster]
    means = [[np.average(own[there], weights=weights) for weights in of_items] for own in np.asarray(values)]
    return interval(resample_seeds(np.array(means)))


def test_chance_is_the_mean_over_all_sets():
    for first, second in ((2, 3), (4, 4), (5, 2)):
        own = set(range(first))
        all_of_them = [set(other) for other in combinations(range(6), second)]
        expected = np.mean([len(own & other) / len(own | other) for other in all_of_them])
        assert chance_iou(first, second, 6) == pytest.approx(expected, abs=1e-12)
        rates = first / 6, second / 6  # of independent patches, not of sets of a size
        independent = rates[0] * rates[1] / (sum(rates) - rates[0] * rates[1])
        assert abs(independent - expected) > 1e-3
    assert chance_iou(6, 6, 6) == pytest.approx(1)


def test_agreement_between_methods_against_loops(study, frame):
    for first, second in combinations(METHODS, 2):
        labels = [synthetic_records.LABEL[name] for name in (first, second)]
        pairs = frame[frame["measure"] == "IoU between methods"]
        rows = [row for row in pairs.to_dict("records") if {row["curve"], row["other"].split(" at ")[0]} == {*labels}]
        (row,) = rows
        by_seed, pooled, dice = [], [0, 0], []
        for seed in (0, 1):
            a, b = sets(study, first, seed)[0], sets(study, second, seed)[0]
            by_seed.append([len(x & y) / len(x | y) for x, y in zip(a, b, strict=True)])
            pooled[0] += sum(len(x & y) for x, y in zip(a, b, strict=True))
            pooled[1] += sum(len(x | y) for x, y in zip(a, b, strict=True))
            dice.append([2 * len(x & y) / (len(x) + len(y)) for x, y in zip(a, b, strict=True)])
        assert row["value"] == pytest.approx(np.mean(by_seed), abs=1e-12)
        assert abs(pooled[0] / pooled[1] - row["value"]) > 1e-4 and abs(np.mean(dice) - row["value"]) > 1e-2
        assert row["chance"] == pytest.approx(chance_iou(KEEP[-1], KEEP[-1], GRID)) and row["block"] == BLOCKS[-1]
        if second == "evit":
            assert (row["low"], row["high"]) == pytest.approx(ends(by_seed, np.ones(ITEMS, bool)))
        crossed = [len(x & y) / len(x | y) for x, y in zip(sets(study, first, 0)[0], sets(study, second, 1)[0],
                                                           strict=True)]  # fmt: skip
        assert abs(np.mean(crossed) - row["value"]) > 1e-4


def test_agreement_between_seeds_and_recall_by_block_against_loops(study, frame):
    for method in METHODS:
        for number, block in enumerate(BLOCKS):
            live = [sets(study, method, seed, number) for seed in (0, 1)]
            pairs = zip(live[0][0], live[1][0], strict=True)
            row = row_of(frame, "IoU between seeds", method, block=block)
            assert row["value"] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairs]))
            assert row["live"] == KEEP[number] and row["items"] == ITEMS
            assert row["chance"] == pytest.approx(chance_iou(KEEP[number], KEEP[number], GRID))
            recall = [[len(a & b) / len(b) if b else np.nan for a, b in zip(*own[:2], strict=True)] for own in live]
            row = row_of(frame, "foreground recall", method, block=block)
            assert row["value"] == pytest.approx(np.nanmean(recall)) and row["chance"] == KEEP[number] / GRID
            there = np.isfinite(recall).all(axis=0)
            assert not there[7]
            if (method, number) == ("cropr", 1):
                assert (row["low"], row["high"]) == pytest.approx(ends(recall, there))
    recalls = [row_of(frame, "foreground recall", method, block=3)["value"] for method in ("random", "cropr")]
    assert recalls[0] == pytest.approx(KEEP[-1] / GRID, abs=0.1) and recalls[1] > 0.7


def test_agreement_with_the_mirror_image_against_loops(study, frame):
    rows = frame[frame["measure"] == "IoU with the mirror image"]
    assert set(rows["variant"]) == {"random@0.5", "cropr@0.5"}  # EViT's records are older
    for method in ("random", "cropr"):
        for number, block in enumerate(BLOCKS):
            by_seed = []
            for seed in (0, 1):
                with np.load(study / "runs" / f"{method}-0.5-s{seed}" / "kept.npz") as arrays:
                    mirrored = arrays["mirrored"].tolist()
                other = [{i for i, own in enumerate(row) if own > number} for row in mirrored]
                pairs = list(zip(sets(study, method, seed, number)[0], other, strict=True))
                by_seed.append([len(a & b) / len(a | b) for a, b in pairs])
            row = row_of(rows, "IoU with the mirror image", method, block=block)
            assert row["value"] == pytest.approx(np.mean(by_seed), abs=1e-12)
            assert row["chance"] == pytest.approx(chance_iou(KEEP[number], KEEP[number], GRID))
            if (method, number) == ("cropr", 2):
                assert (row["low"], row["high"]) == pytest.approx(ends(by_seed, np.ones(ITEMS, bool)))


def test_mirror_images_stand_in_the_table_and_older_records_have_no_such_column(study, frame):
    (grid, *_) = kept_grids(frame, 100)
    column = grid.header.index("IoU with the mirror image (by chance)")
    cells = {row[0]: row[column] for row in grid.rows}
    row = row_of(frame, "IoU with the mirror image", "cropr", block=3)
    half = (row["high"] - row["low"]) / 2
    assert cells["Cropr"] == f"{row['value']:.2f} ± {half:.2f} ({row['chance']:.2f})" and cells["EViT"] == "–"
    (older, *_) = kept_grids(frame[frame["measure"] != "IoU with the mirror image"], 100)
    assert len(older.header) == len(grid.header) - 1 and "irror" not in older.said and "Mirror image" in grid.said


def test_rank_consistency_stands_at_the_later_reducer(study, frame):
    for number, block in ((1, 2), (2, 3)):
        rho = [sets(study, "cropr", seed)[2][:, number - 1] for seed in (0, 1)]
        row = row_of(frame, "rank consistency", "cropr", block=block)
        assert row["value"] == pytest.approx(np.mean(rho)) and np.isnan(row["chance"])
        assert row["low"] < row["value"] < row["high"]
    rows = frame[(frame["measure"] == "rank consistency") & (frame["variant"] == "evit@0.5")]
    assert rows["block"].tolist() == [2]  # the later reducer ranks no patches


def test_report_has_a_file_and_a_section_and_older_records_none(study, frame):
    report = build([study], page=Page())
    shown = pd.read_csv(study / "report" / "kept.csv", keep_default_na=False, na_values=[""])
    assert len(shown) == len(frame) and shown["value"].tolist() == pytest.approx(frame["value"].tolist())
    assert not (set(frame["variant"]) & {"tome@0.5", "none"})
    text = (study / "report" / "table.md").read_text()
    row = next(line for line in text.split("## Patches that are kept")[1].splitlines() if line.startswith("| Cropr"))
    recall = row_of(frame, "foreground recall", "cropr", block=3)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:4] == ["0, 2, 3", "5.0"] and cells[4].startswith(f"{100 * recall['value']:.1f} ± ")
    assert cells[4].endswith("(25.0)") and len(cells[5].split(" → ")) == 3 and len(cells[8].split(" → ")) == 2
    assert "## Agreement on patches between methods at the same budget" in text
    page = (study / "report" / "index.html").read_text()
    assert "Patches that are kept" in page and cells[5] in page and report.summary is not None


def test_a_broken_file_leaves_the_others(study, frame, tmp_path):
    path = study / "runs" / "evit-0.5-s1" / "kept.npz"
    whole = path.read_bytes()
    try:
        for broken in (whole[:100], b""):
            path.write_bytes(broken)
            found = kept_frame(analyse(run_frame([load_records(study)])))
            assert set(found["variant"]) == {"random@0.5", "cropr@0.5"}
    finally:
        path.write_bytes(whole)
