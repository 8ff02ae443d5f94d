"""Yardsticks: the five reducers straight from their equations, with explicit attention softmax(Q K^T / sqrt E) V, out
of the same weights as the models of this project. To be read and to be timed beside; for plain ViTs with a class token.

Letters: B images, H heads, T tokens with the class token first, N = T - 1 patches, L patches of the grid, D width,
E = D / H, M queries, K patches that stay, r merges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.dynamicvit import DynamicViT
from baselines.evit import EViT
from baselines.random_pruning import RandomPruning
from baselines.tome import ToMe
from cropr.cropr import CroprModule
from cropr.tokens.random_bits import image_seeds, uniform
from cropr.vit import ReducedViT


def rows(x: Tensor, index: Tensor) -> Tensor:
    """`x` [B, T, D], `index` [B, K] -> [B, K, D]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def attention(block: nn.Module, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x behind the residual, attention [B, H, T, T] and keys [B, H, T, E]; `size` [B, T]: of each key, for ToMe."""
    batch, tokens, width = x.shape
    heads = block.attn.num_heads
    qkv = block.attn.qkv(block.norm1(x)).reshape(batch, tokens, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-2, -1) / (width // heads) ** 0.5
    if size is not None:
        logits = logits + size.log()[:, None, None, :]
    weight = logits.softmax(dim=-1)
    out = (weight @ v).transpose(1, 2).reshape(batch, tokens, width)
    return x + block.attn.proj(out), weight, k


def mlp(block: nn.Module, x: Tensor) -> Tensor:
    return x + block.mlp(block.norm2(x))


class Plain(nn.Module):
    """The model that `model` is, as equations; `model` as it is trained, not folded: queries are queries."""

    def __init__(self, model: ReducedViT):
        super().__init__()
        self.vit, self.llf = model.vit, model.llf
        self.reducers = model.reducers

    def forward(self, images: Tensor) -> Tensor:
        vit = self.vit
        x = vit.patch_embed(images)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
        x = self.blocks(x, images)
        return vit.head(vit.norm(x)[:, 0])

    def blocks(self, x: Tensor, images: Tensor) -> Tensor:
        raise NotImplementedError


class PlainDense(Plain):
    """No reducer."""

    def blocks(self, x: Tensor, images: Tensor) -> Tensor:
        for block in self.vit.blocks:
            x = mlp(block, attention(block, x)[0])
        return x


class PlainPruning(Plain):
    """The K patches of the highest score stay. Last-layer fusion: all others come back in front of the last block, as
    they were, in grid order."""

    def score(self, reducer: nn.Module, x: Tensor, position: Tensor, images: Tensor) -> Tensor:
        """[B, N]"""
        raise NotImplementedError

    def blocks(self, x: Tensor, images: Tensor) -> Tensor:
        position = torch.arange(x.shape[1] - 1, device=x.device).expand(len(x), -1)
        gone, gone_position = [], []
        for i, block in enumerate(self.vit.blocks):
            if self.llf and i == len(self.vit.blocks) - 1:
                patches, at = torch.cat([x[:, 1:], *gone], dim=1), torch.cat([position, *gone_position], dim=1)
                x = torch.cat([x[:, :1], rows(patches, at.argsort(dim=1))], dim=1)
            x = mlp(block, attention(block, x)[0])
            if str(i) in self.reducers:
                reducer = self.reducers[str(i)]
                order = self.score(reducer, x, position, images).argsort(dim=1, descending=True)
                stay, leave = order[:, : reducer.keep], order[:, reducer.keep :]
                gone.append(rows(x[:, 1:], leave))
                gone_position.append(position.gather(1, leave))
                x = torch.cat([x[:, :1], rows(x[:, 1:], stay)], dim=1)
                position = position.gather(1, stay)
        return x


class PlainCropr(PlainPruning):
    """score_n = sum over the queries of q_m . x_n"""

    def score(self, reducer: nn.Module, x: Tensor, position: Tensor, images: Tensor) -> Tensor:
        queries = reducer.queries.expand(len(x), -1, -1)  # [B, M, D]
        return (queries @ x[:, 1:].transpose(1, 2)).sum(dim=1)


class PlainRandom(PlainPruning):
    """score_n ~ U(0, 1). The numbers are drawn as the project draws them, or nothing could be compared."""

    def score(self, reducer: nn.Module, x: Tensor, position: Tensor, images: Tensor) -> Tensor:
        return uniform(image_seeds(images), position, reducer.salt)


class PlainDynamicViT(PlainPruning):
    """score_n = log P(keep) of an MLP on the patch (its first half) and the mean of all patches (its second half)."""

    def score(self, reducer: nn.Module, x: Tensor, position: Tensor, images: Tensor) -> Tensor:
        net = reducer.predictor
        hidden = F.gelu(net.in_linear(net.in_norm(x[:, 1:])))
        half = hidden.shape[-1] // 2
        local, mean = hidden[..., :half], hidden[..., half:].mean(dim=1, keepdim=True)
        hidden = torch.cat([local, mean.expand(-1, local.shape[1], -1)], dim=-1)
        hidden = F.gelu(net.out_linear2(F.gelu(net.out_linear1(hidden))))
        return net.out_linear3(hidden).log_softmax(dim=-1)[..., 0]


class PlainEViT(Plain):
    """Between attention and MLP the K patches stay that the class token attends to most, a mean over heads; the sum of
    the others, weighted by that attention, is appended."""

    def blocks(self, x: Tensor, images: Tensor) -> Tensor:
        for i, block in enumerate(self.vit.blocks):
            x, weight, _ = attention(block, x)
            if str(i) in self.reducers:
                score = weight[:, :, 0, 1:].mean(dim=1)
                order = score.argsort(dim=1, descending=True)
                keep = self.reducers[str(i)].keep_of(score.shape[1])
                stay, leave = order[:, :keep], order[:, keep:]
                fused = (score.gather(1, leave).unsqueeze(-1) * rows(x[:, 1:], leave)).sum(dim=1, keepdim=True)
                x = torch.cat([x[:, :1], rows(x[:, 1:], stay), fused], dim=1)
            x = mlp(block, x)
        return x


class PlainToMe(Plain):
    """Between attention and MLP r tokens at even places join the most similar one at odd places: cosine of keys, a mean
    over heads. A token is the mean of its patches, and attention adds the logarithm of their number to its logit."""

    def blocks(self, x: Tensor, images: Tensor) -> Tensor:
        size = torch.ones_like(x[..., 0])
        for i, block in enumerate(self.vit.blocks):
            x, _, keys = attention(block, x, size)
            if str(i) in self.reducers:
                x, size = self.merge(x, size, keys.mean(dim=1), self.reducers[str(i)].r)
            x = mlp(block, x)
        return x

    def merge(self, x: Tensor, size: Tensor, keys: Tensor, r: int) -> tuple[Tensor, Tensor]:
        keys = keys / keys.norm(dim=-1, keepdim=True)
        similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # [B, even, odd]
        similarity[:, 0] = -torch.inf  # the class token
        best, partner = similarity.max(dim=2)
        order = best.argsort(dim=1, descending=True)
        leave, stay = order[:, :r], order[:, r:].sort(dim=1).values
        into = partner.gather(1, leave)
        whole = size.unsqueeze(-1) * x
        even, odd = whole[:, ::2], whole[:, 1::2].clone()
        odd.scatter_add_(1, into.unsqueeze(-1).expand(-1, -1, x.shape[-1]), rows(even, leave))
        size_even, size_odd = size[:, ::2], size[:, 1::2].clone()
        size_odd.scatter_add_(1, into, size_even.gather(1, leave))
        size = torch.cat([size_even.gather(1, stay), size_odd], dim=1)
        return torch.cat([rows(even, stay), odd], dim=1) / size.unsqueeze(-1), size


PLAIN: dict[type, type[Plain]] = {
    CroprModule: PlainCropr, RandomPruning: PlainRandom, DynamicViT: PlainDynamicViT, EViT: PlainEViT, ToMe: PlainToMe,
}  # fmt: skip


def plain(model: ReducedViT) -> Plain:
    """The yardstick of `model`, not folded, with the same weights."""
    kinds = {type(reducer) for reducer in model.reducers.values()}
    return (PLAIN[kinds.pop()] if kinds else PlainDense)(model).eval()
