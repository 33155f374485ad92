"""`python -m celo`: the command `celo`, where its folder is not on the path."""

import sys

from celo.cli import main

sys.exit(main())
