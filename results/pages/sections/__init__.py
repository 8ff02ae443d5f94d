"""Parts of a report below its table: whole curves, further findings, objects."""
