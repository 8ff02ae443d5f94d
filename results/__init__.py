"""Records on disk and what is made of them: intervals, tables, plots. Knows no model and imports no torch.

The arrows run one way: records <- statistics <- figures <- html <- pages.
"""
