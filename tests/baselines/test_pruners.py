"""Methods that drop patches, against slow loops in float64, one image and one number at a time.

Letters: B images, P prefix tokens, N patches, T = P + N, D width, H heads, E head width.
"""

import math

import pytest
import torch
from tiny_models import images, tiny

from baselines.pruners.representation_shift import ShiftScore
from cropr.reducer import observed
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT

KEEP = 20


def best_first(scores):
    return sorted(range(len(scores)), key=lambda n: -scores[n])


# Representation shift


def shifts(vit, block, image, what):
    """[P + N] norms of what the MLP of the block changes in each token, none having left before."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))
    for i in range(block):
        x = vit.blocks[i](x)
    block = vit.blocks[block]
    middle = x + block.attn(block.norm1(x))
    added = block.mlp(block.norm2(middle))
    vector = {"branch": added, "difference": added - middle, "output": middle + added, "input": middle}[what][0]
    return [math.sqrt(sum(float(v) ** 2 for v in token)) for token in vector]


@torch.no_grad()
@pytest.mark.parametrize("shift", ["branch", "difference"])
@pytest.mark.parametrize("kind", ["token", "registers"])
def test_representation_shift(kind, shift):
    vit, x, scores = tiny(kind).double(), images(3).double(), []
    reducer = ShiftScore(KEEP, shift=shift)
    with observed({"": reducer}, lambda _, args, out: scores.append(reducer.score(*args))):
        index = ReducedViT(vit, {2: reducer}).eval().forward_features(x).index
    for i, image in enumerate(x):
        prefix, right = vit.num_prefix_tokens, shifts(vit, 2, image, shift)
        assert scores[0][i].tolist() == pytest.approx(right[prefix:], rel=1e-12)
        assert index[i].tolist() == best_first(right[prefix:])[:KEEP]
        wrong = {"branch", "difference", "output", "input"} - {shift}
        for mistaken in [shifts(vit, 2, image, what) for what in wrong] + [shifts(vit, 1, image, shift)]:
            assert scores[0][i].tolist() != pytest.approx(mistaken[prefix:], rel=1e-3)
            assert index[i].tolist() != best_first(mistaken[prefix:])[:KEEP]


def test_shifts_that_are_nearly_equal_have_an_order_in_bfloat16():
    x = torch.randn(1, 1 + 36, 768, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = ShiftScore(KEEP).score(Tokens(x, 1, 36), Attended(x, x, 1.0, 1, mlp=x))
    assert len(set(found[0].tolist())) == 36 > len(set(found[0].bfloat16().tolist()))
