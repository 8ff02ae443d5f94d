"""Published recipes by name, as far as their papers and releases give them. Learning rates are those of the batch here.

`cropr-study run --recipe cropr --dataset imagenet --data DIR --backbone vit_large_patch16_224.mae ...`
"""

from __future__ import annotations

from studies.config import Recipe

__all__ = ["RECIPES"]

# arXiv 2412.00965, ImageNet, MAE ViT-L at 224 px: lr 1e-3 a batch of 256. 85.25 top-1 at rate 8 with last-layer fusion,
# 85.78 dense (final epochs, by the logs of the release).
CROPR = Recipe(
    epochs=50, batch_size=1024, lr=4e-3, min_lr=1e-6, warmup_epochs=5, warmup_start=0.0, betas=(0.9, 0.999),
    weight_decay=0.05, clip_grad=None, layer_decay=0.75, drop_path=0.2, label_smoothing=0.1, mixup=0.8, cutmix=1.0,
    augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, amp="float16",
)  # fmt: skip

# arXiv 2202.07800, fine-tuning: lr 2e-5 a batch of 512, no warm-up, dropout and drop path off.
EVIT = Recipe(
    epochs=30, batch_size=512, lr=2e-5, min_lr=2e-6, warmup_epochs=0.0, betas=(0.9, 0.999), weight_decay=1e-6,
    clip_grad=None,
)  # fmt: skip

# arXiv 2106.02034: lr 1e-3 a batch of 1024; the backbone learns at a hundredth of it, and not at all for 5 epochs.
DYNAMICVIT = Recipe(
    epochs=30, batch_size=1024, lr=1e-3, warmup_epochs=5, betas=(0.9, 0.999), clip_grad=None, backbone_lr=0.01,
    freeze_backbone_epochs=5,
)  # fmt: skip

# arXiv 2412.00965, ADE20k, EVA-02-L at 512 px, patches of 14 resampled to 16, one query a patch, the curriculum of
# pruning rates: 56.71 mIoU at rate 40 with last-layer fusion, 56.78 dense. `cropr-study run --task segmentation
# --recipe cropr-ade20k --dataset ade20k --data DIR --backbone eva02_large_patch14_448.mim_in22k_ft_in1k
# --reducers none,cropr:rate=40`
CROPR_ADE20K = Recipe(
    epochs=64, batch_size=8, lr=2e-5, schedule="poly", warmup_epochs=0.0, betas=(0.9, 0.999), weight_decay=0.05,
    clip_grad=None, layer_decay=0.9,
)  # fmt: skip

# arXiv 2203.16527, COCO, ViTDet with Mask R-CNN, MAE ViT-B at 1,024 px: 51.6 box AP, 45.9 mask AP, dense. Ours: cosine
# in place of the steps at the end, warm-up as a share of an epoch (250 steps), half precision. `cropr-study run --task
# detection --recipe vitdet --dataset coco --data DIR --backbone vit_base_patch16_224.mae --window 14 --reducers all`
VITDET = Recipe(
    epochs=100, batch_size=64, lr=1e-4, warmup_epochs=0.135, warmup_start=0.001, betas=(0.9, 0.999), weight_decay=0.1,
    clip_grad=None, layer_decay=0.7, drop_path=0.1, amp="float16",
)  # fmt: skip

# EVA-02's own detector (arXiv 2303.11331), from which Cropr starts, COCO, EVA-02-L at 1,536 px: 62.3 box AP, 53.8 mask
# AP, dense, with Cascade Mask R-CNN, which is not built here. Constant rate; its 40,000 steps are 22 epochs. Unknown,
# so ours: weight decay, warm-up, clipping, bfloat16; and how Cropr itself was trained. `cropr-study run --task
# detection --recipe eva02-coco --dataset coco --data DIR --img-size 1536 --window 16 --backbone
# eva02_large_patch14_224.mim_m38m --reducers none,cropr:aux=presence,at=5/8/11/14/20`
EVA02_COCO = Recipe(
    epochs=22, batch_size=64, lr=4e-5, min_lr=4e-5, warmup_epochs=0.0, betas=(0.9, 0.999), weight_decay=0.1,
    clip_grad=None, layer_decay=0.8, drop_path=0.3, ema=0.9999, amp="bfloat16", checkpointing=True,
)  # fmt: skip

RECIPES = {
    "cropr": CROPR, "cropr-ade20k": CROPR_ADE20K, "evit": EVIT, "dynamicvit": DYNAMICVIT, "vitdet": VITDET,
    "eva02-coco": EVA02_COCO,
}  # fmt: skip
