"""The version of xrec."""

__version__ = "0.1.0"
