"""mIoU of summed confusions: the estimate, its intervals over clusters, and a report of a segmentation study."""

import json

import numpy as np
import pytest
from synthetic_records import run_record

from results.pages.report import build
from results.statistics.bootstrap import RESAMPLES, Population, mean_iou, resample_accuracy, resample_mean_iou

CLASSES, ITEMS = 4, 60


def confusions(share, seed=0, classes=CLASSES):
    """[n, C, C] of images whose pixels are right with the probability `share`; the last class is nowhere."""
    rng = np.random.default_rng(seed)
    found = np.zeros((ITEMS, classes, classes), np.int32)
    for image in found:
        label = rng.integers(classes - 1, size=200)
        said = np.where(rng.random(200) < share, label, rng.integers(classes - 1, size=200))
        np.add.at(image, (label, said), 1)
    return found


def slow_mean_iou(confusion):
    scores = []
    for c in range(len(confusion)):
        union = confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]
        if union:
            scores.append(confusion[c, c] / union)
    return sum(scores) / len(scores)


def pixels(confusion):
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], axis=-2)


def test_mean_iou_against_a_loop():
    total = confusions(0.7).sum(0)
    assert mean_iou(pixels(total)) == pytest.approx(slow_mean_iou(total), abs=1e-12)
    assert abs(mean_iou(pixels(total)) - np.diagonal(total).sum() / total.sum()) > 0.02  # that is pixel accuracy
    many = pixels(confusions(0.7))
    assert mean_iou(many) == pytest.approx([slow_mean_iou(one) for one in confusions(0.7)], abs=1e-12)


def test_resamples_draw_whole_clusters_the_same_for_every_run():
    cluster = np.arange(ITEMS) // 5
    population = Population.of(cluster)
    runs = [population.sums(pixels(confusions(share))) for share in (0.7, 0.9)]
    values = resample_mean_iou(runs, resamples=50, seed=3)
    rng = np.random.default_rng(3)
    drawn = rng.integers(12, size=(50, 12))
    for run, share in enumerate((0.7, 0.9)):
        by_cluster = [confusions(share)[cluster == c].sum(0) for c in range(12)]
        slow = [slow_mean_iou(sum(by_cluster[c] for c in row)) for row in drawn]
        assert values[run] == pytest.approx(slow, abs=1e-12)
    hits = np.ones((12, 1))
    assert resample_accuracy(hits, np.ones(12), 50, 3).shape == (1, 50)


def write_segmentation(directory, shares, seeds=2):
    (directory / "runs").mkdir(parents=True)
    study = {
        "schema": 1,
        "study": "segmentation",
        "task": "segmentation",
        "dataset": "scenes",
        "backbone": "scenes_vit",
    }
    (directory / "study.json").write_text(json.dumps(study))
    for (reducer, budget), share in shares.items():
        for seed in range(seeds):
            found = confusions(share, seed)
            name = f"{reducer}-{budget}-s{seed}"
            record = run_record(name, reducer, budget, seed, 0.0, ITEMS) | {"task": "segmentation"}
            miou = slow_mean_iou(found.sum(0))
            record["metrics"] = {"final": {"miou": miou, "epoch": 8}}
            record["metrics_declared"] = [{"name": "miou", "label": "mIoU", "unit": "%", "statistic": "mean_iou"}]
            record["macs_g"] |= {"decoder": 0.0001}
            run = directory / "runs" / name
            run.mkdir()
            (run / "result.json").write_text(json.dumps(record))
            np.savez(run / "predictions.npz", item=np.arange(ITEMS), cluster=np.arange(ITEMS) // 5, confusion=found)


def test_report_of_a_segmentation_study(tmp_path):
    shares = {("none", None): 0.9, ("cropr", 0.65): 0.895, ("random", 0.65): 0.6}
    write_segmentation(tmp_path / "study", shares)
    report = build([tmp_path / "study"])
    rows = report.summary.set_index("variant")
    expected = np.mean([slow_mean_iou(confusions(0.9, seed).sum(0)) for seed in range(2)])
    assert rows.loc["none", "miou_percent"] == pytest.approx(100 * expected, abs=1e-9)
    for row in rows.itertuples():
        assert row.miou_low_percent < row.miou_percent < row.miou_high_percent
        assert row.macs_decoder_g == 0.0001
    assert rows.loc["random@0.65", "difference_high_points"] < -5
    assert rows.loc["random@0.65", "p_holm"] < 0.01 and rows.loc["cropr@0.65", "difference_low_points"] > -3
    table = (tmp_path / "study" / "report" / "table.md").read_text()
    assert "mIoU, %" in table and "decoder, MMACs" in table and "of the confusion summed over" in table
    assert "says" not in " ".join(report.notes)  # records and predictions agree
    assert rows.loc["none", "clusters"] == 12 and f"{RESAMPLES:,}" in " ".join(report.notes)
