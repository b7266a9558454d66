"""Our own commands with every logger at DEBUG, on standard error, but for those that the code itself keeps quiet."""

import logging

from symvanta_pipeline import cli
from tests.support import leaks


def main() -> None:
    """Run a command."""
    leaks.at_debug(logging.StreamHandler())
    cli.main()


if __name__ == "__main__":
    main()
