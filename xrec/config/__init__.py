"""Typed configuration: a file for each family of jobs; every key has its meaning and unit.

`project` reads a project file, in which all jobs of a project stand.
"""
