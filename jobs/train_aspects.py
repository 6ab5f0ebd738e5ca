"""Learn which aspects of an item to name to a user.

    python jobs/train_aspects.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/train_aspects.py project.yaml

The same as `xrec train-aspects`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("train-aspects")
