"""Dense prediction: logits of every pixel, the place of dropped patches, costs, masked training."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from tiny_models import DEPTH, HEADS, MODELS, NUM_PATCHES, SMALL, WIDTH, idle, images, place, possible, reducers, tiny
from torch.utils.flop_counter import FlopCounterMode

from baselines.dynamicvit import DynamicViT
from cropr.cropr import CroprModule
from cropr.dense import FUSIONS, ON_FULL_GRID, DenseViT, nearest_live, position_embedding
from cropr.macs import count, dense_macs
from cropr.tokens import Tokens
from cropr.vit import ReducedViT

SIDE = 6  # patches
KINDS = ("token", "avg", "registers_only", "distilled", "map", "eva_swiglu", "eva_mixed", "dinov3")
DROPPERS = ("cropr", "random", "evit", "dynamicvit")
CASES = [(method, name) for method in DROPPERS for name in KINDS if possible(method, name)]


def dense(method, name, fusion, **options):
    vit = tiny(name)
    full = fusion in ON_FULL_GRID
    found = reducers(method, vit, llf=full) if method in ("cropr", "random") else reducers(method, vit)
    found = {i: reducer for i, reducer in found.items() if not full or i < DEPTH - 1}
    return DenseViT(vit, found, fusion=fusion, **options).eval()


def plain_logits(vit, x):
    """timm's own model, its head on every patch."""
    patches = vit.forward_features(x)[:, vit.num_prefix_tokens :]
    return vit.head(vit.head_drop(vit.fc_norm(patches)))


def plain(vit, x):
    maps = plain_logits(vit, x).transpose(1, 2).unflatten(2, (SIDE, SIDE))
    return F.interpolate(maps, size=x.shape[-2:], mode="bilinear")


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_pruned_is_the_plain_model(name, fusion):
    vit, x = tiny(name), images()
    right = plain(vit, x)
    assert DenseViT(vit).eval()(x).equal(right)
    for method in ("cropr", "evit"):
        if possible(method, name):
            found = idle(method, llf=fusion in ON_FULL_GRID)
            assert DenseViT(vit, found, fusion=fusion).eval()(x).equal(right)
    assert DenseViT(vit, idle("tome")).eval()(x).equal(right)


# What becomes of dropped patches


def trace(model, x):
    """What enters the last block [B, T, D], and the tokens behind the final norm, of the model without a fusion."""
    bare = ReducedViT(model.vit, {int(i): reducer for i, reducer in model.reducers.items()}).eval()
    entering = []
    hook = model.vit.blocks[-1].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    final = bare.forward_features(x, track=True)
    hook.remove()
    return entering[0], final


def rope_at(vit, rope, positions, b):
    if rope is None:
        return {}
    if vit.rope_mixed:
        return {"rope": rope[-1][:, positions][None]}
    return {"rope": rope[positions]}


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("method", "name"), CASES)
def test_every_fusion_against_a_loop_over_patches(method, name, fusion):
    model, x = dense(method, name, fusion), images(HEADS)  # as many images as heads: see test_properties
    vit, prefix = model.vit, model.num_prefix_tokens
    if model.mask_token is not None:
        model.mask_token.normal_()
    for decoder in model.exits.values():
        decoder[-1].weight.normal_()
    logits = model.patch_logits(model.forward_features(x))
    assert logits.shape == (HEADS, NUM_PATCHES, vit.num_classes)
    entering, final = trace(model, x)
    embedded = vit._pos_embed(vit.patch_embed(x))
    rope = embedded[1] if isinstance(embedded, tuple) else None

    def decode(row):
        return vit.head(vit.fc_norm(row))

    stage_of = [i for i in sorted(model.reducers, key=int)]
    for b in range(HEADS):
        right = torch.empty(NUM_PATCHES, vit.num_classes)
        live = final.index[b].tolist()
        gone = {at: (x_, stage_of[s]) for s, (xs, where) in enumerate(final.dropped)
                for x_, at in zip(xs[b], where[b].tolist(), strict=True)}  # fmt: skip
        assert sorted([*live, *gone]) == list(range(NUM_PATCHES))
        if fusion in ON_FULL_GRID:
            rows = dict(zip(live, entering[b, prefix:], strict=True))
            where = position_embedding(vit, (SIDE, SIDE))
            for at, (row, _) in gone.items():
                filler = 0 if where is None else where[0, at]
                rows[at] = row if fusion == "llf" else model.mask_token + filler
            order = [*live, *gone]  # not in grid order: concatenate, run, reorder
            joined = torch.cat([entering[b, :prefix], torch.stack([rows[at] for at in order])])[None]
            out = vit.norm(vit.blocks[-1](joined, **rope_at(vit, rope, order, b)))[0, prefix:]
            for at, row in zip(order, out, strict=True):
                right[at] = decode(row)
        else:
            for at, row in zip(live, final.patches[b], strict=True):
                right[at] = decode(row)
            for at, (row, stage) in gone.items():
                if fusion == "none":
                    right[at] = decode(torch.zeros(WIDTH))
                elif fusion == "concat":
                    right[at] = decode(vit.norm(row))
                elif fusion == "logits":
                    right[at] = model.exits[stage](row)
                else:
                    distance = [(at % SIDE - n % SIDE) ** 2 + (at // SIDE - n // SIDE) ** 2 for n in sorted(live)]
                    nearest = sorted(live)[distance.index(min(distance))]
                    right[at] = decode(final.patches[b, live.index(nearest)])
        torch.testing.assert_close(logits[b], right, atol=1e-5, rtol=1e-5)
        assert (logits[b].roll(1, 0) - right).abs().max() > 1e-3


@torch.no_grad()
def test_fusions_differ_and_exits_begin_as_the_decoder():
    found = {fusion: dense("random", "token", fusion)(images()) for fusion in FUSIONS}
    assert found.pop("logits").allclose(found["concat"], atol=1e-6)
    outputs = list(found.values())
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[:i])


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "eva_swiglu"])
def test_merged_patches_predict_what_their_owner_does(name):
    vit, x = tiny(name), images()
    model = DenseViT(vit, reducers("tome", vit)).eval()
    assert model.fusion == "unmerge"
    tokens = ReducedViT(vit, reducers("tome", vit)).eval().forward_features(x, track=True)
    logits = model.patch_logits(model.forward_features(x))
    for b in range(len(x)):
        for at, owner in enumerate(tokens.owner[b].tolist()):
            torch.testing.assert_close(logits[b, at], vit.head(vit.fc_norm(tokens.patches[b, owner])))


