"""``python -m flux_flex``: the ``flux-flex`` command, for whoever names the Python himself."""

from __future__ import annotations

import sys

from flux_flex.cli import main

if __name__ == "__main__":
    sys.exit(main())
