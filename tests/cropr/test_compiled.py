"""torch.compile: the random numbers with the C++ compiler behind it, whole models as graphs alone."""

import pytest
import torch
import torch._dynamo as dynamo
from tiny_models import images, reducers, tiny
from torch._dynamo.utils import counters

from cropr.dense import DenseViT
from cropr.tokens.random_bits import image_seeds, uniform
from cropr.vit import ReducedViT

BATCHES = (3, 5)  # a batch of 1 is a graph of its own to dynamo
DENSE = [
    ("cropr", "llf"), ("cropr", "logits"), ("random", "none"), ("evit", "concat"), ("dynamicvit", "nearest"),
    ("tome", "unmerge"),
]  # fmt: skip


def draws(batch):
    positions = torch.arange(64).expand(len(batch), -1)
    return uniform(image_seeds(batch), positions, 64)


def test_random_numbers_are_the_same_when_compiled():
    """Products of known indices would be folded into constants beyond int64."""
    batch = images(4, 32)
    assert torch.equal(torch.compile(draws)(batch), draws(batch))


@torch.inference_mode()
def graphs_of(model, dtype=torch.float32):
    """How many graphs dynamo makes for all BATCHES. Those for images: see the rule "compiling" of conformance."""
    dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in BATCHES:
        batch = images(size).to(dtype)
        dynamo.mark_dynamic(batch, 0)
        torch.testing.assert_close(compiled(batch), model(batch))
    found = counters["stats"]["unique_graphs"]
    dynamo.reset()
    return found


@pytest.mark.parametrize(("method", "fusion"), DENSE)
def test_a_dense_model_is_one_graph_for_all_batch_sizes(method, fusion):
    vit = tiny("token")
    model = DenseViT(vit, reducers(method, vit, llf=fusion == "llf"), fusion=fusion)
    assert graphs_of(model.fold().eval()) == 1


def test_last_layer_fusion_in_bfloat16_is_one_graph_for_all_batch_sizes():
    vit = tiny("dinov3")
    model = ReducedViT(vit, reducers("cropr", vit, llf=True), llf=True).fold().eval()
    assert graphs_of(model.bfloat16(), torch.bfloat16) == 1
