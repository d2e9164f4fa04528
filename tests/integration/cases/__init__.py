# SPDX-License-Identifier: Apache-2.0
"""All cases. What needs only the shared Hearth comes first, what kills comes last."""

from . import examples, functions, requests, snapshots, outside, uniqueness, clones, host, load, kills, libvirt, daemon  # noqa: F401: they register themselves
from .registry import CASES  # noqa: F401
