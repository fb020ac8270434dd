"""``python -m lorakit``: the same as the ``lorakit`` command."""

import sys

from lorakit.cli.app import main

sys.exit(main())
