"""The rules that every method keeps, the project's own and a user's: `cropr-study check`, and the project's tests.

May import `studies.models`, `studies.measure` and what lies below them.
"""
