"""timm's Vision Transformers with token reducers between or inside their blocks."""

from cropr.vit.backbone import check_backbone, grid_of
from cropr.vit.reduced import ReducedViT

__all__ = ["ReducedViT", "check_backbone", "grid_of"]
