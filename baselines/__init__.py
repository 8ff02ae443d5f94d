"""Published token reducers beside Cropr, one method a file. They know `cropr/` and nothing else."""
