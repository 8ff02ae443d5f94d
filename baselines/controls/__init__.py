"""Controls: scorers of a few lines that show what a method's choice is worth, all on Cropr's schedule."""
