"""`new-method`: a file to begin with, which is a method as it stands."""

from __future__ import annotations

import keyword
from pathlib import Path

from studies.models.given import NAME
from studies.models.methods import GROUPS, builtin

__all__ = ["TEMPLATE", "new_method"]

TAKEN = ("Dropper", "NormScore", "OnCroprSchedule", "Tokens")  # names of classes in the file


def new_method(path: Path) -> Path:
    """Write the file; the method is called as it is. Raises ValueError, OSError."""
    name = path.stem
    if path.suffix != ".py":
        raise ValueError(f"{path} does not end in .py; a method is a file of Python, such as mine.py")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(
            f"{path}: a method is called as its file, and cannot be called {name!r}; valid: small letters, digits and "
            "_, a letter first"
        )
    if name in builtin() or name in GROUPS:
        raise ValueError(f"{path}: {name} is one of the project's own names; choose another")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    class_name += "Method" if class_name in TAKEN else ""
    text = TEMPLATE.replace("CLASS", class_name).replace("LABEL", name.replace("_", " ").capitalize())
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("NAME", name))
    except FileExistsError:
        raise ValueError(f"{path} exists, and is not overwritten") from None
    return path


TEMPLATE = '''"""LABEL: patches with the largest norm stay. A method of your own: change what it says, and run

    cropr-study check ./NAME.py
    cropr-study bench --reducers ./NAME.py,evit,random
    cropr-study run --reducers ./NAME.py,cropr,random --quick

Letters: B images, P prefix tokens, N live patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.method import option
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens


class NormScore(Dropper):
    """Keeps the `keep` patches of the highest score, and does with the others what `rest` says.

    To read queries and keys of the attention: `inside = True` and `taps = ("q", "k")`; they come as `attended`.
    To read the class token: `class_token = True`, and models without one are refused.
    """

    # Arguments are attributes of the same names, so that a saved model can be loaded again.
    def __init__(self, keep: int, power: float = 2.0, rest: str = "drop"):
        super().__init__(keep, rest)
        self.power = power

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        """Multiply-accumulates of the score of one image: of matrix products. A norm has none; `patches @ weight` with
        a weight [D] has num_live * embed_dim."""
        return 0

    def score(self, tokens: Tokens, attended: Attended | None) -> Tensor:
        """[B, N] the higher the better. Of each image alone: what its neighbours in the batch are must not count."""
        return torch.linalg.vector_norm(tokens.patches, ord=self.power, dim=-1)  # tokens.patches: [B, N, D]


@dataclass(frozen=True, kw_only=True)
class CLASS(OnCroprSchedule):
    """Patches with the largest norm stay."""

    name = "NAME"  # as it is typed and recorded
    label = "LABEL"  # in tables and figures
    # learns = "a scorer, from ..."  # where reducers have weights: what they learn from
    reducer = NormScore

    # An option: default, meaning, range. It is typed ./NAME.py:power=1, and is self.power here.
    power: float = option(2.0, "of the norm: 1 sums magnitudes, 2 is the length, more counts the largest", low=1)

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        """The reducer behind block `block` of the timm model `vit`, which keeps `keep` patches. How many that is comes
        with the schedule, and so do the options of the cost (rate, ratio, keeps), `at` and `rest`."""
        return NormScore(keep, self.power, self.at_reducer)
'''
