"""Train the adapter of the language model. The same as `xrec train-adapter`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("train-adapter")
