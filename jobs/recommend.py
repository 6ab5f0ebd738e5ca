"""Find the best unseen items of each user. The same as `xrec recommend`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("recommend")
