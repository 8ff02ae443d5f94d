"""What methods share that leave a number of patches: the schedule, the places, and what becomes of those that leave.

Letters: L patches of the full grid, P prefix tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from cropr.method import LEARNED, Method, Training, option, renamed
from cropr.schedule import Scale, constant, geometric, staged, stages
from cropr.windows import global_blocks, windows_of

if TYPE_CHECKING:
    from torch import nn

    from cropr.method.dense_objective import Curriculum
    from cropr.method.learned import Place, Stays
    from cropr.method.objective import Objective
    from cropr.reducer import Dropper, Reducer

__all__ = ["Dropping", "OnCroprSchedule", "Scheduled", "grid_shape"]

AT_REDUCER = ("drop", "fuse", "squeeze")
IN_IMAGES = (*AT_REDUCER, "llf")
IN_PIXELS = ("drop", "squeeze", "llf", "concat", "mask", "nearest", "logits")
REST_CHOICES = tuple(dict.fromkeys((*IN_IMAGES, *IN_PIXELS)))
REST_MEANING = (
    "drop, nothing; fuse, one token, their sum weighted by score; squeeze, each is added to the most similar one that "
    "stays (TPS); llf, all come back for the last block (last-layer fusion). Dense tasks also: concat, mask, nearest, "
    "logits (see cropr/dense.py)"
)


def grid_shape(vit: nn.Module, num_patches: int) -> tuple[int, int]:
    """Rows and columns of a grid of `num_patches`: the model's own, or a square. Raises ValueError."""
    rows, columns = vit.patch_embed.grid_size
    if rows * columns == num_patches:
        return rows, columns
    side = math.isqrt(num_patches)
    if side**2 != num_patches:
        raise ValueError(f"{num_patches} patches are no square, and the model's own grid is {rows} x {columns}")
    return side, side


def up_to(wanted: tuple[int, ...], valid: list[int]) -> tuple[int, ...]:
    """For each of the blocks `wanted` the last `valid` one up to it, or else the first; each of them once."""
    found = {max((block for block in valid if block <= stage), default=valid[0]) for stage in wanted} if valid else ()
    return tuple(sorted(found))


