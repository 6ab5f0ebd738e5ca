"""Job `ablate`: a comparison of ours with its variants, to see what each part is worth."""

from jobs.compare import output, run

__all__ = ["output", "run"]
