"""docs/methods.md: every method with its paper, needs and options, from the declarations that end the files, and what
kept records say of it."""

from __future__ import annotations

from studies.commands.reading.names import described, reads
from studies.docs.measured import about, measured, overview
from studies.models.methods import builtin

__all__ = ["methods_page"]

ROLES = {
    "dense": "The reference", "random": "Chance", "method": "Methods",
    "control": "Controls: what a method's choice is worth",
}  # fmt: skip


def methods_page() -> str:
    """Every method with its paper, needs and options."""
    lines = [
        "# Methods", "",
        "Made by `make docs` from the declarations that end the methods' files. `cropr-study list reducers NAME` says "
        "the same, also of a file of your own. Figures are those of the records kept in docs/records.", "",
        *about(), "", *overview(),
    ]  # fmt: skip
    for role, title in ROLES.items():
        lines += ["", f"## {title}"]
        for name, cls in builtin().items():
            if cls.role == role:
                lines += _section(name, described(cls))
    return "\n".join(lines) + "\n"


def _section(name: str, entry: dict) -> list[str]:
    paper = f" {entry['paper']} (release: {entry['licence']})." if entry["paper"] else ""
    facts = [
        f"{'Inside' if entry['inside_block'] else 'Behind'} a block; reads {reads(entry)}; "
        f"learns {entry['learns'] or 'nothing'}; needs {', '.join(entry['needs']) or 'any supported model'}; attention "
        f"{'stays fused' if entry['fused_attention'] else 'leaves the fused kernel in training'}."
    ]
    if entry["reads_labels"]:
        facts.append("No method: it reads what it is to predict, and is on no front.")
    lines = ["", f"### {name}", "", f"{entry['summary']}.{paper}"] + (["", *facts] if entry["role"] != "dense" else [])
    lines += measured(name)
    if not entry["options"]:
        return lines
    rows = [
        f"| `{option}` | {value['type']} | {value['shown']} | {value['meaning']} |"
        for option, value in entry["options"].items()
    ]
    return [*lines, "", "| option | values | default | meaning |", "|---|---|---|---|", *rows]
