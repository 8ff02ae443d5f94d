"""What a reducer may read of its block, and pooling by clusters, against timm's own numbers and slow loops.

Letters: B images, H heads, P prefix tokens, N patches, T = P + N, K clusters, D width, E head width.
"""

import copy

import pytest
import torch
from tiny_models import DEPTH, HEADS, MODELS, NUM_PATCHES, images, place, possible, reducers, tiny

from cropr.reducer import Reducer
from cropr.tokens import Attended, Tokens
from cropr.tokens.pooling import pool
from cropr.vit import ReducedViT


class Inside(Reducer):
    """Keeps what it is shown."""

    inside = True
    taps = ("q", "k", "v", "normed")

    def count_after(self, num_live, num_prefix):
        return num_live

    def forward(self, tokens, attended=None):
        self.tokens, self.attended = tokens, attended
        return tokens


class Behind(Inside):
    inside = False
    taps = ("mlp",)


def watched(name, before, probe):
    """A model with `probe` at block 3 behind reducers at earlier ones, and what its attention and MLP there saw."""
    vit, seen = tiny(name), {}
    vit.blocks[3].attn.norm.register_forward_pre_hook(lambda _, args: seen.update(mixed=args[0]))
    vit.blocks[3].norm1.register_forward_hook(lambda _, args, out: seen.update(normed=out))
    vit.blocks[3].norm2.register_forward_pre_hook(lambda _, args: seen.update(middle=args[0]))
    found = {} if before == "nothing" else {i: r for i, r in reducers(before, vit).items() if i < 3}
    model = ReducedViT(vit, {**found, 3: probe}).eval()
    with torch.no_grad():
        model(images(HEADS))  # as many images as heads: axes that are mixed up would fit
    return seen


BEFORE = ["nothing", "cropr", "tome", "evit_fused"]


@torch.no_grad()
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", MODELS)
def test_attention_times_values_is_what_the_block_computes(before, name):
    before, probe = before if possible(before, name) else "cropr", Inside()
    seen, attended = watched(name, before, probe), probe.attended
    attention = attended.attention()
    assert attended.v.shape == attended.q.shape and attended.normed.equal(seen["normed"])
    right = (attention @ attended.v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(right, seen["mixed"], atol=2e-6, rtol=1e-5)
    prefix = probe.tokens.num_prefix
    if prefix:
        torch.testing.assert_close(attention[:, :, :prefix], attended.prefix_attention(), atol=1e-6, rtol=1e-5)
    # what each token receives, for any chunk; and the votes of some queries more than of others
    mean, weight = attention.mean(dim=2), torch.rand(HEADS, 1, attention.shape[-1])
    votes = torch.einsum("bhij,bxi->bhj", attention, weight)
    for chunk in (1, 7, 256):
        torch.testing.assert_close(attended.received(chunk=chunk), mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(attended.received(weight, chunk), votes, atol=1e-5, rtol=1e-5)
    assert (mean - 1 / attention.shape[-1]).abs().max() > 1e-3 and (mean - votes).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("before", ["nothing", "cropr", "tome"])
@pytest.mark.parametrize("name", MODELS)
def test_what_the_mlp_adds(before, name):
    probe = Behind()
    middle, branch = watched(name, before, probe)["middle"], probe.attended.mlp
    assert (middle + branch).equal(probe.tokens.x) and branch.abs().max() > 1e-2
    assert probe.attended.q is None and probe.attended.v is None


@torch.no_grad()
def test_a_copy_reads_its_own_block():
    model = ReducedViT(tiny("token"), {3: Inside()}).eval()
    twin, x = copy.deepcopy(model), images()
    model(x)
    right = model.reducers["3"].attended
    for parameter in model.parameters():
        parameter.zero_()
    twin(x)
    for name in ("q", "k", "v", "normed"):
        assert getattr(twin.reducers["3"].attended, name).equal(getattr(right, name)), name
    assert all(tap.held == {} for tap in (*model._taps.values(), *twin._taps.values()))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Inside, Behind])
@pytest.mark.parametrize("name", MODELS)
def test_reading_changes_nothing(kind, name):
    vit, x = tiny(name), images()
    plain = vit(x)
    assert ReducedViT(vit, {i: kind() for i in range(DEPTH)}).eval()(x).equal(plain)


def test_memory_of_received_attention_is_that_of_a_chunk():
    """The largest tensor on the way has `chunk` rows."""
    q, k = torch.randn(2, 2, HEADS, 64, 8)
    largest = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.append(out.numel() if torch.is_tensor(out) else 0)
            return out

    with Watch():
        Attended(q, k, 0.3, 1).received(chunk=16)
    assert max(largest) == 2 * HEADS * 16 * 64


