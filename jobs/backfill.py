"""Write the explanations of all pairs. The same as `xrec backfill`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("backfill")
