"""``python -m otcluster`` is the command line."""

from otcluster.cli import main

main()
