"""`list`: the names that options take."""

from __future__ import annotations

from studies.commands.options import one_of

__all__ = ["names"]


def names(what: str) -> dict[str, str]:
    """Names and what they are. Raises ValueError."""
    from studies.backbones import EMBEDDED
    from studies.datasets import DATASETS
    from studies.reducers import METHODS
    from studies.study import STUDIES

    one_of("list", what, ["reducers", "studies", "datasets", "backbones"])
    if what == "reducers":
        return {
            name: f"{method.summary}; options: {', '.join(method.options) or '-'}" for name, method in METHODS.items()
        }
    if what == "backbones":
        return {name: "embedded, trained by the project on scenes" for name in EMBEDDED} | {
            "NAME": "any VisionTransformer or Eva of timm; NAME=FILE for a local checkpoint"
        }
    return STUDIES if what == "studies" else DATASETS
