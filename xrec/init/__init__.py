"""`xrec init`: look at a user's files and write a project file that fits them.

files       what is in each file, as the jobs will read it
names       what the names of files and columns mean (names.yaml)
guess       which file is which table, and which columns are the ones that xrec needs
survey      counts of what the jobs will make of the files
project     settings that fit, filled into project.yaml, and a report
"""

from xrec.init.names import GIVEN
from xrec.init.project import Findings, init_project

__all__ = ["GIVEN", "Findings", "init_project"]
