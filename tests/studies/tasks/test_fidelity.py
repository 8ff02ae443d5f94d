"""Fidelity: distances to the dense model's output, held against a slow computation image by image, in float64."""

import json
import math

import numpy as np
import pytest
import torch
from command_line import study
from image_folders import draw
from safetensors.torch import save_file
from tiny_models import SMALL, tiny

from cropr.vit import ReducedViT
from results.records.store import CorruptRecord, load_records, read_predictions
from results.statistics.metrics.statistic import STATISTICS, read_values
from studies.data import Batch
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.tasks.fidelity import evaluate

NUM = 5
SPECS = ("none", "random", "norm:rest=fuse", "norm:rest=squeeze", "norm:rest=llf", "tome", "evit")


def images(num=NUM, seed=0):
    return torch.randn(num, 3, SMALL["img_size"], SMALL["img_size"], generator=torch.Generator().manual_seed(seed))


def batches(values, size=2):
    for first in range(0, len(values), size):
        item = torch.arange(first, min(first + size, len(values)))
        yield Batch(values[item], torch.full_like(item, -1), item, item)


def slowly(model: ReducedViT, image: torch.Tensor) -> dict[str, float]:
    """Of one image [3, h, w], in plain Python floats."""
    vit = model.vit
    dense = vit.forward_features(image[None])[0].double().tolist()
    tokens = model.forward_features(image[None], track=True)
    live, prefix = tokens.x[0].double().tolist(), tokens.num_prefix
    logits = [vit(image[None])[0].double().tolist(), model(image[None])[0].double().tolist()]
    p, q = ([math.exp(value - max(row)) for value in row] for row in logits)
    p, q = ([value / sum(row) for value in row] for row in (p, q))

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    at = {}  # place on the grid -> the live token that stands for it
    if tokens.owner is not None:
        at = dict(enumerate(tokens.owner[0].tolist()))
    else:
        at = {place: row for row, place in enumerate(tokens.positions()[0].tolist()) if place >= 0}
    return {
        "agreement": float(p.index(max(p)) == q.index(max(q))),
        "minus_kl": -sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        "class_cosine": cosine(dense[0], live[0]),
        "patch_cosine": sum(cosine(dense[prefix + i], live[prefix + j]) for i, j in at.items()) / len(at),
    }


@pytest.mark.parametrize("spec", SPECS)
def test_figures_are_those_of_a_slow_computation(spec):
    model = build(tiny("token"), parse_one(spec), None if spec == "none" else 0.6).model.fold().eval()
    found = evaluate(model, batches(images()), "cpu")
    with torch.no_grad():
        expected = [slowly(model, image) for image in images()]
    for name in ("agreement", "minus_kl", "class_cosine", "patch_cosine"):
        values = [row[name] for row in expected]
        assert found.metrics[name] == pytest.approx(np.mean(values), rel=1e-5, abs=1e-6), name
        if name != "agreement":
            assert found.predictions[name].tolist() == pytest.approx(values, rel=1e-4, abs=1e-6), name
    hits = (found.predictions["prediction"] == found.predictions["target"]).tolist()
    assert hits == [bool(row["agreement"]) for row in expected]
    assert found.predictions["item"].tolist() == list(range(NUM))
    if spec == "none":
        assert found.metrics == {"agreement": 1.0, "minus_kl": 0.0, "class_cosine": pytest.approx(1),
                                 "patch_cosine": pytest.approx(1)}  # fmt: skip
    else:
        assert found.metrics["minus_kl"] < 0 and found.metrics["class_cosine"] < 1


def test_what_a_model_has_not_got_is_left_out():
    without_token = build(tiny("map"), parse_one("norm"), 0.6).model
    assert set(evaluate(without_token, batches(images(2)), "cpu").metrics) == {"agreement", "minus_kl", "patch_cosine"}
    without_head = build(tiny("token", num_classes=0), parse_one("norm"), 0.6).model
    found = evaluate(without_head, batches(images(2)), "cpu")
    assert set(found.metrics) == {"class_cosine", "patch_cosine"} and "target" not in found.predictions


def test_a_mean_of_real_figures_is_resampled(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(0.9, 0.1, 400)
    np.savez(tmp_path / "predictions.npz", item=np.arange(400), cluster=np.arange(400), patch_cosine=values)
    statistic = STATISTICS["mean_patch_cosine"]
    item, cluster, read = read_values(str(tmp_path), statistic)
    from results.statistics.bootstrap import Population

    population = Population.of(cluster)
    observed, resampled = statistic.resample(population, [statistic.gather(population, read)], 2000)
    assert observed[0] == pytest.approx(values.mean()) and len(item) == 400
    assert resampled.std() == pytest.approx(values.std() / 20, rel=0.1)  # the standard error of a mean
    values[3] = np.nan
    np.savez(tmp_path / "predictions.npz", item=np.arange(400), cluster=np.arange(400), patch_cosine=values)
    with pytest.raises(CorruptRecord, match="not finite"):
        read_values(str(tmp_path), statistic)


def test_any_folder_of_photographs_from_the_command_to_the_report(tmp_path):
    folder, out, weights = tmp_path / "photos", tmp_path / "out", tmp_path / "w.safetensors"
    for number in range(6):
        draw(folder / ("a" if number % 2 else ".") / f"{number}.png", number)
    (folder / "notes.txt").write_text("no image")
    torch.manual_seed(0)
    save_file(create_backbone("test_vit", num_classes=3, pretrained=False).state_dict(), weights)
    args = ("run", "fidelity", "--dataset", "images", "--data", folder, "--backbone", f"test_vit={weights}",
            "--reducers", "none,random,tome", "--budgets", "0.8", "--out", out)  # fmt: skip
    done = study(*args)
    assert done.returncode == 0, done.stderr
    records = load_records(out)
    assert {run["variant"] for run in records.runs.values()} == {"none", "random@0.8", "tome@0.8"}
    assert len(records.speeds) == 1
    for name, run in records.runs.items():
        assert run["num_items"] == 6 and run["task"] == "fidelity" and run["epochs"] == 0
        arrays = read_predictions(str(out / "runs" / name))
        assert run["metrics"]["final"]["minus_kl"] == pytest.approx(arrays["minus_kl"].mean())
        assert max(arrays["target"]) < 3  # the classifier of the file, not of the name
    dense = next(run for run in records.runs.values() if run["variant"] == "none")
    assert dense["metrics"]["final"]["agreement"] == 1 and dense["metrics"]["final"]["minus_kl"] == 0
    table = (out / "report" / "table.md").read_text()
    assert all(label in table for label in ("agreement with dense", "-KL to dense", "cosine of patches"))
    assert json.loads((out / "study.json").read_text())["question"]["metric"] == "agreement"
    trains = study(*args, "--train", "recipe")
    assert trains.returncode == 2 and "as they come" in trains.stderr, trains.stderr
