# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m vcapdev`` is ``vcapdev``."""

import sys

from vcapdev.cli import main

sys.exit(main())
