"""Training on Ray Train workers with a DeepSpeed engine: `*_loop.py` is one job each, `ray_loop.py` what they share."""
