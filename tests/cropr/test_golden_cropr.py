"""Cropr against numbers of the official implementation, classification and segmentation."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from golden_numbers import (
    GRADIENT_ATOL,
    NORM_RTOL,
    Recorder,
    backbone,
    below,
    misses,
    numbers,
    same,
    same_gradient,
    scatter,
    score_atol,
    tensors,
)
from tiny_models import place

from cropr.cropr import CroprModule, CroprObjective
from cropr.dense import DenseViT
from cropr.method.dense_objective import CroprDenseObjective, Curriculum, patch_target
from cropr.method.objective import CrossEntropy, weighted_loss
from cropr.reducer import token_counts
from cropr.schedule import constant, curriculum
from cropr.tokens import Tokens
from cropr.vit import ReducedViT

UNITS = {
    "q1": {},
    "q1_nomlp": {"mlp": False},
    "full_q1": {"heads": 4, "q_proj": True, "k_proj": True, "v_proj": True, "pre_norm": True},
    "full_q7": {"queries": 7, "heads": 4, "q_proj": True, "k_proj": True, "v_proj": True, "pre_norm": True},
}
CASES = numbers("cropr_cls/cases")
SEGM_CASES = numbers("cropr_segm/cases")


def classifier(llf=True, **options):
    vit = backbone("cropr_cls/backbone_token", **CASES["meta"]["timm_VisionTransformer_args"]["token"])
    modules = place("cropr", vit, 64, rate=5, rest="llf" if llf else "drop", **options)
    weights = tensors("cropr_cls/method_q1")
    for i, module in modules.items():
        module.load_state_dict(below(weights, f"modules.{i}."), strict=True)
    return ReducedViT(vit, modules, llf=llf)


def segmenter():
    vit = backbone("cropr_segm/backbone_avg", "Eva", **SEGM_CASES["meta"]["timm_Eva_args"]["avg"])
    modules = place("cropr", vit, 64, rate=6, rest="llf", queries=64)
    weights = tensors("cropr_segm/method_plain")
    for i, module in modules.items():
        module.load_state_dict(below(weights, f"modules.{i}."), strict=True)
    return ReducedViT(vit, modules, llf=True)


def observed(recorder):
    """Per module: raw scores [B, 1 + L] in grid order, class token first, and the tokens kept [B, 1 + L]."""
    for module, (tokens, *_), out in recorder.calls:
        whole = torch.cat([torch.zeros_like(tokens.positions()[:, :1]), tokens.positions() + 1], dim=1)
        class_score = tokens.x[:, :1] @ module.folded_weight()
        scores = scatter(torch.cat([class_score, module.score(tokens)], dim=1), whole, 1 + tokens.grid)
        kept = scatter(torch.ones_like(out.index), out.index + 1, 1 + tokens.grid, 0)
        kept[:, 0] = 1
        yield scores, kept.to(torch.uint8)


def patch_logits(model, tokens):
    return model.vit.head(model.vit.fc_norm(tokens.patches))


def norms_agree(model, expected):
    grads = {name.removeprefix("vit."): p.grad for name, p in model.named_parameters()}
    grads = {name.replace("reducers.", "modules."): grad for name, grad in grads.items()}
    for name, norm in expected.items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=NORM_RTOL), name


def test_classification_in_evaluation():
    model, inputs, expected = classifier(), tensors("cropr_cls/inputs"), tensors("cropr_cls/expected_token_llf")
    case, recorder = CASES["cases"]["token_llf"], Recorder(model)
    with torch.no_grad():
        tokens = model.forward_features(inputs["images"])
        same(model.forward_head(tokens), expected["eval.logits"])
        same(model.vit(inputs["images"]), expected["unpruned.logits"])
    same(tokens.x, expected["eval.final_tokens"])
    same(torch.stack(recorder.class_tokens[:8]), expected["eval.block_cls"])
    for i, (scores, kept) in enumerate(observed(recorder)):
        same(scores, expected["eval.scores"][i], score_atol(expected["eval.scores"][i]))
        assert kept.equal(expected["eval.kept"][i])
        assert [row.nonzero().flatten().tolist() for row in kept] == case["kept_token_ids_sorted"][i]
    assert len(recorder.calls) == 6
    assert [after for _, _, after in model.token_counts()][:6] == case["tokens_after_module"]
    with torch.no_grad():
        same(model.fold()(inputs["images"]), expected["eval.logits"])


def test_classification_in_training():
    model, inputs, expected = classifier().train(), tensors("cropr_cls/inputs"), tensors("cropr_cls/expected_token_llf")
    tokens = model.forward_features(inputs["images"])
    same(model.forward_head(tokens), expected["train.logits"])
    same(torch.stack([logits[:, 0] for logits in tokens.aux]), expected["train.aux_logits"])

    batch = SimpleNamespace(images=inputs["images"], target=inputs["targets"])
    terms, counts = CroprObjective(CrossEntropy())(model, batch)
    loss = weighted_loss(terms, counts)
    parts = [weighted_loss({name: terms[name]}, counts) for name in ("main", *(f"aux_{i}" for i in range(6)))]
    losses = torch.stack([loss, *parts])
    same(losses, expected["train.losses"])
    loss.backward()
    same_gradient(model.vit.blocks[0].attn.qkv.weight, expected["train.grad.blocks.0.attn.qkv.weight"])
    for i in (0, 5):
        same_gradient(model.reducers[str(i)].queries, expected[f"train.grad.modules.{i}.queries"])
    norms_agree(model, CASES["cases"]["token_llf"]["grad_norm_of_total_loss"])


def test_wrong_classifiers_are_told_apart():
    inputs, expected = tensors("cropr_cls/inputs"), tensors("cropr_cls/expected_token_llf")
    scores = expected["eval.scores"][0]
    misses(scores * 48**-0.5, scores, score_atol(scores))  # scaled as in attention
    with torch.no_grad():
        misses(classifier(llf=False)(inputs["images"]), expected["eval.logits"])  # dropped tokens do not come back

    attached = classifier(detach=False).train()
    batch = SimpleNamespace(images=inputs["images"], target=inputs["targets"])
    loss = weighted_loss(*CroprObjective(CrossEntropy())(attached, batch))
    loss.backward()
    right = expected["train.grad.blocks.0.attn.qkv.weight"]
    gradient = attached.vit.blocks[0].attn.qkv.weight.grad
    misses(gradient, right, GRADIENT_ATOL * right.abs().max().item())
    norm = CASES["cases"]["token_llf"]["grad_norm_of_total_loss"]["blocks.0.attn.qkv.weight"]
    assert abs(gradient.norm().item() / norm - 1) > 10 * NORM_RTOL
    misses(loss / 7, expected["train.losses"][0])  # mean of the losses instead of their sum


def unit(name):
    module = CroprModule(15, 48, 10, **UNITS[name])
    weights = below(tensors(f"cropr_cls/method_{name.removesuffix('_nomlp')}"), "modules.2.")
    if name == "q1_nomlp":
        weights = {key: value for key, value in weights.items() if not key.startswith("mlp")}
    module.load_state_dict(weights, strict=True)
    return module


@pytest.mark.parametrize("scale", ["normal", "tiny"])
@pytest.mark.parametrize("name", UNITS)
def test_one_module_with_every_projection(name, scale):
    expected, module = tensors("cropr_cls/expected_unit_module"), unit(name).train()
    tokens = Tokens(expected[f"{scale}.x"], num_prefix=1, grid=20, track=True)
    expected = below(expected, f"{name}.{scale}.")
    aggregated = []
    module.aux_head.register_forward_pre_hook(lambda _, args: aggregated.append(args[0]))
    out = module(tokens)
    one = expected["aux_logits"].ndim == 2  # the release drops the axis of a single query
    same(out.aux[0][:, 0] if one else out.aux[0], expected["aux_logits"])
    same(aggregated[0][:, 0] if one else aggregated[0], expected["aggregated"])
    same(out.x, expected["kept_tokens_sorted_by_score"])
    same(out.dropped[0][0], expected["pruned_tokens_sorted_by_score"])

    atol = score_atol(expected["scores"])
    with torch.no_grad():
        class_score = module.pre_attn_norm(tokens.x[:, 0]) @ module.folded_weight()
        same(class_score, expected["scores"][:, 0], atol)
        same(module.score(tokens), expected["scores"][:, 1:], atol)
        folded = module.fold().eval()
        same(folded.score(tokens), expected["scores"][:, 1:], atol)
        same(folded(tokens).x, expected["kept_tokens_sorted_by_score"])


def test_wrong_modules_are_told_apart():
    expected = tensors("cropr_cls/expected_unit_module")
    tokens = Tokens(expected["tiny.x"], num_prefix=1, grid=20)
    right = expected["full_q7.tiny.scores"]
    misses(right / 7, right, score_atol(right))  # mean over the queries
    wrong = unit("full_q7")
    wrong.pre_attn_norm.eps = 1e-5
    misses(wrong.score(tokens), right[:, 1:], score_atol(right))
    head = unit("q1_nomlp")
    head.aux_head.norm.eps = 1e-6
    misses(head.predict(tokens.x)[:, 0], expected["q1_nomlp.tiny.aux_logits"])


@pytest.mark.parametrize("batch", [3, 4])  # 4 heads: a rotary embedding that is broadcast over heads would pass unseen
def test_segmentation_in_evaluation(batch):
    model, inputs, expected = segmenter(), tensors("cropr_segm/inputs"), tensors("cropr_segm/expected_avg")
    recorder, which = Recorder(model), torch.arange(batch) % 3
    with torch.no_grad():
        tokens = model.forward_features(inputs["images"][which])
        logits = patch_logits(model, tokens)
    same(logits, expected["eval.patch_logits"][which])
    masks = logits.transpose(1, 2).unflatten(2, (8, 8))
    same(F.interpolate(masks, size=(64, 64), mode="bilinear"), expected["eval.masks"][which])
    same(torch.stack(recorder.class_tokens[:6]), expected["eval.block_cls"][:, which])
    for i, (scores, kept) in enumerate(observed(recorder)):
        right = expected["eval.scores"][i][which]
        same(scores, right, score_atol(right))
        assert kept.equal(expected["eval.kept"][i][which])
    assert len(recorder.calls) == 4
    assert [after for _, _, after in model.token_counts()][:4] == SEGM_CASES["cases"]["avg"]["tokens_after_module"]


def test_segmentation_without_reduction():
    model, inputs, expected = segmenter(), tensors("cropr_segm/inputs"), tensors("cropr_segm/expected_avg")
    plain = ReducedViT(model.vit, {}, llf=True).eval()
    with torch.no_grad():
        same(patch_logits(plain, plain.forward_features(inputs["images"])), expected["unpruned.patch_logits"])


def test_segmentation_in_training():
    model, inputs, expected = segmenter().train(), tensors("cropr_segm/inputs"), tensors("cropr_segm/expected_avg")
    tokens = model.forward_features(inputs["images"])
    assert all(logits.shape == (3, 64, 5) for logits in tokens.aux)
    aux = [logits.transpose(1, 2).unflatten(2, (8, 8)) for logits in tokens.aux]
    same(torch.stack(aux), expected["train.aux_masks"])
    masks = patch_logits(model, tokens).transpose(1, 2).unflatten(2, (8, 8))
    masks = F.interpolate(masks, size=(64, 64), mode="bilinear")
    same(masks, expected["train.masks"])

    truth, small = inputs["seg_gt"].long(), expected["train.seg_gt_down"].long()
    criterion = CrossEntropy(ignore_index=255)
    main = criterion(masks, truth) / criterion.count(truth)
    auxiliary = [criterion(logits, small) / criterion.count(small) for logits in aux]
    loss = main + sum(auxiliary)
    same(torch.stack([loss, main, *auxiliary]), expected["train.losses"])
    loss.backward()
    same_gradient(model.vit.blocks[0].attn.q_proj.weight, expected["train.grad.blocks.0.attn.q_proj.weight"])
    for i in (0, 3):
        same_gradient(model.reducers[str(i)].queries, expected[f"train.grad.modules.{i}.queries"])
    norms_agree(model, SEGM_CASES["cases"]["avg"]["grad_norm_of_total_loss"])


def test_segmentation_objective():
    """The model, the auxiliary targets, and the loss, as a run has them."""
    bare, inputs, expected = segmenter(), tensors("cropr_segm/inputs"), tensors("cropr_segm/expected_avg")
    model = DenseViT(bare.vit, {int(i): reducer for i, reducer in bare.reducers.items()}).train()
    batch = SimpleNamespace(images=inputs["images"], target=inputs["seg_gt"].long())
    assert patch_target(batch.target, (8, 8)).equal(expected["train.seg_gt_down"].long())
    same(model(inputs["images"]), expected["train.masks"])
    terms, counts = CroprDenseObjective(CrossEntropy(ignore_index=255))(model, batch)
    assert counts == {"label": (batch.target != 255).sum(), "patch": (expected["train.seg_gt_down"] != 255).sum()}
    loss = weighted_loss(terms, counts)
    parts = [weighted_loss({name: terms[name]}, counts) for name in ("main", *(f"aux_{i}" for i in range(4)))]
    same(torch.stack([loss, *parts]), expected["train.losses"])
    loss.backward()
    same_gradient(model.vit.blocks[0].attn.q_proj.weight, expected["train.grad.blocks.0.attn.q_proj.weight"])
    for i in (0, 3):
        same_gradient(model.reducers[str(i)].queries, expected[f"train.grad.modules.{i}.queries"])
    norms_agree(model, SEGM_CASES["cases"]["avg"]["grad_norm_of_total_loss"])
    model.eval()
    with torch.no_grad():
        same(model.patch_logits(model.forward_features(inputs["images"])), expected["eval.patch_logits"])
        same(model.fold()(inputs["images"]), expected["eval.masks"])
    # Ignored pixels that count, or labels from another corner of the patch, are told apart.
    everything = (batch.target >= 0).sum()
    misses(weighted_loss(terms, {**counts, "label": everything}), expected["train.losses"][0])
    assert not batch.target[:, 4::8, 4::8].equal(expected["train.seg_gt_down"].long())


def test_wrong_segmenters_are_told_apart():
    inputs, expected = tensors("cropr_segm/inputs"), tensors("cropr_segm/expected_avg")
    scores = expected["eval.scores"][0]
    misses(scores / 64, scores, score_atol(scores))  # mean over the queries
    right = expected["eval.patch_logits"]
    misses(right.flip(1), right)  # not in grid order
    masks = right.transpose(1, 2).unflatten(2, (8, 8))
    misses(F.interpolate(masks, size=(64, 64), mode="bilinear", align_corners=True), expected["eval.masks"])
    misses(expected["unpruned.patch_logits"], right)

    # Rotary embeddings that stay behind when tokens leave: those of the first positions of the grid.
    model = segmenter()
    with torch.no_grad():
        embedded, rope = model.vit._pos_embed(model.vit.patch_embed(inputs["images"]))
        tokens = Tokens(embedded, 1, 64, track=True)
        for i, block in enumerate(model.vit.blocks):
            last = i == len(model.vit.blocks) - 1
            tokens = tokens.restore() if last else tokens
            tokens = Tokens(**{**vars(tokens), "x": block(tokens.x, rope=rope[: tokens.num_live])})
            tokens = model.reducers[str(i)](tokens) if str(i) in model.reducers else tokens
    misses(patch_logits(model, tokens), right)


@pytest.mark.parametrize("row", numbers("schedules/cropr")["segm_curriculum"], ids=lambda row: str(row["epochs"]))
def test_curriculum(row):
    ours = curriculum(row["pruning_rate"], row["epochs"])
    assert len(ours) == row["epochs"]
    # The release is one epoch short for an odd number of them, and float32 puts it off by one here and there.
    official = row["rate_per_epoch"] + [row["pruning_rate"]] * (row["epochs"] - row["length"])
    slips = {slip["epoch"]: slip for slip in row["differs_from_exact_integer_floor_at"]}
    for epoch, (rate, theirs) in enumerate(zip(ours, official, strict=True)):
        assert rate == (slips[epoch]["exact_floor"] if epoch in slips else theirs)
    for rate, removed in zip(ours, row["rates_of_the_4_modules_for_the_first_epochs"], strict=False):
        if rate == removed[1]:
            keeps = [1024, *constant(1024, rate, 4, first_extra=1)]
            assert [a - b for a, b in zip(keeps, keeps[1:], strict=False)] == removed


@pytest.mark.parametrize("row", numbers("schedules/cropr")["segm_curriculum"], ids=lambda row: str(row["epochs"]))
def test_curriculum_of_a_model(row):
    """What modules keep in each epoch, odd numbers of them too, is what the release would remove."""
    rate, epochs = row["pruning_rate"], row["epochs"]
    reducers = {i: CroprModule(keep, 8, 2) for i, keep in enumerate(constant(1024, rate, 4, first_extra=1))}
    plan = Curriculum(reducers, 1024, epochs, first_extra=1)
    for epoch, expected in enumerate(curriculum(rate, epochs)):
        keeps = [1024, *(plan.keeps[i][epoch] for i in range(4))]
        assert [a - b for a, b in zip(keeps, keeps[1:], strict=False)] == [expected + 1, *[expected] * 3]
    assert plan.record()["evaluated_with_removed_per_module"] == [rate + 1, *[rate] * 3]

    steps, model = 7, SimpleNamespace(reducers={str(i): reducer for i, reducer in reducers.items()})
    for step in range(steps * epochs):
        plan.set(model, step / (steps * epochs))
        assert model.reducers["2"].keep == plan.keeps[2][step // steps]
    plan.set(model, 1.0)
    assert [reducer.keep for reducer in reducers.values()] == constant(1024, rate, 4, first_extra=1)


@pytest.mark.parametrize("row", numbers("schedules/cropr")["counts"], ids=lambda row: f"{row['task']}-{row['rate']}")
def test_counts_of_the_papers_models(row):
    modules = row["depth"] - (2 if row["llf"] else 1)
    patches = (row["img"] // row["patch"]) ** 2
    keeps = constant(patches, row["rate"], modules, first_extra=1)
    assert [1 + keep for keep in keeps] == row["tokens_after_module"]
    reducers = {i: CroprModule(keep, 8, 2) for i, keep in enumerate(keeps)}
    counts = token_counts(reducers, row["depth"], patches, 1, llf=row["llf"])
    assert [after for _, _, after in counts][:modules] == row["tokens_after_module"]
    assert counts[-1][0] == (1 + patches if row["llf"] else row["tokens_after_module"][-1])
