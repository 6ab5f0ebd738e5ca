"""`xrec init`: it looks at a user's files and writes a project file that fits them.

`files` reads the files, `words` and `guess` find which file is which table, `settings` chooses
sizes and budgets, `project_file` writes the YAML.
"""
