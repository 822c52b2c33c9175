"""`python -m U2ADLib` is the command `u2ad`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
