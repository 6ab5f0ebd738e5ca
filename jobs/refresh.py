"""Make and publish the next night of a project. The same as `xrec refresh`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("refresh")
