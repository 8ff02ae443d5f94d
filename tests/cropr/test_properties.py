"""What every reducer must have, over tiny timm models of every kind."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from tiny_models import (
    DEPTH,
    FUSIBLE,
    HEADS,
    MODELS,
    NUM_PATCHES,
    PAIRS,
    SMALL,
    WIDTH,
    idle,
    images,
    place,
    possible,
    reduced,
    reducers,
    tiny,
)

from baselines.tome import ToMe
from cropr.cropr import CroprModule, LinearScore
from cropr.macs import count, dense_macs, planned_macs
from cropr.reducer import Reducer
from cropr.tokens import Tokens
from cropr.vit import ReducedViT


def names(pairs):
    return [f"{method}-{name}" for method, name in pairs]


every_pair = pytest.mark.parametrize(("method", "name"), PAIRS, ids=names(PAIRS))
every_fusible = pytest.mark.parametrize(("method", "name"), FUSIBLE, ids=names(FUSIBLE))


# Nothing to do: the plain model, bit for bit


@torch.no_grad()
@every_pair
def test_idle_reducers_leave_the_plain_model(method, name):
    vit, x = tiny(name), images()
    plain = vit(x)
    model = ReducedViT(vit, idle(method)).eval()
    assert model(x).equal(plain)
    assert model.forward_features(x, track=True).x.equal(vit.forward_features(x))
    assert all(counts == model.token_counts()[0] for counts in model.token_counts())


@torch.no_grad()
@every_fusible
def test_idle_reducers_leave_the_plain_model_with_fusion(method, name):
    vit, x = tiny(name), images()
    assert ReducedViT(vit, idle(method, llf=True), llf=True).eval()(x).equal(vit(x))


def test_rate_zero_builds_nothing():
    vit = tiny("token")
    assert place("cropr", vit, NUM_PATCHES, rate=0) == {}
    assert place("tome", vit, NUM_PATCHES, r=0) == {}


# Token counts and costs


def seen_by_blocks(model, x):
    """(tokens in attention, tokens in the MLP) of every block, as they come by."""
    in_attn, in_mlp = [], []
    hooks = [block.attn.register_forward_pre_hook(lambda _, a: in_attn.append(a[0].shape[1])) for block in model.blocks]
    hooks += [block.mlp.register_forward_pre_hook(lambda _, a: in_mlp.append(a[0].shape[1])) for block in model.blocks]
    yield
    for hook in hooks:
        hook.remove()
    yield list(zip(in_attn, in_mlp, strict=True))


def counted(model, x):
    run = seen_by_blocks(model.vit, x)
    next(run)
    with torch.no_grad():
        out = model.forward_features(x)
    return next(run), out.x.shape[1]


@every_pair
def test_token_counts(method, name):
    model = reduced(method, name)
    seen, last = counted(model, images())
    assert seen == [(attn, mlp) for attn, mlp, _ in model.token_counts()]
    assert last == model.token_counts()[-1][2] < NUM_PATCHES + model.num_prefix_tokens


@every_fusible
def test_token_counts_with_fusion(method, name):
    vit = tiny(name)
    found = {i: reducer for i, reducer in reducers(method, vit, llf=True).items() if i < DEPTH - 1}
    model = ReducedViT(vit, found, llf=True).eval()
    seen, last = counted(model, images())
    assert seen == [(attn, mlp) for attn, mlp, _ in model.token_counts()]
    assert last == NUM_PATCHES + model.num_prefix_tokens
    assert seen[-2][0] < last


def on_meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


VIT = {size: f"vit_{name}_patch16_224" for size, name in zip("TSBL", ("tiny", "small", "base", "large"), strict=True)}


@pytest.mark.parametrize(("size", "giga"), [("T", 1.254), ("S", 4.599), ("B", 17.564), ("L", 61.555)])
def test_dense_macs(size, giga):
    assert round(dense_macs(on_meta(VIT[size])) / 1e9, 3) == giga


PUBLISHED = [
    ("S", "evit", {"keep": 0.9}, False, {3: 179, 6: 163, 9: 148}, 4.022),
    ("S", "evit", {"keep": 0.7}, False, {3: 140, 6: 100, 9: 72}, 3.029),
    ("S", "evit", {"keep": 0.5}, False, {3: 100, 6: 52, 9: 28}, 2.309),
    ("S", "evit", {"keep": 0.7, "rest": "drop"}, False, {3: 139, 6: 98, 9: 69}, 2.997),
    ("S", "evit", {"keep": 0.5, "rest": "drop"}, False, {3: 99, 6: 50, 9: 26}, 2.282),
    ("B", "evit", {"keep": 0.7}, False, {3: 140, 6: 100, 9: 72}, 11.610),
    ("S", "dynamicvit", {"ratio": 0.7}, False, {2: 138, 5: 97, 8: 68}, 2.878),
    ("B", "dynamicvit", {"ratio": 0.7}, False, {2: 138, 5: 97, 8: 68}, 11.064),
    ("S", "tome", {"r": 13}, False, {11: 41}, 2.703),
    ("S", "tome", {"r": 16}, False, {11: 11}, 2.291),
    ("B", "tome", {"r": 8}, False, {11: 101}, 13.104),
    ("B", "tome", {"r": 13}, False, {11: 41}, 10.367),
    ("B", "tome", {"r": 16}, False, {11: 11}, 8.772),
    ("B", "tome", {"r": 16, "inflect": -1}, False, {11: 10}, 5.864),
    ("L", "tome", {"r": 8}, False, {20: 29, 21: 21, 22: 13, 23: 7}, 30.963),
    ("L", "tome", {"r": 7}, False, {23: 29}, 34.710),
    ("L", "cropr", {"rate": 8, "rest": "llf"}, True, {0: 188, 1: 180, 21: 20, 22: 20, 23: 197}, 34.665),
    ("L", "cropr", {"rate": 8}, False, {0: 188, 21: 20, 22: 12, 23: 12}, 32.258),
]


@pytest.mark.parametrize(("size", "method", "options", "llf", "behind", "giga"), PUBLISHED)
def test_published_counts_and_macs(size, method, options, llf, behind, giga):
    vit = on_meta(VIT[size])
    with torch.device("meta"):
        found = place(method, vit, 196, **options)
    model = ReducedViT(vit, found, llf=llf)
    macs, counts = count(model), model.token_counts()
    assert {block: counts[block][2] for block in behind} == behind
    assert round(macs.backbone / 1e9, 3) == giga
    assert 0 < macs.scoring < 0.05 * macs.backbone
    assert macs == planned_macs(vit, found, (14, 14), llf=llf)
    if method == "dynamicvit":
        assert round(macs.total / 1e9, 3) == {"S": 2.981, "B": 11.476}[size]


def test_published_macs_at_512_pixels():
    vit = on_meta(VIT["L"], img_size=512)
    with torch.device("meta"):
        model = ReducedViT(vit, place("cropr", vit, 1024, rate=40, rest="llf"), llf=True)
    counts = model.token_counts()
    assert [after for _, _, after in counts][:22] == list(range(984, 143, -40))
    assert counts[22] == (144, 144, 144)
    assert counts[23] == (1025, 1025, 1025)
    assert round(dense_macs(vit) / 1e9, 1) == 362.0
    assert round(count(model).backbone / 1e9, 1) == 204.3


@pytest.mark.parametrize("row", [1, 4, 6, 9])
@pytest.mark.parametrize("size", ["T", "S"])
def test_counts_of_a_real_model_as_they_come_by(size, row):
    _, method, options, llf, behind, _ = PUBLISHED[row]
    vit = timm.create_model(VIT[size])
    model = ReducedViT(vit, place(method, vit, 196, **options), llf=llf).eval()
    seen, last = counted(model, images(1, 224))
    assert seen == [(attn, mlp) for attn, mlp, _ in model.token_counts()]
    after = [attn for attn, _ in seen[1:]] + [last]
    assert {block: after[block] for block in behind} == behind


# What becomes of each token


@torch.no_grad()
@every_pair
def test_every_token_is_accounted_for(method, name):
    model, calls = reduced(method, name), []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
    tokens = model.forward_features(images(), track=True)
    prefix = model.num_prefix_tokens
    for before, after in calls:
        assert after.num_prefix == prefix
        assert after.x[:, :prefix].equal(before.x[:, :prefix])
    everywhere = torch.arange(NUM_PATCHES).expand(3, -1)
    if method == "tome":
        held = F.one_hot(tokens.owner, tokens.num_live).sum(1)
        assert tokens.size[:, prefix:].equal(held.float())
        assert tokens.size[:, :prefix].eq(1).all()
        assert tokens.size.sum(1).eq(prefix + NUM_PATCHES).all()
        assert tokens.owner.gather(1, tokens.index).equal(torch.arange(tokens.num_live).expand(3, -1))
    else:
        positions = torch.cat([tokens.index, *(at for _, at in tokens.dropped)], dim=1).sort(1).values
        nowhere = positions.shape[1] - NUM_PATCHES
        assert positions[:, :nowhere].eq(-1).all()
        assert positions[:, nowhere:].equal(everywhere)
        # Three stages of EViT fuse three tokens, and each of them lives or was dropped again.
        assert nowhere == (3 if method == "evit_fused" else 0)


@torch.no_grad()
@every_fusible
def test_fusion_returns_to_grid_order(method, name):
    """Against the release's way: concatenate live and dropped tokens, run the last block, put them in order."""
    vit, x, calls = tiny(name), images(HEADS), []
    found = {i: reducer for i, reducer in reducers(method, vit, llf=True).items() if i < DEPTH - 1}
    fused = ReducedViT(vit, found, llf=True).eval()
    tokens = fused.forward_features(x)
    entering = ReducedViT(vit, found).eval()
    hooks = [vit.blocks[-1].register_forward_pre_hook(lambda _, args: calls.append(args[0]))]
    hooks += [found[max(found)].register_forward_hook(lambda _, args, out: calls.append(out))]
    entering.forward_features(x, track=True)
    for hook in hooks:
        hook.remove()
    state, live = sorted(calls, key=torch.is_tensor)
    prefix = fused.num_prefix_tokens
    position = torch.cat([state.index, *(at for _, at in state.dropped)], dim=1)
    joined = torch.cat([live, *(values for values, _ in state.dropped)], dim=1)
    kwargs = {}
    if isinstance(vit, Eva):
        rope = vit._pos_embed(vit.patch_embed(x))[1]
        if vit.rope_mixed:
            kwargs["rope"] = rope[-1][:, position].transpose(0, 1)
        else:
            kwargs["rope"] = rope[position].unsqueeze(1)
    out = vit.norm(vit.blocks[-1](joined, **kwargs))
    right = torch.empty_like(out)
    right[:, :prefix] = out[:, :prefix]
    right[:, prefix:] = right[:, prefix:].scatter(1, position[..., None].expand(-1, -1, WIDTH), out[:, prefix:])
    torch.testing.assert_close(tokens.x, right)
    assert tokens.index is None
    assert tokens.x.shape == (HEADS, prefix + NUM_PATCHES, WIDTH)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(out, right, atol=1e-4, rtol=1e-4)


