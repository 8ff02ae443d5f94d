"""Exported models: what the files compute is what the models do, patches kept at each reducer included."""

import json

import pytest
import torch
from command_line import study
from tiny_models import images, tiny
from torch import nn

from cropr.reducer import observed
from studies.models import deploy, export
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build

CLASSIFICATION = [
    ("cropr:rate=8,at=0/1,rest=llf", "onnx"), ("tome:r=6/0/0", "onnx"), ("evit:keep=0.7,at=0/1", "onnx"),
    ("dynamicvit:ratio=0.7,at=1", "onnx"), ("ats:rate=8,at=0/1", "onnx"), ("mctf:r=6/0/0", "onnx"),
]  # fmt: skip
SEGMENTATION = [
    ("cropr:rate=8,at=1", "onnx"), ("tome:r=6/0/0", "onnx"), ("evit:keep=0.7,at=1,rest=nearest", "onnx"),
    ("dynamicvit:ratio=0.7,at=1,rest=drop", "onnx"), ("random:rate=8,at=0/1", "pt2"),
]  # fmt: skip


class Watched(nn.Module):
    """Logits, and the positions of the live patches behind each reducer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        kept = []
        with observed(dict(self.model.reducers.items()), lambda name, args, after: kept.append(after.positions())):
            logits = self.model(batch)
        return logits, *kept


def reduced(spec, dense=False):
    """One of three blocks, with heads and predictors that choose."""
    model = build(tiny("token", depth=3), parse_one(spec, dense)).model
    torch.manual_seed(2)
    for parameter in model.reducers.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    return model.fold().eval().requires_grad_(False)


def assert_the_same(model, format):
    watched = Watched(model)
    run = export.runner(format, export.file_of(watched, format, images(2)))
    for size in (1, 5):
        logits, *kept = run(images(size))
        expected, *live = watched(images(size))
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        assert len(kept) == len(live) == len(model.reducers) > 0
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, live, strict=True))


@pytest.mark.parametrize(("spec", "format"), CLASSIFICATION)
def test_logits_and_kept_patches_of_classification(spec, format):
    assert_the_same(reduced(spec), format)


@pytest.mark.parametrize(("spec", "format"), SEGMENTATION)
def test_logits_and_kept_patches_of_segmentation(spec, format):
    assert_the_same(reduced(spec, dense=True), format)


def test_equal_scores_have_the_same_order_in_onnx():
    model = reduced("cropr:rate=8,at=0/1")
    for reducer in model.reducers.values():
        reducer.weight.zero_()
    assert_the_same(model, "onnx")


def refusal(spec, format, **options):
    return export.refusal(build(create_backbone("scenes_vit", pretrained=False, **options), spec).model, format)


def test_refusals_name_the_reason():
    random, oracle, tome = (parse_one(spec) for spec in ("random:rate=8", "oracle:rate=8", "tome:r=4"))
    assert "bits of the image" in refusal(random, "onnx") and refusal(random, "pt2") is None
    assert "reads the labels" in refusal(oracle, "pt2") and refusal(tome, "onnx") is None
    assert "detector's heads" in refusal(parse_one("tome:r=4", dense=True), "pt2", detector=True)
    half = build(create_backbone("scenes_vit", pretrained=False), tome).model.bfloat16()
    assert "weights are bfloat16" in export.refusal(half, "onnx") and export.refusal(half, "pt2") is None
    with pytest.raises(ValueError, match="unknown format 'onxx'; did you mean onnx?"):
        export.refusal(half, "onxx")
    with pytest.raises(ValueError, match="cannot be exported as onnx: weights are bfloat16"):
        export.export(half, "onnx", {})


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(export.FORMATS, "onnx", ("onnx", "no_such_package"))
    with pytest.raises(ValueError, match=r"onnx needs no_such_package: pip install 'cropr-study\[export\]'"):
        export.export(reduced("tome:r=6/0/0"), "onnx", {})


def test_a_file_that_computes_something_else_is_seen():
    model = reduced("cropr:rate=8,at=1")
    data = export.file_of(model, "pt2", images(2))
    assert export.verify(model, "pt2", data) < 1e-6
    model.vit.head.bias += 1e-3
    with pytest.raises(export.NotExported, match="logits of 1 images are 0.001 away"):
        export.verify(model, "pt2", data)
    with pytest.raises(export.NotExported, match="^pt2: "):
        export.verify(model, "pt2", data[:1000])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run that holds a model."""
    run = tmp_path_factory.mktemp("run")
    vit = create_backbone("scenes_vit_shallow", pretrained=False)
    model = build(vit, parse_one("evit:keep=0.7,at=1")).model
    deploy.save(model, run / "model", backbone="scenes_vit_shallow", data_config={"mean": [0.5] * 3})
    return run


def test_the_command_writes_a_file_that_says_what_it_is(saved, tmp_path):
    import onnx

    file = tmp_path / "model.onnx"
    done = study("export", saved, "--out", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}; logits within ") and not done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    (said,) = onnx.load(file).metadata_props
    about = json.loads(said.value)
    assert said.key == export.ABOUT and about["backbone"] == "scenes_vit_shallow"
    assert about["data_config"] == {"mean": [0.5] * 3} and about["reducers"][0]["kind"] == "EViT"
    model, batch = deploy.load(saved / "model"), images(4, 32)
    (logits,) = export.runner("onnx", file.read_bytes())(batch)
    torch.testing.assert_close(logits, model(batch), atol=1e-4, rtol=1e-4)

    before = file.read_bytes()
    again = study("export", saved / "model", "--out", file)
    assert again.returncode == 2 and f"{file} exists" in again.stderr and file.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--out", "model.onxx"), "the suffix of model.onxx names no format; valid: onnx, pt2"),
        (("--out", "model.pt2", "--format", "onnx"), "names the format pt2, and --format onnx"),
        (("--out", "model", "--format", "onxx"), "unknown format 'onxx'; did you mean onnx?"),
        (("--out", "nowhere/model.pt2"), "there is no folder"),
    ],
)
def test_what_the_command_does_not_take(saved, args, message):
    done = study("export", saved, *args)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_a_run_without_a_model_is_refused(tmp_path):
    done = study("export", tmp_path, "--out", tmp_path / "model.pt2")
    assert done.returncode == 2 and "model.json does not exist" in done.stderr
    assert not list(tmp_path.iterdir())
