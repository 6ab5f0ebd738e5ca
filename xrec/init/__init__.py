"""`xrec init`: looks at a user's files and writes a project file that fits them.

files       what is in each file, by DuckDB
names       what the names of files and columns mean (names.yaml)
guess       which file is which table, and which of its columns are ours
project     counts what the jobs will make of them, and fills in project.yaml
"""
