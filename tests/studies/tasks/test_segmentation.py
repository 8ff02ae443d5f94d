"""Segmentation as a study has it: data, evaluation, objectives, records, and a real tiny run by the command line."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_models import images, tiny

from cropr.dense import FUSIONS, DenseViT
from cropr.macs import count
from cropr.method import Training
from cropr.method.dense_objective import CroprDenseObjective, DenseObjective
from cropr.method.objective import weighted_loss
from results.figures.pictures import Row, draw_rows
from studies.catalogue import segmentation, studies
from studies.catalogue.questions import fusion
from studies.catalogue.recipes import RECIPES
from studies.config import Recipe, RunConfig
from studies.data import Batch
from studies.data.datasets import create_dataset
from studies.measure.flops import check_macs
from studies.models import deploy
from studies.models.backbones import create_backbone, sized_for
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.show import pixel_maps, trace
from studies.tasks import TASKS
from studies.tasks.segmentation import criterion, evaluate, predict
from studies.training.trainer import Trainer

TINY = Recipe(epochs=3, batch_size=299, lr=1e-3)
ALL = ("cropr", "random", "tome", "evit", "dynamicvit")


def small(**options):
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=6, num_heads=3, num_classes=11, **options)


def config(**changes):
    values = dict(
        study="segmentation", task="segmentation", dataset="scenes", backbone="scenes_vit", reducer="cropr",
        method_version=2, budget=0.65, seed=0, recipe=TINY,
    )  # fmt: skip
    return RunConfig(**(values | changes))


def test_tasks_say_what_the_report_reads():
    assert config(task="classification").id != config().id
    headlines = {name: info.metrics[0].name for name, info in TASKS.items()}
    dense = {"segmentation": "miou", "detection": "box_ap"}
    assert headlines == {"classification": "top1", **dense, "fidelity": "agreement"}
    assert {study.task for study in studies().values()} == set(TASKS)
    assert {"none" if rest == "drop" else rest for rest in fusion.RESTS} == set(FUSIONS)


def test_scenes_for_segmentation():
    data = create_dataset(config())
    batch = data.batch("test", np.arange(200))
    assert data.num_classes == 11 and batch.target.shape == (200, 32, 32)
    digits = [len(set(mask.unique().tolist()) - {0}) for mask in batch.target]
    assert min(digits) == 1 and max(digits) == 4
    assert create_dataset(config(task="classification")).batch("test", np.arange(2)).target.shape == (2,)


@pytest.mark.parametrize("budget", [0.8, 0.65])
@pytest.mark.parametrize("name", ALL)
def test_every_reducer_meets_the_budgets_of_the_study(name, budget):
    assert f"{budget:g}" in segmentation.BUDGETS
    built = build(small(), parse_one(name, dense=True), budget)
    assert built.reached == pytest.approx(budget, abs=0.01)
    assert built.model.fusion == ("unmerge" if name == "tome" else "llf")
    counts = check_macs(built.model.eval())
    assert counts.closed_form == counts.fvcore == counts.torch
    macs = count(built.model)
    assert macs.decoder == 64 * 48 * 11 and macs.total == macs.backbone + macs.scoring + macs.decoder


def test_cropr_and_random_share_one_schedule_under_every_fusion():
    for mode in FUSIONS:
        specs = [parse_one(f"{name}:fusion={mode}", dense=True) for name in ("cropr", "random")]
        counts = [build(small(), spec, 0.65).model.token_counts() for spec in specs]
        assert counts[0] == counts[1]
        assert (counts[0][-1][0] == 65) == (mode in ("llf", "mask"))


@pytest.mark.parametrize(
    ("text", "dense", "message"),
    [
        ("cropr:fusion=concat", False, "is for dense tasks"),
        ("cropr:fusion=lff", True, "rest cannot be 'lff'; did you mean llf\\? valid: drop"),
        ("random:fusion=none,llf=true", True, "drop and llf of the same patches; give only rest="),
        ("cropr:queries=3", True, r"one query for each patch \(64\), not 3"),
        ("evit:fuse=true", True, "a fused token stands for no place; valid here: drop, squeeze, llf"),
    ],
)
def test_what_does_not_go_together_is_refused(text, dense, message):
    with pytest.raises(ValueError, match=message):
        build(small(), parse_one(text, dense), 0.65)


def test_llf_is_a_fusion():
    assert build(small(), parse_one("cropr:fusion=llf"), 0.65).model.llf
    assert not build(small(), parse_one("cropr"), 0.65).model.llf
    assert build(small(), parse_one("cropr:llf=false", dense=True), 0.65).model.fusion == "none"


def objective_of(text, epochs=None, vit=None, budget=0.65):
    vit = vit or small()
    built = build(vit, parse_one(text, dense=True), budget)
    return built.model, built.method.objective(Training(built.model, criterion(), lambda: small(), epochs))


def test_the_curriculum_reaches_the_rate_of_the_budget():
    model, objective = objective_of("cropr", epochs=7)
    assert isinstance(objective, CroprDenseObjective) and objective.curriculum is not None
    final = [reducer.keep for reducer in model.reducers.values()]
    rates = []
    for epoch in range(7):
        objective.before_step(model, epoch / 7)
        rates.append([63 - model.reducers["0"].keep, model.reducers["3"].keep])
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 11, 32, 32)
    assert rates[0] == [0, 63]  # one patch leaves from the beginning
    assert [rate for rate, _ in rates] == sorted(rate for rate, _ in rates)
    assert [keep for _, keep in rates][3:] == [final[-1]] * 4
    objective.before_step(model, 1.0)
    assert [reducer.keep for reducer in model.reducers.values()] == final
    assert objective.curriculum.record()["evaluated_with_removed_per_module"] == [
        a - b for a, b in zip([64, *final], final, strict=False)
    ]
    assert objective_of("cropr:curriculum=false", epochs=7)[1].curriculum is None
    assert type(objective_of("random", epochs=7)[1]) is DenseObjective
    with pytest.raises(ValueError, match="dense tasks"):
        parse_one("cropr:curriculum=true")


@pytest.mark.parametrize("text", ["none", "tome", "evit", "random", "cropr", "evit:fusion=logits"])
def test_split_batches_have_the_loss_of_the_whole(text):
    """Labelled pixels are not spread evenly: a mean of means would be another loss."""
    model, objective = objective_of(text, epochs=3)
    model.train()
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(11, (4, 32, 32), generator=generator)
    target[:2, :, :24] = 255
    x = torch.randn(4, 3, 32, 32, generator=generator)

    def loss_of(rows, counts=None):
        torch.manual_seed(0)
        terms, own = objective(model, SimpleNamespace(images=x[rows], target=target[rows]))
        return weighted_loss(
            {k: t for k, t in terms.items() if k in ("main", "ce") or k[:3] == "aux"}, counts or own
        ), own

    whole, counts = loss_of(slice(0, 4))
    parts = loss_of(slice(0, 2), counts)[0] + loss_of(slice(2, 4), counts)[0]
    torch.testing.assert_close(parts, whole)
    means = (loss_of(slice(0, 2))[0] + loss_of(slice(2, 4))[0]) / 2
    assert (means - whole).abs() > 1e-4


def test_images_without_a_label_give_no_loss_and_no_nan():
    model, objective = objective_of("cropr", epochs=3)
    batch = SimpleNamespace(images=torch.randn(2, 3, 32, 32), target=torch.full((2, 32, 32), 255))
    loss = weighted_loss(*objective(model.train(), batch))
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dynamicvit_distils_every_patch():
    torch.manual_seed(0)
    model, objective = objective_of("dynamicvit")
    assert isinstance(objective.teacher, DenseViT)
    batch = SimpleNamespace(images=torch.randn(2, 3, 32, 32), target=torch.randint(11, (2, 32, 32)))
    torch.manual_seed(5)
    terms, counts = objective(model.train(), batch)
    torch.manual_seed(5)
    tokens = model.forward_features(batch.images)
    ours, theirs = model.patch_logits(tokens).log_softmax(-1), objective.teacher.eval()
    theirs = theirs.patch_logits(theirs.forward_features(batch.images)).log_softmax(-1)
    right = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    kl = weighted_loss({"kl": terms["kl"]}, counts)
    torch.testing.assert_close(kl, 0.5 * right)
    assert counts["kept"] == tokens.aux[-1].sum() and counts["label"] == 2 * 32 * 32


# Evaluation


def test_evaluation_keeps_the_confusion_of_every_image():
    model, data = DenseViT(small()), create_dataset(config())
    batches = [data.batch("test", np.arange(10)), data.batch("test", np.arange(10, 15))]
    batches[0].target[0, :16] = 255
    found = evaluate(model, batches, "cpu")
    assert found.predictions["confusion"].shape == (15, 11, 11)
    assert found.predictions["item"].tolist() == list(range(15))
    with torch.no_grad():
        said = torch.cat([model(batch.images).argmax(1) for batch in batches])
    labels = torch.cat([batch.target for batch in batches])
    ious = []
    for c in range(11):
        valid = labels != 255
        union = (((said == c) | (labels == c)) & valid).sum()
        if union:
            ious.append(float(((said == c) & (labels == c) & valid).sum() / union))
    assert found.metrics["miou"] == pytest.approx(np.mean(ious))
    assert found.predictions["confusion"][0].sum() == 16 * 32
    assert "boundary_miou" in found.metrics and all(value == value for value in found.metrics.values())


@torch.no_grad()
def test_images_of_other_sizes_are_seen_through_windows_and_logits_resized_to_the_mask():
    model = DenseViT(small()).eval()
    x = torch.randn(1, 3, 32, 53)
    logits = predict(model, x, torch.Size((40, 60)))
    assert logits.shape == (1, 11, 40, 60)
    same = predict(model, x[..., :32], torch.Size((32, 32)))
    assert same.equal(model(x[..., :32]))
    whole = predict(model, x, torch.Size((32, 53)))
    torch.testing.assert_close(whole[..., :21], model(x[..., :32])[..., :21])  # covered by the first window only
    batch = Batch(x, torch.zeros(1, 40, 60, dtype=torch.long), torch.zeros(1).long(), torch.zeros(1).long())
    assert evaluate(model, [batch], "cpu").predictions["confusion"].sum() == 40 * 60


def test_backbones_for_other_image_sizes():
    assert sized_for("scenes_vit", 32) == {}
    assert sized_for("vit_tiny_patch16_224", 512) == {"img_size": 512}
    assert sized_for("vit_small_patch14_dinov2", 512) == {"img_size": 512, "patch_size": 16}
    assert sized_for("vit_small_patch14_dinov2", 518) == {}


# Training, records, the command line


def test_the_trainer_sets_the_rates_of_each_epoch(tmp_path):
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=11)
    model, objective = objective_of("cropr", epochs=3, vit=vit, budget=0.85)
    seen = []
    model.reducers["0"].register_forward_hook(
        lambda module, args, out: seen.append(module.keep) if module.training else None
    )
    (tmp_path / "run").mkdir()
    Trainer(model, objective, create_dataset(config()), TINY, tmp_path / "run").run()
    keeps = objective.curriculum.keeps[0]
    assert seen == [keeps[epoch] for epoch in range(3) for _ in range(3)] and len(set(keeps)) > 1
    assert model.reducers["0"].keep == keeps[-1]


@pytest.mark.parametrize("text", ["none", *ALL, *(f"cropr:fusion={mode}" for mode in FUSIONS)])
def test_saved_models_say_the_same(tmp_path, text):
    vit = create_backbone("scenes_vit", num_classes=11, pretrained=False)
    model = build(vit, parse_one(text, dense=True), None if text == "none" else 0.65).model.eval()
    deploy.save(model, tmp_path / "model", backbone="scenes_vit", data_config=None)
    loaded, x = deploy.load(tmp_path / "model"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert loaded(x).equal(model.fold()(x))


def test_show_draws_masks_kept_patches_and_errors():
    data = create_dataset(config())
    batch = data.test_items([0, 3])
    true = batch.target[1].numpy()
    said = true.copy()
    said[:4] = 5
    true[-2:] = 255
    maps, right = pixel_maps(true, said)
    labels, predicted, errors = (shown.picture for shown in maps)
    assert right == pytest.approx((true == said)[true != 255].mean())
    assert (labels[true == 0] == 0).all() and (labels[true == 255] == errors[-1, 0]).all()
    assert (predicted[:4] == predicted[0, 0]).all() and (errors[true == said] == 1).all()
    colours = {tuple(pixel_maps(np.full((1, 1), c), np.full((1, 1), c))[0][0][1][0, 0].round(2)) for c in range(11)}
    assert len(colours) == 11
    for text in ("cropr", "cropr:fusion=concat", "tome"):
        model = build(small(), parse_one(text, dense=True), 0.65).model.eval()
        found = trace(model, batch.images)
        assert found.logits.shape == (2, 11, 32, 32)
        behind = [after - 1 for _, _, after in model.token_counts()]
        live = [(held == torch.arange(64)).sum().item() for held in found.held[0]]
        assert live == behind
    row = Row("Cropr", "90 % of pixels", None, np.zeros((32, 32, 3)), found.held[0].numpy(), (8, 8), maps)
    figure = draw_rows([row, dataclasses.replace(row, maps=())], "test item 3")
    titles = [axes.get_title() for axes in figure.axes]
    assert [titles.count(name) for name in ("labels", "predicted", "errors")] == [1, 1, 1]


def test_the_published_recipe():
    recipe = RECIPES["cropr-ade20k"]
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.layer_decay) == (64, 8, 2e-5, 0.9)
    assert (recipe.schedule, recipe.warmup_epochs, recipe.weight_decay) == ("poly", 0.0, 0.05)


def test_rope_backbones_are_reduced_too():
    vit = tiny("eva_swiglu")
    for name in ALL:
        model = build(vit, parse_one(name, dense=True), 0.75).model.eval()
        with torch.no_grad():
            assert model(images()).shape == (3, 7, 48, 48)
