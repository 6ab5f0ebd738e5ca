"""Job `ablate`: a comparison of ours with its variants, to see what each part is worth."""

from jobs.compare import output, run

__all__ = ["output", "run"]

if __name__ == "__main__":
    from jobs.command.commands import run_job

    run_job("ablate")
