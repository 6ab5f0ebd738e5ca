"""Typed configuration: every key with its meaning and unit, a file a job family. `project` reads the file."""
