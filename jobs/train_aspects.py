"""Learn which aspects of an item to name to a user. The same as `xrec train-aspects`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("train-aspects")
