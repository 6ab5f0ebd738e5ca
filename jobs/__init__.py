"""A file for each job: config in, one library call, artifact out.

`jobs.<name>.run(config)` does the job and returns the artifact's manifest.
`jobs.<name>.output(config)` says what the job would make.
`python -m jobs.<name>` is the same as `xrec <name>`.
"""
