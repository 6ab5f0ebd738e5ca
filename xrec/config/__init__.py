"""Typed configuration: a file for each family of jobs; every key has its meaning and unit.

What a section means is said by its class, where its field says nothing else.

`project` reads a project file, in which all jobs of a project stand.
"""
