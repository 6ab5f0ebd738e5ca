"""`xrec init`: a look at a user's files, and a project file with settings that fit them and the machine.

`files` reads the files, `words` and `guess` find which file is which table, `settings` chooses sizes and budgets,
`project_file` writes the YAML.
"""
