"""Attention under a policy, without squares of its own, against its equation written out in float64, gradients too.

Letters: B images, H heads, T tokens, E head width.
"""

import pytest
import torch
from tiny_models import images, reducers, tiny

from cropr.vit import ReducedViT
from cropr.vit.masking import EPS, MaskedAttention, policy_attention

B, H, T, E = 2, 3, 11, 8


def equation(q, k, v, policy, mask=None, own=True, eps=EPS):
    """Out of scaled q: (exp(s - max s) P + eps / T) / (sum exp(s - max s) P + eps) @ v."""
    s = q @ k.transpose(-2, -1)
    s = s if mask is None else s + mask
    seen = policy[:, None, None, :].expand(-1, 1, T, -1)
    if own:
        eye = torch.eye(T, dtype=q.dtype)
        seen = seen + (1 - seen) * eye
    weight = (s - s.amax(dim=-1, keepdim=True)).exp() * seen
    return (weight + eps / T) / (weight.sum(dim=-1, keepdim=True) + eps) @ v


def given(kind, sharpness=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(B, H, T, E, generator=generator, dtype=torch.float64) for _ in range(3))
    policy = torch.rand(B, T, generator=generator, dtype=torch.float64)
    policy = {"fractional": policy, "some": (policy > 0.5).double(), "none": torch.zeros(B, T).double()}[kind]
    return [x.to(dtype).requires_grad_() for x in (sharpness * q, k, v, policy)]


def gradients(function, inputs, mask=None):
    out = function(*inputs, mask)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


def windows():
    """Two windows that do not see each other."""
    apart = (torch.arange(T) < 5)[:, None] != (torch.arange(T) < 5)
    return torch.zeros(T, T, dtype=torch.float64).masked_fill(apart, -torch.inf)


@pytest.mark.parametrize("sharpness", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["fractional", "some", "none"])
def test_values_and_gradients_are_those_of_the_equation(kind, masked, sharpness):
    mask = windows() if masked else None
    found = gradients(MaskedAttention.apply, given(kind, sharpness), mask)
    right = gradients(equation, given(kind, sharpness), mask)
    for ours, expected in zip(found, right, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)
    narrow = gradients(
        MaskedAttention.apply, given(kind, sharpness, torch.float32), None if mask is None else mask.float()
    )
    torch.testing.assert_close(narrow[0].double(), right[0], atol=2e-5, rtol=0)


def planted_blind(*args):
    return equation(*args, own=False)


def planted_eps(*args):
    return equation(*args, eps=1e-3)


def planted_policy(q, k, v, policy, mask):
    return equation(q, k, v, policy.detach() + 0 * policy, mask)


@pytest.mark.parametrize("mistake", [planted_blind, planted_eps, planted_policy])
def test_mistakes_are_seen(mistake):
    """A token that does not see itself, another eps, no gradient to the policy."""
    found, wrong = gradients(MaskedAttention.apply, given("some")), gradients(mistake, given("some"))
    assert max(float((a - b).detach().abs().max()) for a, b in zip(found, wrong, strict=True)) > 1e-6


def test_a_peak_that_is_dropped_keeps_its_gradient_through_eps():
    """What a query mostly looks at is dropped: eps is all that is left of its softmax."""
    inputs = given("none", 60.0)
    found, right = gradients(MaskedAttention.apply, inputs), gradients(equation, inputs)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_that_of_float32(dtype):
    q, k, v, policy = (x.detach() for x in given("some", dtype=torch.float32))
    narrow = [x.to(dtype) for x in (q, k, v)]
    with torch.autocast("cpu", dtype=dtype), policy_attention(policy[:, 1:], 1, "exact") as mode:
        found = mode.attend(*narrow)
        mode.used = True
    policy = torch.cat([torch.ones(B, 1), policy[:, 1:]], dim=1)
    right = equation(*(x.float() for x in (narrow[0].float() * E**-0.5, *narrow[1:])), policy)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), right, atol=1e-2 if dtype is torch.bfloat16 else 2e-3, rtol=0)


def test_the_fused_way_masks_nothing_where_nothing_is_marked():
    """And is the plain kernel there; behind the first predictor both ways are near each other, block by block."""
    vit = tiny("token")
    models = {kind: ReducedViT(vit, reducers("dynamicvit", vit), policy=kind).eval() for kind in ("exact", "sdpa")}
    for model in models.values():
        model.masked_eval = True
    first = min(map(int, models["sdpa"].reducers))
    seen = {kind: [] for kind in models}
    handles = [block.register_forward_hook(lambda _, args, out: seen[current].append(out)) for block in vit.blocks]
    with torch.no_grad():
        for current, model in models.items():  # noqa: B007 (read in the hook)
            model.forward_features(images())
        plain = seen_plain(vit, handles)
    for i, (exact, fused) in enumerate(zip(seen["exact"], seen["sdpa"], strict=True)):
        torch.testing.assert_close(fused, exact, atol=1e-5 if i <= first else 0.1, rtol=0)  # attention here is sharp
        assert torch.equal(fused, plain[i]) == (i <= first)


def seen_plain(vit, handles):
    """Of each block of the plain model."""
    for handle in handles:
        handle.remove()
    found = []
    handles = [block.register_forward_hook(lambda _, args, out: found.append(out)) for block in vit.blocks]
    vit(images())
    for handle in handles:
        handle.remove()
    return found
