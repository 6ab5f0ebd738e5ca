"""Turn raw files into a dataset. The same as `xrec prepare`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("prepare")
