"""Records on disk and what is made of them: intervals, tables, plots. Knows no model and imports no torch.

files.py      files that are whole or absent
claims.py     one writer per run, among many processes on many nodes
store.py      the record directory: state of a run, all records of a study
bootstrap.py  resampling of seeds and clusters, p values, Holm
frames.py     records to data frames: one row per run
curves.py     one row per variant: curves, Pareto front, what must not be mixed
compare.py    intervals and differences of variants
published.py  numbers from papers (published.csv), relative to the dense model of the same source
tables.py     CSV, Markdown, LaTeX and terminal
panels.py     what each figure shows
plots.py      figures for a paper column
labels.py     names beside the lines, moved apart
notes.py      what stands below the table
report.py     all of the above for one or several record directories
"""
