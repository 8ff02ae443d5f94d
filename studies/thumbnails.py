"""Small pictures of the test items whose live patches runs record, kept once for a study: a report is made from the
records alone, often where the data set is not.

Letters: h and w sides of an image in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from results.records.items import Items, read_items, write_items
from results.records.store import CorruptRecord
from studies.data import Data
from studies.data.loading import UnreadableImages, WrongFiles
from studies.tasks.kept import followed

__all__ = ["SIDE", "keep_thumbnails", "thumbnail"]

SIDE = 64  # pixels of the longer side at most; 128 of them take about 300 kB
QUALITY = 85  # of JPEG


def keep_thumbnails(data: Data, out: Path) -> None:
    """Adds to items.npz in `out` what it lacks of the items that runs on `data` follow. They are chosen by their
    numbers alone, before any model has seen them; images that cannot be read are passed over. Raises OSError."""
    try:
        there = read_items(out)
    except CorruptRecord:  # nothing is lost by writing it again
        there = Items()
    lacking = [item for item in followed(data.num_test).tolist() if item not in there.pictures]
    if not lacking:
        return
    found = {}
    for item in lacking:  # one by one: of 1,024 px all of them would take gigabytes
        try:
            image = data.test_items([item]).images[0]
        except (UnreadableImages, WrongFiles):
            continue
        found[item] = thumbnail(image, data.mean, data.std)
    if found:
        write_items(out, Items(list(data.classes), {**there.pictures, **found}))


def thumbnail(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> bytes:
    """A normalised image [3, h, w] as a file: as it is in PNG, or, where it is larger than SIDE, made smaller in
    JPEG."""
    scale, shift = (image.new_tensor(list(values)).view(-1, 1, 1) for values in (std, mean))
    pixels = ((image * scale + shift).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    small = max(picture.size) <= SIDE
    if not small:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
