"""The data sets by name, and which task each serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.config import RunConfig

__all__ = ["DATASETS", "create_dataset"]

DATASETS = {
    "scenes": "handwritten digits on photographs, 32 px, embedded (classification)",
    "imagenet": "ImageNet, or any folder of class folders, with --data DIR (classification)",
}


def create_dataset(config: RunConfig) -> Any:
    """The data set of a run. Raises ValueError for missing or unreadable data."""
    if config.dataset == "scenes":
        from studies.data.scenes import Scenes

        return Scenes(task=config.task, seed=config.seed)
    import timm

    from studies.data.imagenet import ImageFolder

    if config.data_dir is None:
        raise ValueError("imagenet needs --data DIR, the folder with train/ and val/")
    recipe = config.recipe
    augment = {} if recipe is None else {"auto_augment": recipe.augment, "re_prob": recipe.random_erasing}
    cfg = timm.get_pretrained_cfg(config.backbone)
    vit_config = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict() if cfg else {})
    return ImageFolder(Path(config.data_dir), vit_config=vit_config, seed=config.seed, augment=augment)
