# SPDX-License-Identifier: Apache-2.0
"""A picture in, a PNG 256 pixels wide out."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

try:
    from hearth_snapshot import before_snapshot
except ImportError:  # Elsewhere than in Hearth there is no snapshot.
    def before_snapshot(hook):
        return hook

WIDTH = 256


def thumbnail(event, context):
    """`event`: the bytes of a JPEG or any other picture Pillow reads. Returns a PNG."""
    if not isinstance(event, (bytes, bytearray)):
        raise ValueError("send the picture's bytes as they are, with --content-type image/jpeg")
    try:
        picture = Image.open(io.BytesIO(event))
        # Pillow lets libjpeg decode at a fraction of the size, which is most of the speed.
        picture.thumbnail((WIDTH, WIDTH * 8), reducing_gap=2.0)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the payload is not a picture that can be read: {error}") from None
    picture = ImageOps.exif_transpose(picture)
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    result = io.BytesIO()
    picture.save(result, format="PNG")
    return result.getvalue(), "image/png"


@before_snapshot
def warm_up():
    """Has Pillow load what it loads with its first picture: then that is in the snapshot, and not in every start."""
    picture = io.BytesIO()
    Image.new("RGB", (2 * WIDTH, 2 * WIDTH)).save(picture, format="JPEG")
    thumbnail(picture.getvalue(), None)
