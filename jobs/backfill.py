"""Write the explanations of all pairs.

    python jobs/backfill.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/backfill.py project.yaml

The same as `xrec backfill`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("backfill")
