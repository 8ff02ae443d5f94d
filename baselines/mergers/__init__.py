"""Methods that merge tokens, one method a file: ToMe's family, and clusters."""
