"""MACs of linear layers alone, beside a count of every call of one."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_models import MODELS, NUM_PATCHES, place, tiny
from torch import nn
from torch.overrides import TorchFunctionMode

from cropr.dense import DenseViT
from cropr.macs import count, dense_macs, planned_macs
from cropr.vit import ReducedViT

REDUCERS = {
    "none": {},
    "random": {"rate": 6},
    "evit": {"keep": 0.5, "at": (1, 3)},  # inside its blocks: fewer tokens in the MLP
    "dynamicvit": {"ratio": 0.5, "at": (1, 3)},  # has linear layers of its own, which are scoring
}


class LinearCalls(TorchFunctionMode):
    """Outputs x inputs of every call with a weight of `vit`: not of modules, since EvaAttention calls F.linear."""

    def __init__(self, vit: nn.Module):
        super().__init__()
        self.weights, self.macs = {id(weight) for weight in vit.parameters()}, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        named = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
        if func in (F.linear, F.conv2d) and id(named["weight"]) in self.weights:
            self.macs += output.numel() * math.prod(named["weight"].shape[1:])
        return output


def called(model):
    with LinearCalls(model.vit) as calls, torch.no_grad():
        model.eval()(torch.randn(1, 3, 48, 48))
    return calls.macs


def reducers(name, vit):
    return {} if name == "none" else place(name, vit, NUM_PATCHES, **REDUCERS[name])


@pytest.mark.parametrize("kind", MODELS)
def test_linear_layers_of_every_kind_of_model(kind):
    model = ReducedViT(tiny(kind))
    macs = count(model)
    assert macs.linear == called(model) < macs.total


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("kind", ["token", "eva_swiglu"])
def test_linear_layers_under_reducers(name, kind):
    vit = tiny(kind)
    model = ReducedViT(vit, reducers(name, vit)).fold()
    assert count(model).linear == called(model)
    assert (count(model).linear == count(ReducedViT(vit)).linear) == (name == "none")


def test_the_decoder_of_a_dense_model_is_linear():
    vit = tiny("token")
    model = DenseViT(vit, place("random", vit, NUM_PATCHES, rate=6, rest="llf"))
    macs = count(model)
    assert macs.linear == called(model) and macs.decoder == NUM_PATCHES * vit.head.weight.numel()


def test_eva02_l_as_published():
    """Cropr's 2,790 G of EVA-02-L on 96 x 96 patches are of linear layers alone, of a model without class token."""
    with torch.device("meta"):
        vit = timm.create_model(
            "eva02_large_patch14_448", img_size=1536, patch_size=16, num_classes=0, class_token=False
        )  # fmt: skip
    macs = planned_macs(vit, {}, vit.patch_embed.grid_size)
    assert round(macs.linear / 1e9, 1) == 2789.9 and dense_macs(vit) == macs.total > 2 * macs.linear
