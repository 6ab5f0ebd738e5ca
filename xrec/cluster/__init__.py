"""Ray clusters from Python: connect to one, start one here, submit jobs, ask for its status."""
