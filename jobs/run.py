"""The program `python -m jobs.run`: all jobs of a project, as `xrec run` does them."""

from jobs.command.commands import run_pipeline

if __name__ == "__main__":
    run_pipeline()