def test_nearest_of_equals_is_the_first_in_grid_order():
    tokens = Tokens(torch.zeros(2, 3, 4), 1, 9, index=torch.tensor([[8, 0], [5, 3]]))
    assert nearest_live(tokens, 3).tolist() == [[1, 1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0, 1, 1, 0]]


# Sizes and costs


@torch.no_grad()
def test_images_that_patches_do_not_divide_are_padded_and_cut():
    vit = tiny("token", dynamic_img_size=True)
    model = DenseViT(vit, place("cropr", vit, 30, rate=3, rest="llf"), img_size=(43, 38)).eval()
    x = torch.randn(2, 3, 43, 38)
    assert model(x).shape == (2, 7, 43, 38)
    whole = DenseViT(vit, {int(i): r for i, r in model.reducers.items()}, img_size=(48, 40)).eval()
    assert model(x).equal(whole(F.pad(x, (0, 2, 0, 5)))[..., :43, :38])
    with pytest.raises(ValueError, match="made for 48 x 40"):
        model(torch.randn(1, 3, 38, 43))


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("method", ["cropr", "random", "evit", "dynamicvit", "tome"])
def test_macs_are_those_that_torch_counts(method, fusion):
    vit = tiny("avg").requires_grad_(False)
    model = DenseViT(vit, reducers("tome", vit)).eval() if method == "tome" else dense(method, "avg", fusion)
    for block in model.vit.blocks:
        block.attn.fused_attn = False
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model.fold()(images(1))
    macs = count(model)
    assert counter.get_total_flops() == 2 * macs.total
    assert macs.decoder == NUM_PATCHES * WIDTH * 7
    assert macs.total < dense_macs(vit, decoder=True)
    assert macs.record(1)["decoder"] == macs.decoder / 1e9
    assert "decoder" not in count(ReducedViT(vit)).record(1)


@torch.no_grad()
def test_counts_of_the_paper_at_512_pixels_as_they_come_by():
    vit = VisionTransformer(img_size=512, patch_size=16, embed_dim=16, depth=24, num_heads=2, num_classes=3)
    model = DenseViT(vit, place("cropr", vit, 1024, rate=40, rest="llf", queries=1024)).eval()
    seen = []
    for block in vit.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    assert model(torch.randn(1, 3, 512, 512)).shape == (1, 3, 512, 512)
    assert seen == [1025, *range(984, 143, -40), 1025]


def test_1024_queries_cost_one_vector_at_inference():
    vit = tiny("token")
    one, many = (DenseViT(vit, place("cropr", vit, NUM_PATCHES, rate=5, rest="llf", queries=q)) for q in (1, 1024))
    assert count(one) == count(many)
    assert [r.weight.shape for r in many.fold().reducers.values()] == [(WIDTH,)] * 3
    assert not list(many.fold().reducers.parameters())


