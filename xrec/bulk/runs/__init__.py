"""A run: its rows, its plan, the results of its chunks, and how far it is."""
