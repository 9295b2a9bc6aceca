"""`python -m rstar_cli` is `rstar`."""

from rstar_cli.cli import main

main()
