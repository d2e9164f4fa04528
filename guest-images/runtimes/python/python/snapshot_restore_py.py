# SPDX-License-Identifier: Apache-2.0
"""The names of the package snapshot-restore-py, for functions that were written for it."""

from hearth_snapshot import (get_after_restore, get_before_snapshot,  # noqa: F401
                             register_after_restore, register_before_snapshot)
