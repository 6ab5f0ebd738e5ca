"""Count who chose what together. The same as `xrec neighbors`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("neighbors")
