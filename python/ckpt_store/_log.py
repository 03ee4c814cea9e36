"""The logger of the package. Never configures logging: that is the application's."""

from __future__ import annotations

import logging

log = logging.getLogger("ckpt_store")
