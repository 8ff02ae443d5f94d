"""How a method declares itself: its name, its options, its schedule and what it learns."""

from cropr.method.declaration import GRID_SIZE, LEARNED, Method, Training, renamed
from cropr.method.options import option

__all__ = ["GRID_SIZE", "LEARNED", "Method", "Training", "option", "renamed"]
