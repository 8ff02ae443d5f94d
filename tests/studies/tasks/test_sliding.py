"""Sliding windows against a loop over pixels."""

import numpy as np
import pytest
import torch
from torch import nn

from studies.tasks.sliding import sliding_window


@pytest.fixture
def model():
    """Logits depend on the place in the window: a wrong window is seen."""
    torch.manual_seed(0)
    convolution, place = nn.Conv2d(3, 4, 3, padding=1), torch.randn(4, 16, 16)
    return torch.no_grad()(lambda x: convolution(x) + place)


def slow(model, images, window, stride):
    """Each pixel: mean over all windows it lies in."""
    height, width = images.shape[-2:]

    def starts(side):
        found = [0]
        while found[-1] + window < side:
            found.append(min(found[-1] + stride, side - window))
        return found

    windows = {
        (top, left): model(images[:, :, top : top + window, left : left + window]).double().numpy()
        for top in starts(height)
        for left in starts(width)
    }
    out = np.zeros((len(images), 4, height, width))
    for y, x in np.ndindex(height, width):
        covers = [
            logits[:, :, y - top, x - left]
            for (top, left), logits in windows.items()
            if 0 <= y - top < window and 0 <= x - left < window
        ]
        out[:, :, y, x] = np.mean(covers, axis=0)
    return out


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (37, 29), (17, 64)])
@pytest.mark.parametrize("stride", [5, 10, 16])
def test_windows_are_averaged(model, size, stride):
    images = torch.randn(2, 3, *size)
    logits = sliding_window(model, images, 16, stride, 4)
    assert logits.shape == (2, 4, *size) and logits.dtype == torch.float32
    expected = slow(model, images, 16, stride)
    torch.testing.assert_close(logits.double().numpy(), expected, rtol=0, atol=1e-5)
    if max(size) > 16:
        assert np.abs(expected - slow(model, images, 16, 7)).max() > 1e-2  # another stride misses the tolerance


def test_one_window_is_one_call(model):
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(sliding_window(model, images, 16, 8, 4), model(images))


def test_small_images_are_padded(model):
    images = torch.randn(2, 3, 9, 20)
    padded = torch.zeros(2, 3, 16, 20)
    padded[:, :, :9] = images
    assert torch.equal(sliding_window(model, images, 16, 8, 4), sliding_window(model, padded, 16, 8, 4)[:, :, :9])


@pytest.mark.parametrize("stride", [0, 17])
def test_strides_that_leave_pixels_out(model, stride):
    with pytest.raises(ValueError, match=f"stride {stride} of a window of 16 px; possible: 1 to 16"):
        sliding_window(model, torch.zeros(1, 3, 16, 16), 16, stride, 4)