@dataclass(frozen=True, kw_only=True)
class Scheduled(Method):
    """A method that leaves a number of patches at each place that is known beforehand."""

    schedules: ClassVar[tuple[str, ...]] = ("constant", "geometric")  # its own, in the order in which a budget tries
    parameters: ClassVar[dict[str, str]] = {
        "constant": "rate", "geometric": "ratio", "staged": "ratio", "explicit": "keeps",
    }  # fmt: skip
    searched_ways: ClassVar[tuple[str, ...]] = ("merge",)  # what is searched where the schedule is learned
    in_front: ClassVar[bool] = False  # places are named by the block behind the reducer

    schedule: str | None = option(
        None, "how many stay: constant, a number leaves at each place; geometric and staged, a share of those before "
        "stays; explicit, as `keeps` says; learned, as a search finds them for a budget on training items, before "
        "training (images only)", choices=("constant", "geometric", "staged", "explicit", LEARNED),
        unset="the method's own, or that of the parameter given",
    )  # fmt: skip
    at: tuple[int, ...] | None = option(
        None, "blocks of the reducers, written 3/6/9", low=0,
        unset="three stages where the schedule is staged, else every block but the last (llf: the last two); with "
        "windows, global blocks among them",
    )  # fmt: skip
    rate: float | None = option(None, "patches that leave at each place (constant)", low=0, sets_cost=True)
    ratio: float | None = option(
        None, "share of the patches before that stay at each place (geometric, staged)", above=0, high=1, sets_cost=True
    )
    keeps: tuple[int, ...] | None = option(
        None, "patches that stay behind each place, written 36/30/24 (explicit)", low=1, sets_cost=True
    )
    first_extra: int | None = option(
        None, "further patches that leave at the first place (constant)", low=0, unset="1 with a class token only"
    )

    @classmethod
    def respell(cls, given: Mapping[str, str], dense: bool) -> Mapping[str, str]:
        """`blocks=` is `at=`."""
        return renamed(cls.name, given, blocks="at")

    def check(self) -> None:
        given = list(self.native)
        if len(given) > 1:
            raise ValueError(f"{self.name}: {' and '.join(given)} both set the cost; give one of them")
        if self.schedule == LEARNED:
            self.check_learned(given)
        elif self.schedule is not None and given and self.parameters[self.schedule] != given[0]:
            wanted = self.parameters[self.schedule]
            raise ValueError(f"{self.name}: {given[0]} is not the parameter of schedule={self.schedule}, {wanted} is")
        if self.schedule == "explicit" and not given:
            raise ValueError(f"{self.name}: schedule=explicit needs keeps=, the patches behind each place")
        if self.at is not None and list(self.at) != sorted(set(self.at)):
            raise ValueError(f"{self.name}: at={'/'.join(map(str, self.at))} names blocks in another order or twice")
        if self.first_extra is not None and self.kind not in (None, "constant"):
            raise ValueError(f"{self.name}: first_extra is of the constant schedule, not of {self.kind}")

    @property
    def kind(self) -> str | None:
        """Of schedule; None while a budget may choose."""
        if self.schedule is not None:
            return self.schedule
        if not (given := list(self.native)):
            return self.schedules[0] if len(self.schedules) == 1 else None
        return next(kind for kind in (*self.schedules, *self.parameters) if self.parameters[kind] == given[0])

    def blocks(self, vit: nn.Module) -> tuple[int, ...]:
        """Behind (or in) which the reducers are. Raises ValueError."""
        depth, windows = len(vit.blocks), windows_of(vit)
        last = depth - 1 - self.on_full_grid
        if self.at is None and self.kind != "staged":
            return tuple(block for block in global_blocks(vit) if block < last)
        end = min(last, depth - 2) if self.in_front else last
        valid = [block for block in global_blocks(vit) if block <= end]
        behind = tuple(block - self.in_front for block in self.at or stages(depth))
        if self.at is None and windows is not None:
            behind = up_to(behind, valid)
        if bad := [block + self.in_front for block in behind if block not in valid]:
            where = "in front of" if self.in_front else "at"
            these = f"{self.in_front:d} to {end + self.in_front}"
            if windows is not None:
                these = f"{'/'.join(str(block + self.in_front) for block in valid)} (windows {windows})"
            raise ValueError(
                f"{self.name} reduces {where} blocks {these} of this model of {depth}, not {bad[0]}; give at="
            )
        return behind

    def extra(self, vit: nn.Module) -> int:
        """Further patches that the first module removes where the schedule is constant."""
        return int(vit.num_prefix_tokens == 1) if self.first_extra is None else self.first_extra

    def counts(self, vit: nn.Module, num_patches: int) -> dict[int, int]:
        """Patches kept at each block that has a reducer. Raises ValueError."""
        blocks, kind = self.blocks(vit), self.kind
        if kind is None or not self.native:
            raise ValueError(
                f"{self.name} needs a budget, or one of {', '.join(dict.fromkeys(self.parameters.values()))}"
            )
        if self.rate == 0 or not blocks:
            return {}
        if kind == "explicit":
            assert self.keeps is not None
            if len(self.keeps) != len(blocks) or list(self.keeps) != sorted(self.keeps, reverse=True):
                raise ValueError(
                    f"{self.name}: keeps= needs {len(blocks)} numbers that do not rise, one for each place"
                )
            return dict(zip(blocks, self.keeps, strict=True))
        if self.rate is not None:
            return dict(zip(blocks, constant(num_patches, self.rate, len(blocks), self.extra(vit)), strict=True))
        assert self.ratio is not None
        keeps = (staged if kind == "staged" else geometric)(num_patches, self.ratio, len(blocks))
        return dict(zip(blocks, keeps, strict=True))

    def place(self, vit: nn.Module, num_patches: int) -> Mapping[int, Reducer]:
        return {block: self.make(vit, block, keep) for block, keep in self.counts(vit, num_patches).items()}

    def make(self, vit: nn.Module, block: int, keep: int) -> Reducer:
        """The reducer at `block`, which leaves `keep` patches."""
        raise NotImplementedError

    def searching(self, vit: nn.Module, num_patches: int) -> dict[int, Place]:
        from cropr.method.learned import Place, Stays
        from cropr.reducer import Dropper

        if "merge" in self.searched_ways and self.on_full_grid:
            raise ValueError(f"{self.name}: rest={self.rest}: the search merges patches, which cannot come back")
        nothing = {block: Stays(num_patches, num_patches) for block in self.blocks(vit)}
        found = {}
        for block, own in self.at_counts(nothing, num_patches).place(vit, num_patches).items():
            reads_own = isinstance(own, Dropper) and self.searched_ways == ("prune",) and not self.learns
            scorer = own if reads_own else self.class_order(vit, num_patches)
            found[block] = Place(scorer, num_patches, self.searched_ways, spared=own.inside)
        return found

    def at_counts(self, stays: Mapping[int, Stays], num_patches: int) -> Self:
        at = tuple(block + self.in_front for block in stays)
        return replace(self, schedule="explicit", at=at, keeps=tuple(int(each.merged) for each in stays.values()))

    def scales(self, vit: nn.Module, num_patches: int) -> list[Scale]:
        """A constant rate goes up to the largest whole one. (A fraction more would still fit, and would leave the last
        blocks next to nothing.)"""
        if self.kind == LEARNED:
            return []
        kinds, found = (self.kind,) if self.kind else self.schedules, []
        for kind in kinds:
            ends = (1 / num_patches, 1.0)
            if kind == "constant":
                places = max(1, len(replace(self, schedule=kind).blocks(vit)))
                ends = (float((num_patches - self.extra(vit) - 1) // places), 0.0)
            found.append(Scale(str(kind), self.parameters[str(kind)], *ends))
        return found


@dataclass(frozen=True, kw_only=True)
class Dropping(Scheduled):
    """A method whose `reducer` keeps the patches of the highest score."""

    searched_ways: ClassVar[tuple[str, ...]] = ("prune",)

    rest: str = option("drop", "what becomes of patches that leave: " + REST_MEANING, choices=REST_CHOICES, dense="llf")

    @classmethod
    def respell(cls, given: Mapping[str, str], dense: bool) -> Mapping[str, str]:
        """`llf=`, `fusion=` and `fuse=` said what `rest=` says, and `blocks=` is `at=`."""
        new = dict(super().respell(given, dense))
        old = {key: new.pop(key) for key in ("llf", "fusion", "fuse") if key in new}
        if not old:
            return new
        for key in old.keys() & {"llf", "fuse"}:
            if old[key].lower() not in ("true", "false"):
                raise ValueError(f"{cls.name}: option {key} cannot be {old[key]!r}; valid: true, false; see rest=")
        said = {"drop" if old["fusion"] == "none" else old["fusion"]} if "fusion" in old else set()
        said |= {"llf" if old["llf"].lower() == "true" else "drop"} if "llf" in old else set()
        fuse = old.get("fuse", "").lower()
        if fuse == "true":  # that nothing comes back later does not contradict it
            said = said - {"drop"} | {"fuse"}
        elif not said:  # not fused in a dense task: as any other method there
            said = {"llf" if dense else "drop"}
        elif said == {"drop"} and not (fuse or dense or "rest" in new):  # nothing comes back: the method as it is
            said = {cls.options()["rest"].default}
        said |= {new["rest"]} if "rest" in new else set()
        if len(said) > 1:
            raise ValueError(f"{cls.name}: {' and '.join(sorted(said))} of the same patches; give only rest=")
        return new | {"rest": said.pop()}

    def check(self) -> None:
        valid = IN_PIXELS if self.dense else IN_IMAGES
        if self.rest not in valid:
            reason = (
                "every pixel needs a patch to predict it, and a fused token stands for no place"
                if self.dense
                else "it is for dense tasks"
            )
            raise ValueError(f"rest={self.rest} of {self.name}: {reason}; valid here: {', '.join(valid)}")
        super().check()

    def make(self, vit: nn.Module, block: int, keep: int) -> Dropper:
        assert self.reducer is not None
        return self.reducer(keep, rest=self.at_reducer)

    @property
    def on_full_grid(self) -> bool:
        """The last block runs on all patches again."""
        return self.rest in ("llf", "mask")

    @property
    def at_reducer(self) -> str:
        """What becomes of the rest where it leaves; what comes back later is dropped first."""
        return self.rest if self.rest in AT_REDUCER else "drop"


@dataclass(frozen=True, kw_only=True)
class OnCroprSchedule(Dropping):
    """A method on Cropr's schedule: the same counts as Cropr and random pruning at a budget, whatever its scores cost,
    and in dense tasks the same curriculum of pruning rates. Or, with `like`, at the very counts of another method."""

    counts_scoring: ClassVar[bool] = False

    like: str | None = option(
        None, "the very counts, places and rest of another method, written like=evit or like=evit:keep=0.7+rest=drop: "
        "what its choice is worth", unset="Cropr's schedule",
    )  # fmt: skip
    curriculum: bool = option(
        False, "the pruning rates grow over the first half of the training (dense tasks only)", dense=True
    )

    def check(self) -> None:
        super().check()
        if self.curriculum and not self.dense:
            raise ValueError(f"{self.name}: curriculum=true is for dense tasks")
        if self.like is not None and (given := [key for key in (*self.native, "schedule", "at") if getattr(self, key)]):
            raise ValueError(f"{self.name}: like= says the counts, and {given[0]}= says others; give one of them")

    def resolved(self, find: Callable[[str, bool], Method]) -> Self:
        if self.like is None:
            return self
        other = find(self.like.replace("+", ","), self.dense)
        if other.role in ("dense", "random"):
            raise ValueError(f"like={self.like} of {self.name} names no method that chooses")
        rest = other.rest or ("llf" if self.dense else "drop")  # nothing leaves where all merge
        return replace(self, like=str(other).replace(",", "+"), other=other, rest=rest)

    def counts(self, vit: nn.Module, num_patches: int) -> dict[int, int]:
        if self.other is None:
            return super().counts(vit, num_patches)
        found, live = {}, num_patches
        for block, reducer in sorted(self.other.place(vit, num_patches).items()):
            behind = reducer.count_after(live, vit.num_prefix_tokens)
            found[block] = behind - (self.at_reducer == "fuse" and behind < live)
            live = behind
        return found

    def objective(self, training: Training) -> Objective:
        from cropr.method.dense_objective import DenseObjective

        if not self.dense:
            return super().objective(training)
        return DenseObjective(training.criterion, curriculum=self.ramp(training))

    def ramp(self, training: Training) -> Curriculum | None:
        """The curriculum, where one is wanted and there is a training for it."""
        from cropr.method.dense_objective import Curriculum

        if not (self.curriculum and training.epochs):
            return None
        model = training.model
        extra = self.extra(model.vit) if self.kind == "constant" else 0
        return Curriculum({int(i): r for i, r in model.reducers.items()}, model.num_patches, training.epochs, extra)
