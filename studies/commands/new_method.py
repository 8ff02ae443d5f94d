"""`new-method`: a commented file with a method that runs as it is, to be changed into one's own."""

from __future__ import annotations

from pathlib import Path

from studies.models.given import NAME
from studies.models.methods import builtin

__all__ = ["write"]

TEMPLATE = '''"""{label}: the patches of the largest norm stay. (What is new about it; paper; licence.)

Try it:   cropr-study check {file}
          cropr-study run --reducers none,random,{file} --quick
          cropr-study bench --reducers random,{file}

Letters: B images, P prefix tokens (class, registers), N live patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cropr.dropping import OnCroprSchedule
from cropr.option import option
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens


class {cls}Score(Dropper):
    """Says how much each patch is worth; the base class keeps the best `keep` and does with the others what `rest`
    says. Its arguments must be kept as attributes of the same names, so that a trained model can be saved and loaded.
    """

    # inside = True          # sit between attention and MLP of the block, instead of behind it
    # taps = ("q", "k")      # read queries and keys of that attention (`attended`); only inside a block
    # class_token = True     # refuse models that have none

    def __init__(self, keep: int, power: float, rest: str = "drop"):
        super().__init__(keep, rest)
        self.power = power

    def score(self, tokens: Tokens, attended: Attended | None = None) -> Tensor:
        """[B, N] the higher the better; `tokens.patches` is [B, N, D]. No image may depend on another."""
        return tokens.patches.abs().pow(self.power).sum(dim=-1)

    def score_macs(self, num_live: int, num_prefix: int, embed_dim: int) -> int:
        """Multiply-accumulates of the scores of one image: matrix products only, so nothing here."""
        return 0


@dataclass(frozen=True, kw_only=True)
class {cls}(OnCroprSchedule):
    """The patches of the largest norm stay."""  # the first line is what `list reducers` shows

    name = "{name}"  # as it is typed and recorded
    label = "{label}"  # in tables and figures
    paper = ""  # arXiv 1234.56789
    licence = ""  # of the release that its numbers are held against
    version = 1  # raise it when the method computes something else
    learns = ""  # in words, if the reducer has weights: then it is not run off the shelf
    reducer = {cls}Score

    # One field for each option, beside those of the schedule and the rest that every dropper has: {name}:power=1
    power: float = option(2.0, "of the values in the norm", above=0, high=8)

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        """The reducer at a block of the timm model `vit`, which keeps `keep` patches."""
        return {cls}Score(keep, self.power, self.at_reducer)
'''


def write(path: Path) -> Path:
    """Write the file and return its path. Raises ValueError where it is there, or its name cannot be a method's."""
    name = path.stem
    if path.suffix != ".py" or not NAME.fullmatch(name):
        raise ValueError(f"{path} cannot be a method: valid are small letters, digits and _, and .py, such as mine.py")
    if name in builtin():
        raise ValueError(f"{name} is one of the project's own methods; give the file another name")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist")
    words = name.replace("_", " ").title()
    shown = str(path) if "/" in str(path) else f"./{path}"
    text = TEMPLATE.format(name=name, label=words, cls=words.replace(" ", ""), file=shown)
    try:
        with open(path, "x") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(f"{path} is there already, and is not overwritten") from None
    return path
