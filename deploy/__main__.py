"""`python -m deploy` is `shelfwise`."""

from deploy.cli import main

main()
