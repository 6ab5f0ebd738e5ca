"""`xrec init`: it looks at a user's files and writes a project file that fits them.

`files` reads the files; `words` and `guess` find which file is which table, and `reviews` whether
texts are to be made of reviews; `survey` counts what the jobs will make of them; `settings` chooses
sizes for them and the machine; `project_file` writes the YAML, and `project` is all of it.
"""
