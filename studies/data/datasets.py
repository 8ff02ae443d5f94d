"""The data sets by name, and which task each serves."""

from __future__ import annotations

from typing import Any

from studies.config import RunConfig

__all__ = ["DATASETS", "create_dataset"]

DATASETS = {
    "scenes": "handwritten digits on photographs, 32 px, embedded (classification, segmentation)",
    "imagenet": "ImageNet, or any folder of class folders, with --data DIR (classification)",
    "ade20k": "ADE20K scene parsing, 150 classes, with --data ADEChallengeData2016 (segmentation)",
    "masks": "any folder of images, masks of class numbers and classes.txt, with --data DIR (segmentation)",
    "masks-palette": "the same, where masks are palette PNGs whose indices are the classes (segmentation)",
}


def create_dataset(config: RunConfig) -> Any:
    """The data set of a run. Raises ValueError for missing or unreadable data."""
    if config.dataset == "scenes":
        from studies.data.scenes import MAX_DIGITS, Scenes

        digits = (1, MAX_DIGITS) if config.task == "segmentation" else (1, 1)
        return Scenes(task=config.task, seed=config.seed, num_digits=digits)
    serves = "classification" if config.dataset == "imagenet" else "segmentation"
    if config.task != serves:
        raise ValueError(f"data set {config.dataset} serves {serves}, not {config.task}")
    if config.data_dir is None:
        raise ValueError(f"{config.dataset} needs --data DIR: {DATASETS[config.dataset]}")
    if config.dataset == "ade20k":
        from studies.data.ade20k import ADE20k

        return ADE20k(config.data_dir, seed=config.seed)
    import timm

    cfg = timm.get_pretrained_cfg(config.backbone)
    vit_config = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict() if cfg else {})
    if config.dataset == "imagenet":
        from studies.data.imagenet import ImageFolder

        recipe = config.recipe
        augment = {} if recipe is None else {"auto_augment": recipe.augment, "re_prob": recipe.random_erasing}
        return ImageFolder(config.data_dir, vit_config=vit_config, seed=config.seed, augment=augment)
    from studies.data.masks import MaskFolder

    size, mean, std = vit_config["input_size"][-1], vit_config["mean"], vit_config["std"]
    palette = config.dataset == "masks-palette"
    return MaskFolder(config.data_dir, image_size=size, mean=mean, std=std, seed=config.seed, palette=palette)