def test_the_aggregator_does_not_hold_all_weights():
    """[B, M, T] attention weights per head would be the largest tensor by far."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            found = out if isinstance(out, (tuple, list)) else (out,)
            self.numel = max([self.numel, *(t.numel() for t in found if torch.is_tensor(t))])
            return out

    module = CroprModule(100, WIDTH, 7, queries=512, heads=4).train()
    x = torch.randn(2, 513, WIDTH)
    with Largest() as largest:
        module.predict(x).sum().backward()
    assert largest.numel < 2 * 512 * 513
    assert largest.numel >= 2 * 512 * WIDTH * 4  # the MLP of the aggregator


# Masked training


class Forced(DynamicViT):
    """Marks what inference would drop."""

    def decide(self, log_prob):
        alive = (log_prob[..., 0] + self.marked).topk(self.keep, dim=1).indices
        return torch.zeros_like(log_prob[..., 0]).scatter(1, alive, 1.0)

    def forward(self, tokens, attended=None):
        self.marked = 0.0 if tokens.policy is None else (tokens.policy - 1) * 1e6
        return super().forward(tokens, attended)


@torch.no_grad()
def soft(name):
    """On sharp attention the epsilon of the masked one shows: a marked key may have far the highest logit."""
    vit = tiny(name)
    for key, parameter in vit.named_parameters():
        if key.endswith(("qkv.weight", "q_proj.weight", "q_norm.weight")):
            parameter[: parameter.shape[0] // (3 if "qkv" in key else 1)] *= 0.3
    return vit


def forced(vit):
    found = {}
    for i, reducer in reducers("dynamicvit", vit).items():
        found[i] = Forced(reducer.keep, WIDTH)
        found[i].load_state_dict(reducer.state_dict())
    assert max(found) < DEPTH - 1
    return found


class Moving(DenseViT):
    """Lets marked tokens go on changing."""

    def _run_block(self, *args):
        return self._through_block(*args)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", ["token", "avg", "eva_swiglu", "dinov3"])
def test_masked_is_what_inference_does(name, fusion):
    """The same decisions, marked or carried out. Predictors see the means of live tokens either way."""
    vit = soft(name)
    found = forced(vit)
    model = DenseViT(vit, found, fusion=fusion, policy="exact").eval()
    right = model(images())
    model.masked_eval = True
    torch.testing.assert_close(model(images()), right, atol=2e-4, rtol=1e-3)
    if fusion in ("llf", "concat"):
        wrong = Moving(vit, found, fusion=fusion, policy="exact").eval()
        wrong.masked_eval = True
        assert (wrong(images()) - right).abs().max() > 2e-2


@torch.no_grad()
def test_masked_fusion_for_images():
    vit = soft("avg")
    model = ReducedViT(vit, forced(vit), llf=True, policy="exact").eval()
    right = model(images())
    model.masked_eval = True
    torch.testing.assert_close(model(images()), right, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_masked_training_reaches_predictors_and_backbone(fusion):
    model = dense("dynamicvit", "token", fusion, policy="exact").train()
    torch.manual_seed(0)
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Copies and refusals


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_folded_and_copied_models_say_the_same(fusion):
    model, x = dense("cropr", "token", fusion), images()
    right = model(x)
    assert model.fold()(x).allclose(right, atol=1e-6)
    assert copy.deepcopy(model)(x).equal(right)
    assert [key for key in model.state_dict() if key.startswith("vit.")] == [f"vit.{k}" for k in model.vit.state_dict()]


def test_refusals_name_what_is_valid():
    vit = tiny("token")
    with pytest.raises(ValueError, match="unknown fusion 'lff'; valid: llf, none, concat"):
        DenseViT(vit, fusion="lff")
    with pytest.raises(ValueError, match="valid: unmerge"):
        DenseViT(vit, reducers("tome", vit), fusion="llf")
    with pytest.raises(ValueError, match="EViT fuses them; use rest=llf"):
        DenseViT(vit, {1: reducers("evit_fused", vit)[1]}, fusion="none")
    with pytest.raises(ValueError, match="last block"):
        DenseViT(vit, {DEPTH - 1: CroprModule(9, WIDTH, 7)})


def test_position_embedding_of_another_grid_is_timms():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, dynamic_img_size=True)
    x = torch.zeros(1, 3, 96, 64)
    embedded = vit.patch_embed(x)
    right = vit._pos_embed(embedded)[:, 1:] - embedded.flatten(1, 2)
    torch.testing.assert_close(position_embedding(vit, (6, 4)), right)
    assert SMALL["img_size"] == SIDE * SMALL["patch_size"]
