"""Score explanations against references and write the report. The same as `xrec evaluate`."""

from xrec.cli.main import main

if __name__ == "__main__":
    main("evaluate")
