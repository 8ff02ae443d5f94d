"""Published methods that choose patches to leave, one a file."""
