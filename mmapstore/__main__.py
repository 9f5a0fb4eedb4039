"""`python -m mmapstore`."""

import sys

from .cli import main

sys.exit(main())
