"""Golden numbers of the official implementations (tests/golden/README.md) and the tolerances that go with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"
CLASSES = {"VisionTransformer": VisionTransformer, "VisionTransformerDistilled": VisionTransformerDistilled, "Eva": Eva}

ATOL = 2e-5  # logits, tokens, log-probabilities, losses
ATTENTION_ATOL = 1e-6  # EViT's class attention
SCORE_ATOL = 2e-5  # Cropr's raw scores, times their standard deviation
GRADIENT_ATOL = 2e-5  # gradients, times their largest entry
NORM_RTOL = 1e-4  # norms of gradients


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def numbers(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def backbone(weights: str, kind: str = "VisionTransformer", **options: Any) -> nn.Module:
    """The timm model of a case with the weights of the file."""
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    vit = CLASSES[kind](**options)
    vit.load_state_dict(tensors(weights), strict=True)
    return vit.eval()


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries that begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def same(actual: Tensor, expected: Tensor, atol: float = ATOL) -> None:
    """Equal to `atol`, and NaN in the same places."""
    torch.testing.assert_close(actual.detach(), expected, atol=atol, rtol=0, equal_nan=True)


def same_gradient(parameter: nn.Parameter, expected: Tensor) -> None:
    same(parameter.grad, expected, GRADIENT_ATOL * expected.abs().max().item())


def misses(wrong: Tensor, expected: Tensor, atol: float = ATOL) -> None:
    """A wrong answer must be off by ten tolerances at least, or the tolerance tells nothing."""
    assert (wrong.detach() - expected).abs().nan_to_num().max() > 10 * atol


def score_atol(expected: Tensor) -> float:
    """Tolerance for one module's raw scores, NaN where a token is gone."""
    return SCORE_ATOL * expected[~expected.isnan()].std().item()


class Recorder:
    """Class token behind every block, and what went into and came out of every reducer, of the latest forward pass."""

    def __init__(self, model: nn.Module):
        self.class_tokens: list[Tensor] = []
        self.calls: list[tuple] = []
        # Blocks that a reducer sits in are not called as a whole: the next norm sees what leaves them.
        behind = [*(block.norm1 for block in model.vit.blocks[1:]), model.vit.norm]
        for norm in behind:
            norm.register_forward_pre_hook(lambda _, args: self.class_tokens.append(args[0][:, 0].detach()))
        for reducer in model.reducers.values():
            reducer.register_forward_hook(lambda module, args, out: self.calls.append((module, args, out)))

    def clear(self) -> None:
        self.class_tokens.clear()
        self.calls.clear()


def scatter(values: Tensor, index: Tensor, length: int, fill: float = float("nan")) -> Tensor:
    """[B, N] values at positions [B, N] of [B, length], `fill` elsewhere."""
    empty = torch.full((len(values), length), fill, dtype=values.dtype)
    return empty.scatter(1, index, values.detach())
