"""Turn reviews into profiles, explanations, and aspects. The same as `xrec annotate`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("annotate")
