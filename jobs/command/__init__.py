"""What the command line and `python -m jobs.JOB` have in common: a command for each job.

Nothing here imports a job's module, or anything heavy, before a command runs.
"""
