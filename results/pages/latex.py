"""The summary as a LaTeX table (booktabs)."""

from collections.abc import Sequence

from results.html.content import Grid

__all__ = ["IN_LATEX", "latex"]


def latex(scores: Grid, notes: Sequence[str], title: str, costs: bool = True) -> str:
    """A table* across both columns of a paper, of all columns or of scores without `costs`."""
    numbers = f"{'r' * (len(scores.header) - 4)}ll" if costs else "r" * (len(scores.header) - 2)
    lines = [" & ".join(map(_escape_latex, row)) + r" \\" for row in scores.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            rf"\caption{{{_escape_latex(title)}}}",
            rf"\resizebox{{\textwidth}}{{!}}{{\begin{{tabular}}{{ll{numbers}}}",
            r"\toprule",
            " & ".join(map(_escape_latex, scores.header)) + r" \\",
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


IN_LATEX = {"±": r"$\pm$", "→": r"$\to$", "×": r"$\times$", "−": "$-$", "–": "--", "†": r"\textsuperscript{\dag}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    **{character: "\\" + character for character in "&%$#_{}"},
}  # fmt: skip


def _escape_latex(text: str) -> str:
    return "".join(IN_LATEX.get(character, character) for character in text)
