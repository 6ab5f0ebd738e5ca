"""Train the adapter that maps the graph's vectors into the language model.

    python jobs/train_adapter.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/train_adapter.py project.yaml

The same as `xrec train-adapter`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("train-adapter")
