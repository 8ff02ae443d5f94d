"""Models under corruptions of the test items: what the corruptions are, and how finished runs are scored under them."""
