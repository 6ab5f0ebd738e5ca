"""Train a vector for each user and item from their interactions.

    python jobs/pretrain_graph.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/pretrain_graph.py project.yaml

The same as `xrec pretrain-graph`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("pretrain-graph")
