"""Is it a method? Rules that every one must keep, as a suite for a user's own file and for the tests."""
