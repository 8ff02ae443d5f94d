"""What a check of results is: what it looks at, what it says, and what becomes of all of them; they are in health.py.

Letters: R runs, V variants, B resamples. Rows are those of the variant frame.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from results.statistics.compare import differences
from results.statistics.curves import variant_name
from results.statistics.metrics.replicates import Replicates

__all__ = ["Check", "Evidence", "Finding", "Health", "Look", "add_findings", "assess"]


@dataclass(frozen=True)
class Evidence:
    """Frames with their intervals and differences, as `compare` leaves them."""

    runs: pd.DataFrame  # [R]
    variants: pd.DataFrame  # [V]
    speeds: pd.DataFrame  # one row per timed variant, empty without timings
    replicates: Replicates
    means: np.ndarray  # [V, B]

    def done(self) -> pd.DataFrame:
        return self.variants[self.variants["status"] == "done"]

    def differences(self, pairs: list[tuple[int, int]]) -> pd.DataFrame:
        """Of each pair of rows: first minus second."""
        return differences(pairs, self.variants, self.runs, self.replicates, self.means)

    def lists(self, *columns: str) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """Row of every finished variant, and the lists that its runs hold in `columns`, those without one left out."""
        arrays = [self.runs[column].to_numpy() for column in columns]
        for row, members in self.done()["members"].items():
            held = [tuple(values[run] for values in arrays) for run in members]
            yield row, [lists for lists in held if all(isinstance(value, list) for value in lists)]

    def timings(self) -> Iterator[pd.DataFrame]:
        """Of each study the timing that the report shows; `row` is that of the variant."""
        if len(self.speeds):
            rows = self.variants.reset_index(names="row")[["study", "variant", "row"]]
            shown = self.speeds["shown"] & ~self.speeds["ratio_only"]
            timed = self.speeds[shown].merge(rows, on=["study", "variant"])
            yield from (group for _, group in timed.groupby(["study", "timing"], sort=False))


class Look(NamedTuple):
    """What a check saw of the variants in `rows`: a sentence with its numbers where something is wrong, empty where
    nothing is, None where the records cannot tell. `marks`: whether it sets their points apart from others."""

    rows: tuple[int, ...]
    seen: str | None
    marks: bool = True


class Check(NamedTuple):
    """`needs` is what records must hold for it, `about` the figure that it doubts."""

    name: str
    look: Callable[[Evidence], Iterable[Look]]
    needs: str
    advice: str
    about: Literal["metric", "speed"] = "metric"


class Finding(NamedTuple):
    """One thing that is wrong: where, what was seen, and what to do."""

    check: str
    about: Literal["metric", "speed"]
    study: str
    variants: tuple[str, ...]
    rows: tuple[int, ...]
    seen: str
    advice: str
    marks: bool


@dataclass(frozen=True)
class Health:
    """`num_looked` of `num_checks` could look at something; `unchecked` says of each that could not look at everything
    what was missing, and how often."""

    num_checks: int
    num_looked: int
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]


def assess(evidence: Evidence, checks: Sequence[Check]) -> Health:
    """What `checks` find, in their order."""
    findings: list[Finding] = []
    num_looked, unchecked = 0, []
    for check in checks:
        looks = list(check.look(evidence))
        blind = sum(look.seen is None for look in looks)
        num_looked += blind < len(looks)
        if blind == len(looks):
            unchecked.append(f"{check.name} (no {check.needs})")
        elif blind:
            unchecked.append(f"{check.name} (in {blind} of {len(looks)} places no {check.needs})")
        for rows, seen, marks in looks:
            if seen:
                own = evidence.variants.loc[list(rows)]
                names = tuple(variant_name(variant) for variant in own.itertuples())
                study = str(own["study"].iat[0])
                findings.append(Finding(check.name, check.about, study, names, rows, seen, check.advice, marks))
    return Health(len(checks), num_looked, tuple(findings), tuple(unchecked))


def add_findings(variants: pd.DataFrame, health: Health) -> None:
    """Puts the names of the checks that set a variant apart into the frame: `findings` that doubt its metric and
    `speed_findings`; empty where there is none."""
    for column, about in (("findings", "metric"), ("speed_findings", "speed")):
        names: list[dict[str, None]] = [{} for _ in range(len(variants))]
        for finding in health.findings:
            if finding.about == about and finding.marks:
                for row in finding.rows:
                    names[row][finding.check] = None
        variants[column] = ["; ".join(own) for own in names]
