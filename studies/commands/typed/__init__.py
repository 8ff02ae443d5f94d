"""The command line as it is typed: options by group, as Typer declares them. `cli.py` gives them to its commands."""
