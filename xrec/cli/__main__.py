"""`python -m xrec.cli`: the program `xrec`, for when its script is not on PATH."""

from xrec.cli.main import main

main()
