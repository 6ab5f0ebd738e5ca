"""`xrec init`: it looks at a user's files and writes a project file that fits them.

`files` reads the files; `words` and `guess` find which file is which table;
`survey` counts what `xrec prepare` will make of them; `settings` chooses sizes and budgets for them
and the machine; `project_file` writes the YAML, and `project` is all of it.
"""
