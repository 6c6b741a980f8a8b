"""`python -m compress`: the command line, where its script is not on the path."""

from compress.cli import main

main()
