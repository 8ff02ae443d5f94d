"""`index.html`: the report as one file. It needs no script to be read and no network at all."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from results.html.content import Content
from results.html.forest import forests
from results.html.payload import payload
from results.records.items import kind_of

__all__ = ["page"]

_HERE = Path(__file__).parent
_MAIN = "pareto_accuracy_gmacs"  # what stands in the place of the plot until the script draws it
_QUIET = ("objective", "lr", "settings of its own", "training, s")  # not in the box beside a point


def page(content: Content) -> str:
    """The file; the same content gives the same text."""
    from plotly.offline import get_plotlyjs

    first = content.summaries[0]
    data = payload(content) | {"quiet": [title for title in content.scores[0].header if title.startswith(_QUIET)]}
    pictures = list(content.pictures)
    shown = {row.image for group in content.live for row in group.rows}
    shown |= {card.image for gallery in content.galleries for card in gallery.cards if card.image}
    numbers = {image: number for number, image in enumerate(sorted(shown))}
    return _template().render(
        content=content,
        studies=list(dict.fromkeys(first["study"])),
        facts=_facts(content),
        front=first["on_front"].to_list(),
        forests=forests(content.summaries),
        images={name: b64encode(svg).decode() for name, (_, svg) in content.pictures.items()},
        main_picture=_MAIN if _MAIN in pictures else next(iter(pictures), None),
        other_pictures=[name for name in pictures if name != _MAIN][0 if _MAIN in pictures else 1 :],
        items={number: _data(content.images[image]) for image, number in numbers.items()},
        numbers=numbers,
        version=_version(),
        style=Markup((_HERE / "page.css").read_text()),
        script=Markup((_HERE / "page.js").read_text()),
        plotly=Markup(get_plotlyjs()),
        data=data,
    )


def _data(file: bytes) -> str:
    return f"data:{kind_of(file)};base64,{b64encode(file).decode()}"


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template("page.html")


def _facts(content: Content) -> list[str]:
    first = content.summaries[0]
    runs = sum(len(point.runs) for point in content.points)
    facts = [_count(len(first), "variant"), _count(runs, "run")]
    if (first["seeds"] > 0).any() and runs:
        facts.append(f"up to {_count(int(first['seeds'].max()), 'seed')}")
    items = first["num_items"].dropna()
    if len(items) and items.max() > 0:
        facts.append(f"{items.max():,.0f} test items")
    return facts


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _version() -> str:
    try:
        return version("cropr-study")
    except PackageNotFoundError:  # run out of a folder
        return ""
