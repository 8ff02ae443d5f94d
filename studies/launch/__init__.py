"""Where runs execute: here, or as jobs of Slurm. May import `studies.runs` and what lies below it."""
