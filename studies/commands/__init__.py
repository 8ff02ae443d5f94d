"""What the commands of `cropr-study` do: one file each. `cli.py` has their options and turns errors into exit codes.

A function here raises ValueError (or OSError) for what the user got wrong, before any work starts.
"""
