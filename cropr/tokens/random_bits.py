"""Random numbers that are a pure function of the image: no generator to save, no batch mates to depend on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["image_seeds", "scramble", "uniform"]

GOLDEN = -7046029254386353131  # 2^64 / golden ratio as a signed integer, odd: successive multiples spread evenly
SAMPLES = 4096  # values of an image that enter its fingerprint


def image_seeds(images: Tensor) -> Tensor:
    """Images [B, ...] of any float type -> [B] int64, from their exact bits, whatever the batch."""
    bits = images.detach().flatten(1)
    bits = bits[:, :: max(1, bits.shape[1] // SAMPLES)].contiguous()
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[bits.element_size()]
    odd = golden(torch.arange(1, 2 * bits.shape[1], 2, device=bits.device))
    return scramble((scramble(bits.view(integer).to(torch.int64)) * odd).sum(dim=1))


def golden(index: Tensor) -> Tensor:
    """`index` times GOLDEN, int64 that wraps around. The idle XOR keeps torch.compile from folding the product of a
    known index and GOLDEN, with numbers beyond int64."""
    return (index ^ 0) * GOLDEN


def scramble(x: Tensor) -> Tensor:
    """A bijection of int64 in which every input bit flips half of the output bits (the finaliser of SplitMix64,
    Steele et al. 2014). Integers wrap around; `>>` is arithmetic in torch, so the sign bits are masked away."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(seed: Tensor, position: Tensor, salt: int) -> Tensor:
    """Floats in (0, 1), one for each `position` [B, N] of the images of `seed` [B]; `salt` makes them anew."""
    bits = scramble(seed[:, None] + scramble(golden(position) + salt))
    return (((bits >> 11) & 0x1FFFFFFFFFFFFF).double() + 0.5) * 2.0**-53
