"""What the page holds, as the report hands it over: the frames and the texts that its other files are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

__all__ = [
    "About", "Card", "Content", "Findings", "Gallery", "Grid", "Live", "LiveRow", "Patches", "Point", "Unfinished",
]  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Texts in columns, under a `heading` and over a sentence of what must be `said` of them. `folded`: of less
    interest, shown when asked for."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    said: str = ""
    folded: bool = False


@dataclass(frozen=True)
class About:
    """Of a study: what it claims or asks, and what the records answer to that."""

    study: str
    claim: str = ""
    question: str = ""
    answer: str = ""
    source: str = ""


@dataclass(frozen=True)
class Findings:
    """The health box: a headline; of each check its advice and a sentence for each finding; what was not seen."""

    headline: str
    checks: Sequence[tuple[str, str, Sequence[str]]] = ()
    unchecked: str = ""

    @property
    def clean(self) -> bool:
        return not self.checks


@dataclass(frozen=True)
class Point:
    """What belongs to a variant beside its row of the summary: its runs (their ids, their seeds, the metrics of each,
    in percent) and the command that makes them again."""

    runs: Sequence[str]
    seeds: Sequence[int]
    values: Sequence[Sequence[float]]  # [metrics, runs]
    command: str = ""


@dataclass(frozen=True)
class Unfinished:
    """A run without a result, and why: the last line of its error, or what it waits for."""

    study: str
    run: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Patches:
    """A picture of an item under one variant. `gone`: SVG paths over the patches, by the number of a block of its group
    (from 1) behind which they leave. `said`: what the variant makes of the item; `wrong`: not what it is."""

    alt: str
    gone: Mapping[int, str]
    said: str = ""
    wrong: bool = False


@dataclass(frozen=True)
class LiveRow:
    """An item under all variants of a group; `image` is a key of `Content.images`."""

    image: str
    name: str
    cells: Sequence[Patches]


@dataclass(frozen=True)
class Live:
    """Which patches are live behind each of `blocks`, in items (rows) under variants (columns: name, and counts of live
    patches)."""

    heading: str
    side: int  # patches
    blocks: Sequence[int]
    columns: Sequence[tuple[str, str]]
    rows: Sequence[LiveRow]


@dataclass(frozen=True)
class Card:
    """An item that a variant misses; `image` is a key of `Content.images`, or empty."""

    image: str
    item: int
    truth: str
    guesses: str
    seeds: str


@dataclass(frozen=True)
class Gallery:
    """Items that a variant misses, and how many of how many they are."""

    heading: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Content:
    """All of it. `summaries`: one for each metric, in `tables.summary_frame`'s columns and all with the same rows;
    `scores`: the same as texts; `csv`: the header and a line for each row of summary.csv."""

    title: str
    summaries: Sequence[pd.DataFrame]
    scores: Sequence[Grid]
    csv: Sequence[str]
    points: Sequence[Point]
    about: Sequence[About] = ()
    health: Findings = Findings("")
    sections: Sequence[Grid] = ()
    pictures: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)  # name: caption and SVG
    published: pd.DataFrame | None = None
    show_published: bool = False
    notes: Sequence[str] = ()
    unfinished: Sequence[Unfinished] = ()
    provenance: Grid | None = None
    latex: Mapping[str, str] = field(default_factory=dict)  # character: how LaTeX writes it
    images: Mapping[str, bytes] = field(default_factory=dict)  # PNG or JPEG files of test items
    live: Sequence[Live] = ()
    live_said: str = ""
    galleries: Sequence[Gallery] = ()
    galleries_said: str = ""
