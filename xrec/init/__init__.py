"""`xrec init`: look at a user's files and write a project file that fits them.

files       what is in each file, read with DuckDB
names       what the names of files and columns mean (names.yaml)
guess       which file is which table, and which columns are the ones that xrec needs
project     count what the jobs will make of the files, and fill in project.yaml
"""
