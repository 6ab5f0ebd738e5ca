"""Train a vector per user and item. The same as `xrec pretrain-graph`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("pretrain-graph")
