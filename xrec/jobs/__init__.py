"""A file for each job, and what goes through several of them: `run`, `status`, `explain`.

`xrec.jobs.<name>.run(config)` does a job: config in, one library call, artifact out. It returns the
artifact's manifest. If it is finished with these settings and inputs, nothing is done and no Ray
cluster is started. `xrec.jobs.<name>.output(config)` says what the job would make. `serve` makes no
artifact: it runs until it is interrupted, and has no `output`.
"""
