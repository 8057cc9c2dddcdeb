"""`python -m hone` is `hone`.

Knows nothing itself.
"""

import sys

from hone.cli import main

sys.exit(main())
