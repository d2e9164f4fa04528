# SPDX-License-Identifier: Apache-2.0
"""Makes the image store: see ../build and docs/images.md. Python 3.11's standard library only."""


class ImageError(Exception):
    """What a person reads when an image cannot be made: what was tried and what to do."""
