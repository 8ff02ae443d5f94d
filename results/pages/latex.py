"""The summary as a LaTeX table (booktabs)."""

from collections.abc import Sequence

import pandas as pd

from results.pages.tables import columns_of, scores_of

__all__ = ["latex"]


def latex(summary: pd.DataFrame, notes: Sequence[str], title: str, costs: bool = True) -> str:
    """A table* across both columns of a paper, or the scores of it alone."""
    columns = columns_of(summary) if costs else scores_of(summary)
    numbers = f"{'r' * (len(columns) - 4)}ll" if costs else "r" * (len(columns) - 2)
    lines = [" & ".join(_escape_latex(cell(row)) for cell in columns.values()) + r" \\" for row in summary.itertuples()]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            rf"\caption{{{_escape_latex(title)}}}",
            rf"\resizebox{{\textwidth}}{{!}}{{\begin{{tabular}}{{ll{numbers}}}",
            r"\toprule",
            " & ".join(_escape_latex(name) for name in columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\smallskip\footnotesize\raggedright",
            *(_escape_latex(note) + r"\par" for note in notes),
            r"\end{table*}",
            "",
        ]
    )


_LATEX = {"±": r"$\pm$", "→": r"$\to$", "×": r"$\times$", "−": "$-$", "–": "--", "†": r"\textsuperscript{\dag}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    **{character: "\\" + character for character in "&%$#_{}"},
}  # fmt: skip


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
