"""Make and publish the next night of a project.

    python jobs/refresh.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/refresh.py project.yaml

The same as `xrec refresh`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("refresh")
