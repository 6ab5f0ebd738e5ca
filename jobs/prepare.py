"""Turn raw files into a dataset.

    python jobs/prepare.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/prepare.py project.yaml

The same as `xrec prepare`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("prepare")
