"""Models that are scored as they come: their own classifier must know the classes of the data, as nothing learns a new
one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from studies.data import Data
from studies.models.backbones import create_backbone
from studies.models.checkpoints import head_classes, read_checkpoint

if TYPE_CHECKING:
    from torch import nn

__all__ = ["as_it_comes"]

_logger = logging.getLogger(__name__)


def as_it_comes(name: str, data: Data | None, *, pretrained: bool, checkpoint: str | None, **options: Any) -> nn.Module:
    """`create_backbone` with the classifier of its weights; without `data` whatever that is, or none. Where the data's
    classes are some of ImageNet's by name (Imagenette and the like), of a classifier of all 1,000 their rows are kept,
    and the log says so.

    Raises ValueError where the classifier is of other classes than the data, or there is none.
    """
    if data is None:
        headless = checkpoint is not None and head_classes(read_checkpoint(checkpoint)[0]) is None
        options |= {"num_classes": 0} if headless else {}
        return create_backbone(name, pretrained=pretrained, checkpoint=checkpoint, **options)
    if checkpoint is not None and head_classes(read_checkpoint(checkpoint)[0]) is None:
        raise ValueError(f"{checkpoint} has no classifier; --train none scores a model as it is, so it needs one")
    vit = create_backbone(name, pretrained=pretrained, checkpoint=checkpoint, **options)
    if vit.num_classes == data.num_classes:
        return vit
    rows = _rows(list(data.classes), vit.num_classes)
    if rows is None:
        raise ValueError(
            f"{checkpoint or name} names {vit.num_classes or 'no'} classes and the data set has {data.num_classes}; "
            "--train none scores a model as it is, so it needs a classifier of these, or class folders named as "
            "ImageNet's synsets (n01440764)"
        )
    whole = vit.head
    vit.reset_classifier(len(rows))
    with torch.no_grad():
        vit.head.weight.copy_(whole.weight[rows])
        vit.head.bias.copy_(whole.bias[rows])
    _logger.warning("%s: scored by %d rows of its classifier of %d", checkpoint or name, len(rows), len(whole.bias))
    return vit


def _rows(classes: list[str], num_classes: int) -> list[int] | None:
    """Which of ImageNet's 1,000 `classes` are, where all of them are some."""
    from timm.data import ImageNetInfo

    place = {synset: row for row, synset in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    found = [place.get(name) for name in classes]
    return None if num_classes != len(place) or None in found else [row for row in found if row is not None]
