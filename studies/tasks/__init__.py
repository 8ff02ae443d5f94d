"""Tasks: what a model is asked, how the answer is scored."""
