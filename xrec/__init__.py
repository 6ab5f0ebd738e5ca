"""xrec: for every recommendation, the reason why this user would like this item.

Data goes one way, through artifacts: dataset -> graph -> adapter -> explanations -> evaluation.
Each arrow is a job (`jobs/`), each noun a folder with a `manifest.json` written last, or a table,
whose manifest stands in the commit that published it.
"""

__version__ = "0.1.0"
