"""One file a job: config in, one library call, artifact out. `jobs.<name>.run(config)` returns the artifact's manifest."""
