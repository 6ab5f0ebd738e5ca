"""Find the best unseen items of each user.

    python jobs/recommend.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/recommend.py project.yaml

The same as `xrec recommend`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("recommend")
