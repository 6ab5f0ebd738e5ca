"""The command-line program: arguments and environment in, one library call, exit code out."""
