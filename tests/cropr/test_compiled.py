"""torch.compile, with the C++ compiler behind it."""

import torch

from cropr.random_bits import image_seeds, uniform


def draws(images):
    positions = torch.arange(64).expand(len(images), -1)
    return uniform(image_seeds(images), positions, 64)


def test_random_numbers_are_the_same_when_compiled():
    """Products of known indices would be folded into constants beyond int64."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.compile(draws)(images), draws(images))
