"""What the dense model gets right and others miss: the items, in a table and as pictures.

Letters: S seeds, I test items, M those of them that are missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.figures.numbers import NOTHING
from results.html.content import Card, Gallery, Grid
from results.pages.tables import budget
from results.records.items import Items
from results.records.store import CorruptRecord, read_predictions
from results.statistics.analysis import Analysis
from results.statistics.curves import variant_name

__all__ = ["Missed", "galleries", "missed_grid", "missed_of"]

_MAX_RUNS = 300  # whose predictions are read once more
_MAX_ITEMS = 8  # named of a variant
_MAX_CARDS = 12  # shown of a variant
_MAX_GALLERIES = 60
TITLE = "What the dense model gets right and others miss"
SAID = "Right in every seed of the dense model; those that most seeds of the variant miss come first, then by number."


@dataclass(frozen=True)
class Missed:
    """Of what the dense model gets right in every seed, what a variant gets wrong in one at least, most seeds first."""

    study: str
    curve: str
    budget: str
    name: str
    sure: int  # that dense gets right
    item: np.ndarray  # [M]
    target: np.ndarray  # [M]
    guess: np.ndarray  # [S, M]
    confidence: np.ndarray | None  # [S, M] in it

    @property
    def wrong(self) -> np.ndarray:
        """[S, M] bool"""
        return self.guess != self.target

    def guesses(self, number: int, classes: Items) -> str:
        """What the seeds that are wrong about an item see in it, with the confidence of each."""
        seen: dict[int, list[str]] = {}
        for seed in np.flatnonzero(self.wrong[:, number]):
            sure = [] if self.confidence is None else [f"{100 * float(self.confidence[seed, number]):.0f}"]
            seen.setdefault(int(self.guess[seed, number]), []).extend(sure)
        return ", ".join(
            classes.name(guess) + (f" ({', '.join(sure)} %)" if sure else "") for guess, sure in seen.items()
        )


def missed_of(found: Analysis) -> list[Missed]:
    """Of every finished variant; empty where items are not right or wrong, there are too many runs, or the records do
    not hold what was read."""
    runs, variants = found.runs, found.variants[found.variants["status"] == "done"]
    if runs["metric_statistic"].iat[0] != "mean" or not variants["is_dense"].any() or len(runs) > _MAX_RUNS:
        return []
    rows = []
    for study, group in variants.groupby("study", sort=False):
        dense = group[group["is_dense"]]
        if len(dense) != 1 or (known := _read(found, dense["members"].iat[0])) is None:
            continue
        sure = np.all([one["prediction"] == one["target"] for one in known], axis=0)
        for row in group[~group["is_dense"]].itertuples():
            others = _read(found, row.members)
            if others is None or not np.array_equal(others[0]["item"], known[0]["item"]):
                continue
            guess, target = np.stack([one["prediction"] for one in others]), others[0]["target"]
            times = (guess != target).sum(axis=0)
            which = np.flatnonzero(sure & (times > 0))
            which = which[np.argsort(-times[which], kind="stable")]
            told = all("confidence" in one for one in others)
            confidence = np.stack([one["confidence"] for one in others])[:, which] if told else None
            rows.append(
                Missed(
                    str(study),
                    row.curve,
                    budget(row),
                    variant_name(row),
                    int(sure.sum()),
                    others[0]["item"][which],
                    target[which],
                    guess[:, which],
                    confidence,
                )  # fmt: skip
            )
    return rows


def missed_grid(missed: Sequence[Missed], items: Mapping[str, Items]) -> Grid | None:
    """How many each variant misses, and the first of them; `items` of each study."""
    if not missed:
        return None
    rows = []
    for one in missed:
        counts = [f"{count:,} of {one.sure:,}" for count in (one.wrong.all(axis=0).sum(), len(one.item))]
        rows.append([one.curve, one.budget, *counts, "; ".join(_named(one, items[one.study])) or NOTHING])
    header = ["method", "budget", "missed in every seed", "in some seed"]
    header += [f"the first {_MAX_ITEMS}: item (class → read as) seeds"]
    return Grid(TITLE, header, rows, f"{SAID} Behind what is read: the confidence of each seed.")


def galleries(missed: Sequence[Missed], items: Mapping[str, Items]) -> tuple[list[Gallery], str]:
    """A gallery for each variant that misses something, and what must be said of all of them. Pictures of a study are
    of items that were chosen before any model had seen them; where it has some, only these are shown."""
    found = [_gallery(one, items[one.study]) for one in missed[:_MAX_GALLERIES] if len(one.item)]
    if not found:
        return [], ""
    said = [SAID]
    if len(missed) > _MAX_GALLERIES:
        said.append(f"The first {_MAX_GALLERIES} of {len(missed)} variants.")
    if counts := sorted({len(own.pictures) for own in items.values() if own.pictures}):
        said.append(
            f"Pictures are of {' or '.join(map(str, counts))} test items, evenly spaced by number, and at most "
            f"{_MAX_CARDS} of a variant are shown; the table counts the others and names the first."
        )
    else:
        said.append(f"These records hold no pictures; at most {_MAX_CARDS} of a variant are named.")
    return found, " ".join(said)


def _gallery(one: Missed, items: Items) -> Gallery:
    seeds, which = len(one.guess), np.arange(len(one.item))
    if items.pictures:
        which = which[[int(item) in items.pictures for item in one.item]]
    cards = []
    for number in which[:_MAX_CARDS].tolist():
        item = int(one.item[number])
        image = f"{one.study}/{item}" if item in items.pictures else ""
        times = f"{one.wrong[:, number].sum()} of {_count(seeds)}"
        cards.append(Card(image, item, items.name(int(one.target[number])), one.guesses(number, items), times))
    heading = f"{one.name}: {len(one.item):,} of {one.sure:,} items"
    if seeds > 1:
        heading += f", {one.wrong.all(axis=0).sum():,} of them in all {seeds} seeds"
    pictured = f"those with a picture are {len(which)}, " if items.pictures else ""
    return Gallery(f"{heading}; {pictured}shown: {len(cards)}", cards)


def _read(found: Analysis, members: np.ndarray) -> list[dict[str, Any]] | None:
    try:
        read = [read_predictions(found.runs["path"].iat[run]) for run in members]
    except (FileNotFoundError, CorruptRecord):
        return None
    if not all({"item", "prediction", "target"} <= one.keys() for one in read):
        return None
    return read if all(np.array_equal(one["item"], read[0]["item"]) for one in read) else None


def _named(one: Missed, items: Items) -> Iterator[str]:
    for number in range(min(_MAX_ITEMS, len(one.item))):
        times = one.wrong[:, number].sum()
        truth, guesses = items.name(int(one.target[number])), one.guesses(number, items)
        yield f"{one.item[number]} ({truth} → {guesses}) {times}/{len(one.guess)}"


def _count(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"
