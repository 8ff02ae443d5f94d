"""Multiply-accumulates (MACs) of one image, counted three times: closed form, fvcore, torch. They must agree.

The three go wrong in different ways: the closed form when a reducer does something else than its `macs` says, fvcore
when an operator has no rule, torch's counter when a matrix product hides in an operator of another name. torch's runs
on the meta device, without arithmetic; fvcore's cannot (while tracing, shapes are tensors, which meta kernels refuse).

Letters: B images, H heads, T queries, S keys, E width of a head.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from cropr.macs import count
from cropr.vit import ReducedViT

__all__ = ["TOLERANCE", "MacCounts", "check_macs", "count_macs"]

TOLERANCE = 0.01  # of the smaller number of each pair
# Neither in the closed form nor in torch's counter; fvcore would charge a LayerNorm 5 per element.
FREE = (
    "layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "linalg_vector_norm",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "grid_sampler",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip


@dataclass(frozen=True)
class MacCounts:
    """MACs of one image, counted three times."""

    closed_form: int
    fvcore: int
    torch: int


def check_macs(model: ReducedViT) -> MacCounts:
    """`count_macs(model)`. Raises ValueError naming the three counts when any two differ by more than 1 %."""
    counts = count_macs(model)
    if any(max(pair) > (1 + TOLERANCE) * min(pair) for pair in combinations(astuple(counts), 2)):
        raise ValueError(
            f"counts of MACs differ by more than {TOLERANCE:.0%}: closed form {counts.closed_form:,}, "
            f"fvcore {counts.fvcore:,}, torch {counts.torch:,}"
        )
    return counts


def count_macs(model: ReducedViT) -> MacCounts:
    """MACs of one image of the model's size through `model` as it is deployed: folded and in eval mode. `model` itself
    is left as it is."""
    real, meta = (copy_onto(model, device).fold().eval() for device in (None, "meta"))
    weight, size = model.vit.patch_embed.proj.weight, (1, 3, *image_size(model))
    with torch.inference_mode():
        by_torch = count_torch(meta, torch.empty(size, device="meta"))
        return MacCounts(count(real).total, count_fvcore(real, weight.new_zeros(size)), by_torch)


def copy_onto(model: nn.Module, device: str | None) -> Any:
    """A copy of `model` on `device` or, None, one that shares its weights. (Folding the model itself would leave hooks
    on its modules.) What is in deepcopy's memo is not copied, so this takes no memory.
    """
    memo: dict[int, Any] = {id(x): x for x in (*model.parameters(), *model.buffers())}
    if device is not None:
        memo = {i: torch.empty_like(x, device=device) for i, x in memo.items()}
        memo |= {id(x): nn.Parameter(memo[id(x)], requires_grad=False) for x in model.parameters()}
    return copy.deepcopy(model, memo)


def image_size(model: ReducedViT) -> tuple[int, int]:
    """Height and width of the images that `model` was made for, in pixels."""
    size = model.vit.patch_embed.img_size if model.img_size is None else model.img_size
    return (size, size) if isinstance(size, int) else tuple(size)


def count_torch(model: nn.Module, images: Any) -> int:
    """MACs of `model(images)` by torch's own counter, which sees every operator below Python and counts two FLOPs for
    each."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def count_fvcore(model: nn.Module, images: Tensor) -> int:
    """MACs by fvcore, which traces the model; what it calls a flop is one MAC."""
    with warnings.catch_warnings():
        # torch.jit is deprecated, and tracing warns of Python numbers: the shapes, which are fixed by the schedule.
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis  # imports torch.jit.script

        analysis = FlopCountAnalysis(model, images)
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention_macs)
        analysis.set_op_handle(**{f"aten::{name}": free for name in FREE})
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        logger = logging.getLogger("fvcore.nn.jit_analysis")
        was_disabled, logger.disabled = logger.disabled, True
        try:
            with CastForView():
                return int(analysis.total())
        finally:
            logger.disabled = was_disabled


class CastForView(TorchFunctionMode):
    """Casts instead of reinterpreting bits, as fingerprints of images do: torch.jit knows no view of another type, and
    costs do not depend on the values."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.view and isinstance(args[1], torch.dtype):
            return args[0].to(args[1])
        return func(*args, **(kwargs or {}))


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """q [B, H, T, E], k [B, H, S, E], v [B, H, S, E'] -> T S (E + E') for each image and head."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def free(inputs: list[Any], outputs: list[Any]) -> int:
    return 0
