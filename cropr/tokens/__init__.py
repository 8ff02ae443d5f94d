"""The tokens of a batch of images, and what can be done with them."""

from cropr.tokens.state import Attended, Tokens, take

__all__ = ["Attended", "Tokens", "take"]
