"""The command-line program: arguments and environment in, one call of a job, exit code out."""
