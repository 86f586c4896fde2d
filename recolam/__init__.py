"""recolam: a Large Action Model for recommendation."""

__version__ = "0.1.0"
