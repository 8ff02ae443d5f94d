"""What is ranked is not rounded to the type that the model runs in.

Letters: B images, T tokens, D width.
"""

import pytest
import torch
from tiny_models import images, reducers, tiny

import baselines.dynamicvit
import baselines.tome
import cropr.cropr
import cropr.tokens
from cropr.reducer import observed
from cropr.tokens import Tokens
from cropr.tokens.precision import linear, product, wide
from cropr.vit import ReducedViT
from studies.models.methods import builtin
from studies.models.reducers import reduce

NARROW = (torch.bfloat16, torch.float16)


def same_bits(a, b):
    return a.dtype is b.dtype and torch.equal(a, b)


def test_in_float32_and_float64_nothing_changes():
    for dtype in (torch.float32, torch.float64):
        x, weight, bias = torch.randn(2, 7, 5).to(dtype), torch.randn(3, 5).to(dtype), torch.randn(3).to(dtype)
        assert same_bits(product(x, x.transpose(1, 2)), x @ x.transpose(1, 2))
        assert same_bits(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", NARROW)
def test_products_of_narrow_numbers_are_those_of_float64_to_float32(dtype):
    x = torch.randn(2, 50, 64).to(dtype)
    right = x.double() @ x.double().transpose(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found in (product(x, x.transpose(1, 2)), linear(x[0], x[0])):
            assert found.dtype is torch.float32
        torch.testing.assert_close(product(x, x.transpose(1, 2)).double(), right, atol=1e-4, rtol=0)
    assert (x @ x.transpose(1, 2) - right).abs().max() > 1e-2


def test_shapes_alone_are_counted_too():
    x = torch.zeros(2, 7, 5, device="meta")
    assert product(x, x.transpose(1, 2)).shape == (2, 7, 7) and linear(x, x[0]).shape == (2, 7, 7)


METHODS = {name: cls for name, cls in builtin().items() if cls.reducer is not None and cls.role != "dense"}


@torch.inference_mode()
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_project_ranks_numbers_of_float32(name, dtype):
    model = reduce(tiny("token"), name, budget=0.7).fold().eval().to(dtype)
    seen = []

    def note(block, args, output):
        if (found := model.reducers[block].ranking(*args)) is not None:
            seen.append(found[0].dtype)

    with observed(dict(model.reducers.items()), note):
        model(images().to(dtype))
    assert seen and all(found in (torch.float32, torch.float64) for found in seen), seen


def features(dtype=torch.bfloat16):
    """Tokens of trained models differ by little beside what all of them share."""
    generator = torch.Generator().manual_seed(0)
    shared, own = torch.randn(1, 1, 384, generator=generator), torch.randn(8, 1 + 196, 384, generator=generator)
    return (shared + 0.3 * own).to(dtype)


def wrong_linear(x, weight, bias=None):
    return torch.nn.functional.linear(x, weight, bias)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["cropr", "dynamicvit"])
def test_kept_sets_of_rounded_features_are_those_of_float64(name, monkeypatch):
    """Beside it the planted mistake: the same product in bfloat16 has ties, and keeps others."""
    torch.manual_seed(3)
    module, part = (
        (cropr.cropr.LinearScore(98, 384), cropr.cropr)
        if name == "cropr"
        else (baselines.dynamicvit.DynamicViT(98, 384), baselines.dynamicvit)
    )
    if name == "cropr":
        module.weight.normal_(std=384**-0.5)
    module = module.eval().bfloat16()
    tokens = Tokens(features(), 1, 196)
    last = {}
    if name == "dynamicvit":  # of what its last layer is given
        module.predictor.out_linear2.register_forward_hook(lambda _, args, out: last.update(x=out))
    kept = module(tokens).index
    if name == "cropr":
        right = tokens.patches.double() @ module.weight.double()
    else:
        net = module.predictor.out_linear3
        logits = torch.nn.functional.gelu(last["x"]).double() @ net.weight.double().T + net.bias.double()
        right = logits[..., 0] - logits[..., 1]
    expected = right.topk(98, dim=1).indices
    assert disagreement(kept, expected) == 0
    monkeypatch.setattr(part, "linear", wrong_linear)
    assert disagreement(module(tokens).index, expected) > 0


def disagreement(kept, expected):
    """Kept patches that are not expected, of all images."""
    return sum(len(set(a.tolist()) - set(b.tolist())) for a, b in zip(kept, expected, strict=True))


@torch.inference_mode()
def test_pairs_of_rounded_keys_are_those_of_float64(monkeypatch):
    keys = features().unsqueeze(1)  # [B, 1 head, T, E]
    metric = cropr.tokens.Attended(keys, keys, 1.0, 1).mean_keys()
    expected = baselines.tome.bipartite_matching(metric.double(), 40, 1)
    found = baselines.tome.bipartite_matching(metric, 40, 1)
    assert disagreement(found.leave, expected.leave) == 0
    monkeypatch.setattr(baselines.tome, "product", lambda a, b: a.bfloat16() @ b.bfloat16())
    assert disagreement(baselines.tome.bipartite_matching(metric, 40, 1).leave, expected.leave) > 0


@torch.inference_mode()
@pytest.mark.parametrize("method", ["cropr", "tome", "evit", "dynamicvit"])
def test_autocast_ranks_in_float32_too(method):
    vit = tiny("token")
    model = ReducedViT(vit, reducers(method, vit)).eval()
    seen = []

    def note(block, args, output):
        if (found := model.reducers[block].ranking(*args)) is not None:
            seen.append(found[0].dtype)

    with observed(dict(model.reducers.items()), note), torch.autocast("cpu", dtype=torch.bfloat16):
        model(images())
    assert seen and set(seen) == {torch.float32}


@torch.inference_mode()
@pytest.mark.parametrize("name", ["centre", "grid"])
def test_places_of_a_large_grid_have_an_order_in_bfloat16(name):
    """Of whole numbers beyond 256 bfloat16 has every second, or fewer."""
    vit = tiny("token", img_size=192)
    model = reduce(vit, name, budget=0.7).eval()
    whole = model.forward_features(images(1, 192)).index
    assert torch.equal(model.bfloat16().forward_features(images(1, 192).bfloat16()).index, whole)


def test_the_width_of_a_type_is_never_cut():
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype is torch.float64
