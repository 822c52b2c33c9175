"""`python -m U2ADLib.evaluation.benchmark`."""

import sys

from ...errors import U2ADError
from .run import main

if __name__ == "__main__":
    try:
        main()
    except U2ADError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