# Size


def tripled(vit):
    """Tokens with one patch of size 3, and the same with three patches instead, in float64."""
    prefix = vit.num_prefix_tokens
    torch.manual_seed(3)
    x = torch.randn(2, prefix + 6, WIDTH, dtype=torch.float64)
    size = torch.ones(2, prefix + 6)
    size[:, -1] = 3
    single = Tokens(x, prefix, 8, size=size, proportional=True)
    return single, torch.cat([x, x[:, -1:], x[:, -1:]], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_block_counts_a_token_by_its_size(name):
    vit = tiny(name).double()
    single, three = tripled(vit)
    for block in vit.blocks:
        right = block(three)[:, :-2]
        torch.testing.assert_close(block(single.x, attn_mask=single.attn_bias()), right, atol=1e-6, rtol=0)
    assert (block(single.x) - right).abs().max() > 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_head_counts_a_token_by_its_size(name):
    vit = tiny(name).double()
    single, three = tripled(vit)
    model = ReducedViT(vit, {0: ToMe(1)}).eval()
    right = vit.forward_head(three)
    torch.testing.assert_close(model.forward_head(single), right, atol=1e-6, rtol=0)
    if vit.global_pool not in ("token", "max"):
        assert (vit.forward_head(single.x) - right).abs().max() > 1e-5


# Cropr


@pytest.mark.parametrize("name", MODELS)
def test_auxiliary_losses_do_not_reach_the_backbone(name):
    model = reduced("cropr", name).train()
    tokens = model.forward_features(images())
    sum(logits.square().sum() for logits in tokens.aux).backward()
    assert all(p.grad is None for p in model.vit.parameters())
    assert all(p.grad is not None for p in model.reducers.parameters())
    model.zero_grad()
    model(images()).square().sum().backward()
    assert all(p.grad is None for p in model.reducers.parameters())


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("projections", [False, True])
@pytest.mark.parametrize(("queries", "heads"), [(1, 1), (7, 1), (1, 4), (64, 4)])
def test_folded_scores_are_the_unfolded_ones(queries, heads, projections, pre_norm):
    torch.manual_seed(5)
    options = {name: projections for name in ("q_proj", "k_proj", "v_proj")}
    module = CroprModule(9, WIDTH, 7, queries=queries, heads=heads, pre_norm=pre_norm, **options)
    x = 2 * torch.randn(3, 1 + NUM_PATCHES, WIDTH) + 0.5
    if pre_norm:
        torch.nn.init.normal_(module.pre_attn_norm.weight, 1.0, 0.3)
        torch.nn.init.normal_(module.pre_attn_norm.bias, 0.0, 0.3)
    q = module.q_proj(module.queries)[0].unflatten(1, (heads, -1))
    k = module.k_proj(module.pre_attn_norm(x)).unflatten(2, (heads, -1))
    right = torch.einsum("mhe,bthe->bt", q.double(), k.double())[:, 1:].float()
    folded, tokens = module.fold(), Tokens(x, 1, NUM_PATCHES)
    assert isinstance(folded, LinearScore)
    atol = 1e-5 * right.std().item()
    torch.testing.assert_close(folded.score(tokens), right, atol=atol, rtol=1e-5)
    torch.testing.assert_close(module.score(tokens), right, atol=atol, rtol=1e-5)
    assert folded(tokens).index.equal(module.eval()(tokens).index)
    assert (right / queries / heads - right).abs().max() > 10 * atol or queries * heads == 1


# Batches, attention, copies, checkpoints


@torch.no_grad()
@every_pair
def test_an_image_does_not_depend_on_its_batch(method, name):
    model, x = reduced(method, name), images(HEADS)  # a batch of as many images as heads
    together = model.forward_features(x)
    logits = model.forward_head(together)
    for i in range(HEADS):
        alone = model.forward_features(x[i : i + 1])
        assert alone.index.equal(together.index[i : i + 1])
        torch.testing.assert_close(alone.x, together.x[i : i + 1], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(model.forward_head(alone), logits[i : i + 1], atol=2e-5, rtol=1e-5)


class Probe(Reducer):
    """Keeps what it is shown."""

    inside = True
    taps = ("q", "k")

    def count_after(self, num_live, num_prefix):
        return num_live

    def forward(self, tokens, attended=None):
        self.attended = attended
        return tokens


@torch.no_grad()
@pytest.mark.parametrize("before", ["nothing", "cropr", "tome", "evit_fused"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "map"])
def test_prefix_attention_is_that_of_the_block(before, name):
    if not possible(before, name):
        before = "cropr"
    vit = tiny(name)
    attn, seen, probe = vit.blocks[3].attn, [], Probe()
    attn.fused_attn = False  # timm's own explicit attention
    attn.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = {} if before == "nothing" else {i: r for i, r in reducers(before, vit).items() if i < 3}
    model = ReducedViT(vit, {**found, 3: probe}).eval()
    model(images(HEADS))
    prefix = model.num_prefix_tokens
    right, attended = seen[0][:, :, :prefix], probe.attended
    assert (attended.bias is not None) == (before == "tome")
    torch.testing.assert_close(attended.prefix_attention(), right, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attended.prefix_attention(1), right[:, :, :1], atol=1e-6, rtol=1e-5)
    assert (attended.prefix_attention() - 1 / right.shape[-1]).abs().max() > 1e-2
    with pytest.raises(ValueError, match=f"{prefix + 1} of {prefix} prefix tokens"):
        attended.prefix_attention(prefix + 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["eva_fused", "eva_mixed", "dinov3"])
def test_rope_of_live_tokens_when_the_batch_equals_the_heads(name):
    vit, x = tiny(name), images(HEADS)
    embedded, rope = vit._pos_embed(vit.patch_embed(x))
    rope = rope[0] if vit.rope_mixed else rope
    index = torch.rand(HEADS, NUM_PATCHES, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :9]
    index[1, 2] = -1
    tokens = Tokens(embedded[:, : vit.num_prefix_tokens + 9], vit.num_prefix_tokens, NUM_PATCHES, index=index)
    live = tokens.rope(rope)
    assert live.shape[:3] == (HEADS, HEADS if vit.rope_mixed else 1, 9)
    for b in range(HEADS):
        for n in range(9):
            row = live[b, ..., n, :].squeeze(0)
            if index[b, n] >= 0:
                assert row.equal(rope[..., index[b, n], :])
            else:
                sin, cos = row.chunk(2, dim=-1)
                assert sin.eq(0).all()
                assert cos.eq(1).all()


@torch.no_grad()
@every_pair
def test_a_copy_stands_alone(method, name):
    model, x = reduced(method, name), images()
    twin, right = copy.deepcopy(model), model(x)
    assert twin(x).equal(right)
    for parameter in twin.parameters():
        parameter.zero_()
    assert model(x).equal(right)
    for tap in (*model._taps.values(), *twin._taps.values()):
        assert tap.held == {}
        assert not tap.armed
    model.vit(x)
    assert all(tap.held == {} for tap in model._taps.values())


def gradients(model, x):
    model.zero_grad()
    torch.manual_seed(11)
    tokens = model.forward_features(x)
    loss = model.forward_head(tokens).square().sum() + sum(a.float().square().sum() for a in tokens.aux)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def checkpointing_changes_nothing(model):
    plain = gradients(model, images())
    model.vit.set_grad_checkpointing(True)
    again = gradients(model, images())
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)
    assert all(tap.held == {} for tap in model._taps.values())


@pytest.mark.parametrize("method", ["cropr", "tome", "evit_fused", "dynamicvit"])
@pytest.mark.parametrize("name", ["token", "eva_swiglu", "dinov3"])
def test_checkpointing_gives_the_same_gradients(method, name):
    checkpointing_changes_nothing(reduced(method, name).train())


@pytest.mark.parametrize("policy", ["exact", "sdpa"])
@pytest.mark.parametrize("name", ["token", "avg", "map", "eva_swiglu", "dinov3"])
def test_checkpointing_gives_the_same_gradients_under_a_policy(name, policy):
    checkpointing_changes_nothing(reduced("dynamicvit", name, policy=policy).train())


def test_masked_training_needs_fused_attention():
    model = reduced("dynamicvit", "token", policy="exact").train()
    for block in model.vit.blocks:
        block.attn.fused_attn = False
    with pytest.raises(RuntimeError, match="fused attention"):
        model(images())


# Refusals


@pytest.mark.parametrize("name", ["map", "registers_only"])
def test_the_class_token_must_exist(name):
    with pytest.raises(ValueError, match="EViT reads the class token"):
        ReducedViT(tiny(name), {1: place("evit", tiny("token"), NUM_PATCHES, keep=0.5)[1]})


def test_more_than_there_is_cannot_be_removed():
    vit = tiny("token")
    with pytest.raises(ValueError, match="rate 9 removes more than there is"):
        place("cropr", vit, NUM_PATCHES, rate=9)
    assert list(place("cropr", vit, NUM_PATCHES, rate=8.5)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="cannot keep 37 of 36 patches"):
        Tokens(torch.zeros(1, 37, 4), 1, 36).prune(torch.zeros(1, 36), 37)
    with pytest.raises(ValueError, match="cannot keep 0 patches"):
        CroprModule(0, WIDTH, 7)
    with pytest.raises(ValueError, match="r must be 0 or more"):
        ToMe(-1)


@pytest.mark.parametrize(("method", "name"), [("tome", "ToMe"), ("evit_fused", "EViT")])
def test_fusion_of_what_does_not_come_back(method, name):
    vit = tiny("token")
    found = {i: reducer for i, reducer in reducers(method, vit).items() if i < DEPTH - 1}
    with pytest.raises(ValueError, match=f"{name} fuses them"):
        ReducedViT(vit, found, llf=True)


def test_fusion_needs_the_last_block():
    vit = tiny("token")
    with pytest.raises(ValueError, match="last block"):
        ReducedViT(vit, {DEPTH - 1: CroprModule(9, WIDTH, 7)}, llf=True)
    with pytest.raises(ValueError, match=f"CroprModule at block {DEPTH}"):
        ReducedViT(vit, {DEPTH: CroprModule(9, WIDTH, 7)})


def test_unknown_parts_are_refused_by_name():
    with pytest.raises(ValueError, match="ParallelScalingBlock"):
        ReducedViT(VisionTransformer(**SMALL, block_fn=ParallelScalingBlock))
    with pytest.raises(ValueError, match="Beit"):
        ReducedViT(Beit(**SMALL))
    with pytest.raises(ValueError, match="EvaBlockPostNorm"):
        ReducedViT(Eva(**SMALL, use_post_norm=True))
    with pytest.raises(ValueError, match="DiffAttention"):
        ReducedViT(VisionTransformer(**SMALL, attn_layer="diff"))
    for kind in (VisionTransformer, Eva):
        with pytest.raises(ValueError, match="patch_drop_rate=0"):
            ReducedViT(kind(**SMALL, patch_drop_rate=0.2))
    with pytest.raises(ValueError, match="unknown policy 'soft'"):
        ReducedViT(tiny("token"), policy="soft")


def test_another_image_size_is_refused():
    model = reduced("cropr", "token")
    model.vit = tiny("token", dynamic_img_size=True)
    with pytest.raises(ValueError, match="the schedule is for 36 patches, not 64"):
        model(images(1, 64))
    with pytest.raises(ValueError, match="the model takes images of"):
        ReducedViT(tiny("token"), img_size=64)
