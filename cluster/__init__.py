"""A Ray cluster from a Python program: connect to one, start one on this machine, submit a job, ask for its status."""
