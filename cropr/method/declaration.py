"""A method declares itself: one frozen dataclass at the end of its file. Everything else in the tree reads it.

Class attributes say what the method is; each field made with `option` is an option of it; the functions say what it
does with a model. No torch is imported here, so that names and options are known before anything heavy is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from cropr.method.options import Option, option, options_of
from cropr.nearest import nearest

if TYPE_CHECKING:
    from torch import nn

    from cropr.method.learned import Place, Stays
    from cropr.method.objective import Criterion, Objective
    from cropr.reducer import Dropper, Reducer
    from cropr.schedule import Scale
    from cropr.vit import ReducedViT

__all__ = ["GRID_SIZE", "LEARNED", "Method", "Training", "renamed"]

GRID_SIZE = 4  # combinations of each method's `grid`, whose values are factors of settings of the recipe
LEARNED = "learned"  # the schedule whose counts are searched
Role = Literal["dense", "random", "control", "method"]


class Training(NamedTuple):
    """What an objective is made from. `teacher()` makes the plain pretrained model; `epochs` are those of the
    training."""

    model: ReducedViT
    criterion: Criterion
    teacher: Callable[[], nn.Module] | None = None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method with its options. Subclasses set `name`, `label` and what differs, and define `place`.

    Raises ValueError for an option outside its range, or a combination that makes no sense.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    paper: ClassVar[str] = ""
    licence: ClassVar[str] = ""  # of the release that the numbers are held against
    version: ClassVar[int] = 1  # part of the name of a run: raise it when the method computes something else
    role: ClassVar[Role] = "method"
    standard: ClassVar[bool] = False  # among `--reducers all`
    learns: ClassVar[str] = ""  # weights of its own: off the shelf it would choose at random
    reads_labels: ClassVar[bool] = False  # no method: it sees what is to be predicted
    fused_attention: ClassVar[bool] = True  # attention stays on the fused kernel, in training too
    counts_scoring: ClassVar[bool] = True  # a budget pays for scoring; False: methods on one schedule keep one schedule
    reducer: ClassVar[type[Reducer] | None] = None  # what it puts at blocks; None: nothing
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"lr": (0.5, 1.0, 2.0, 4.0)}  # what `tune` tries, see GRID_SIZE
    origin: ClassVar[Any] = None  # of a user's own: where it was loaded from (studies/models/given.py)

    dense: bool = False  # the task: logits for every pixel
    seed: int = 0  # of what it draws at random
    other: Method | None = None  # one that this one is like, see `resolved`
    trained_at: float | None = option(
        None, "budget that it was trained at, where it is scored at others too; 1: the dense model, reduced off the "
        "shelf", above=0, high=1, unset="the budget that it is scored at",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for key, found in self.options().items():
            value = getattr(self, key)
            if value is None:
                value = found.default_for(self.dense)
                object.__setattr__(self, key, value)
            try:
                found.check(value)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
        self.check()

    # What it is

    @classmethod
    @cache
    def options(cls) -> dict[str, Option]:
        """By name, in the order of declaration. Of the dense model there is nothing to choose."""
        return {} if cls.role == "dense" else options_of(cls)

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    @classmethod
    def needs(cls) -> list[str]:
        """Of a backbone, in words."""
        return ["a class token"] if cls.reducer is not None and cls.reducer.class_token else []

    @classmethod
    def parse(cls, given: Mapping[str, str], dense: bool = False) -> Self:
        """The method with options as they are typed. Raises ValueError."""
        options, values = cls.options(), {}
        for key, text in cls.respell(given, dense).items():
            if (key, text) == ("schedule", LEARNED) and key not in options:
                raise ValueError(cls.no_schedule())
            if key not in options:
                raise ValueError(nearest(f"option of {cls.name}", key, options))
            try:
                values[key] = options[key].parse(text)
            except ValueError as error:
                raise ValueError(f"{cls.name}: {error}") from None
        return cls(dense=dense, **values)

    @classmethod
    def respell(cls, given: Mapping[str, str], dense: bool) -> Mapping[str, str]:
        """`given` with older spellings replaced."""
        return given

    @classmethod
    def no_schedule(cls) -> str:
        """Why its counts cannot be learned."""
        own = ", ".join(f"{key}=" for key, option in cls.options().items() if option.sets_cost)
        why = f"{own} sets those of {cls.name} together" if own else f"{cls.name} has none to choose"
        return f"{cls.name}: schedule={LEARNED} is for methods whose counts are free at each place, and {why}"

    @property
    def known_as(self) -> str:
        """Its name, and of a user's own file the digest as well: an edited file is another method."""
        return self.name if self.origin is None else f"{self.name}#{self.origin.digest}"

    @property
    def given(self) -> dict[str, str]:
        """The options that differ from their default in this task, as they are typed."""
        return {
            key: option.write(getattr(self, key))
            for key, option in sorted(self.options().items())
            if getattr(self, key) != option.default_for(self.dense)
        }

    def __str__(self) -> str:
        """As it is typed: `cropr:queries=4,rest=llf`."""
        options = ",".join(f"{key}={text}" for key, text in self.given.items())
        return f"{self.known_as}:{options}" if options else self.known_as

    @property
    def title(self) -> str:
        """For tables and figures."""
        label = self.label if self.origin is None else f"{self.label} #{self.origin.digest}"
        return label + (f" ({', '.join(f'{k}={v}' for k, v in self.given.items())})" if self.given else "")

    @property
    def native(self) -> dict[str, Any]:
        """The parameters that set the cost, as far as they are given."""
        values = {key: getattr(self, key) for key, option in self.options().items() if option.sets_cost}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def takes_budget(self) -> bool:
        """Its cost is still open."""
        if self.other is not None:
            return self.other.takes_budget
        return not self.native and any(option.sets_cost for option in self.options().values())

    @property
    def unsearched(self) -> bool:
        """Its counts, or those of the one that it is like, are still to be learned (see cropr/method/learned.py)."""
        return getattr(self.other or self, "schedule", None) == LEARNED

    def resolved(self, find: Callable[[str, bool], Method]) -> Self:
        """Itself, with the other method that an option names; `find(spec, dense)` makes that."""
        return self

    # What it does

    def check(self) -> None:
        """Raise ValueError for options that make no sense together."""

    def place(self, vit: nn.Module, num_patches: int) -> Mapping[int, Reducer]:
        """Block -> reducer for a timm model and a grid of `num_patches`. Raises ValueError for what `vit` lacks."""
        raise NotImplementedError

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """The ways in which a budget may set the cost; the first that can meet it is taken."""
        return []

    def check_learned(self, given: Collection[str]) -> None:
        """Raise ValueError for what a learned schedule leaves no room for; `given` are options that set the cost."""
        if given:
            raise ValueError(f"{self.name}: schedule={LEARNED} finds the counts, and {min(given)}= sets them; give one")
        if self.dense:
            raise ValueError(f"{self.name}: schedule={LEARNED} is for images; counts of dense tasks are not searched")

    def class_order(self, vit: nn.Module, num_patches: int) -> Dropper:
        """By which a search ranks patches where the method has no scores for that. Raises ValueError."""
        from cropr.method.learned import ByClassAttention

        if vit.cls_token is None:
            own = "its own scores are not learned yet" if self.learns else "it has no scores of patches"
            raise ValueError(
                f"{self.name}: schedule={LEARNED} ranks patches by class attention, as {own}, and this "
                f"{type(vit).__name__} has no class token"
            )
        return ByClassAttention(num_patches)

    def searching(self, vit: nn.Module, num_patches: int) -> dict[int, Place]:
        """Block -> what stands there while counts are searched. Raises ValueError."""
        raise ValueError(self.no_schedule())

    def at_counts(self, stays: Mapping[int, Stays], num_patches: int) -> Self:
        """Itself at the whole numbers `stays` of its blocks, none above the one before."""
        raise ValueError(self.no_schedule())

    def objective(self, training: Training) -> Objective:
        """What the reduced model is trained for: the plain loss of the task."""
        from cropr.method.objective import Objective

        return Objective(training.criterion)

    @property
    def rest(self) -> str | None:
        """What becomes of patches that leave (see cropr/dropping.py); None: none does."""
        return None

    @property
    def on_full_grid(self) -> bool:
        """The last block runs on all patches again."""
        return False

    @property
    def policy(self) -> str | None:
        """Masked training: "exact" or "sdpa", see cropr/vit/masking.py."""
        return None

    def own(self, epochs: int) -> tuple[Self, dict[str, Any]]:
        """Itself as its paper trains it, and the settings in which its recipe of `epochs` differs from one for all."""
        return self, {}

    def training_cost(self, budget: float | None) -> float:
        """Of a step, in steps of the dense model: a guess that orders runs, longest first."""
        return budget or 1.0


def renamed(name: str, given: Mapping[str, str], **names: str) -> dict[str, str]:
    """`given` with older names of options replaced, for the method `name`. Raises ValueError where both are given."""
    for old, new in names.items():
        if old in given and new in given:
            raise ValueError(f"{name}: {old}= is the older name of {new}=; give only {new}=")
    return {names.get(key, key): value for key, value in given.items()}