@pytest.mark.parametrize(("kind", "tap"), [(Inside, "mlp"), (Behind, "q"), (Behind, "v"), (Inside, "x")])
def test_a_tap_that_there_is_not_is_refused(kind, tap):
    wrong = type("Wrong", (kind,), {"taps": (tap,)})
    valid = "inside a block there is: q, k, v, normed" if kind is Inside else "behind a block there is: mlp"
    with pytest.raises(ValueError, match=f"Wrong taps '{tap}'; {valid}"):
        ReducedViT(tiny("token"), {1: wrong()})


def test_values_need_fused_attention():
    vit = tiny("token")
    vit.blocks[1].attn.fused_attn = False
    with pytest.raises(RuntimeError, match="TIMM_FUSED_ATTN"):
        ReducedViT(vit, {1: Inside()})(images())


@pytest.mark.parametrize("kind", [Inside, Behind])
def test_checkpointing_gives_the_same_gradients(kind):
    vit, found = tiny("eva_swiglu"), []
    for save in (False, True):
        vit.set_grad_checkpointing(save)
        vit.zero_grad()
        probe = kind()
        out = ReducedViT(vit, {2: probe})(images())
        read = probe.attended.mlp if kind is Behind else probe.attended.v
        (out.square().sum() + read.square().sum()).backward()
        found.append([p.grad.clone() for p in vit.parameters() if p.grad is not None])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-5)


# Pooling by clusters


def pooled(tokens, cluster, weight):
    """Image by image, cluster by cluster: (patches, sizes) as lists."""
    prefix = tokens.num_prefix
    xs, sizes = [], []
    for b, clusters in enumerate(cluster.tolist()):
        held = [1.0] * len(clusters) if tokens.size is None else tokens.size[b, prefix:].tolist()
        weights = held if weight is None else weight[b].tolist()
        for c in range(max(clusters) + 1):
            members = [n for n, at in enumerate(clusters) if at == c]
            total = sum(weights[n] for n in members)
            xs.append(sum(weights[n] * tokens.patches[b, n] for n in members) / total)
            sizes.append(sum(held[n] for n in members))
    return torch.stack(xs).unflatten(0, (len(cluster), -1)), torch.tensor(sizes).view(len(cluster), -1)


@pytest.mark.parametrize("kind", ["plain", "sized", "weighted", "again"])
def test_pool(kind):
    torch.manual_seed(8)
    cluster = torch.stack([torch.cat([torch.arange(4), torch.randint(4, (8,))])[torch.randperm(12)] for _ in range(3)])
    centres = torch.stack([(cluster == c).int().argmax(dim=1) for c in range(4)], dim=1)
    owner = torch.arange(12).expand(3, -1)
    tokens = Tokens(torch.randn(3, 2 + 12, 5, dtype=torch.float64), 2, 12, owner=owner)
    if kind in ("sized", "weighted"):
        tokens = Tokens(tokens.x, 2, 12, size=torch.randint(1, 5, (3, 14)).float(), owner=owner)
    if kind == "again":  # two merges in a row
        tokens, centres = pool(tokens, cluster, centres), torch.tensor([[0, 2]]).expand(3, -1)
        cluster = torch.tensor([[0, 0, 1, 1]]).expand(3, -1)
    weight = 0.1 + torch.rand(cluster.shape) if kind == "weighted" else None
    after = pool(tokens, cluster, centres, weight)
    x, size = pooled(tokens, cluster, weight)
    torch.testing.assert_close(after.patches, x, atol=1e-6, rtol=1e-6)
    assert after.x[:, :2].equal(tokens.x[:, :2]) and after.size[:, 2:].equal(size)
    assert after.index.equal(tokens.positions().gather(1, centres))
    for b in range(3):
        for at in range(12):
            assert after.owner[b, at] == cluster[b, tokens.owner[b, at]]
    assert after.owner.gather(1, after.index).equal(torch.arange(after.num_live).expand(3, -1))
    if kind != "plain":  # sizes and weights tell
        assert (pooled(Tokens(tokens.x, 2, 12), cluster, None)[0] - x).abs().max() > 1e-3


def test_sizes_are_counted_in_float32():
    """bfloat16 cannot count beyond 256."""
    tokens = Tokens(torch.ones(1, 300, 2, dtype=torch.bfloat16), 0, 300)
    after = pool(tokens, torch.zeros(1, 300, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    assert after.size.item() == 300 and after.x.dtype is torch.bfloat16 and after.x.eq(1).all()


@torch.no_grad()
def test_existing_methods_read_what_they_did():
    """A reducer is handed what it taps and nothing else."""
    vit = tiny("token")
    (reducer, *_) = place("tome", vit, NUM_PATCHES, r=3).values()
    seen = []
    reducer.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    ReducedViT(vit, {0: reducer})(images())
    assert seen[0].k is not None and seen[0].q is seen[0].v is seen[0].mlp is None
