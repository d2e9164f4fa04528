# SPDX-License-Identifier: Apache-2.0
"""A text in, its most frequent words out; Python's standard library only."""

import collections
import json
import re

# Letters of any script; an apostrophe may stand inside a word.
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
MOST = 20


def handler(event, context):
    """`event`: a text, as bytes in UTF-8 or as a JSON string. Returns counts as JSON."""
    if isinstance(event, (bytes, bytearray)):
        # Byte order mark and broken bytes happen in real texts; neither is worth a failure.
        text = bytes(event).decode("utf-8-sig", errors="replace")
    elif isinstance(event, str):
        text = event
    else:
        raise ValueError(f"send a text, not a JSON {type(event).__name__}")
    counts = collections.Counter(word.lower() for word in WORD.findall(text))
    # Equal counts in alphabetical order, so that equal texts give equal answers.
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    return {
        "words": sum(counts.values()),
        "distinct": len(counts),
        "top": [{"word": word, "count": count} for word, count in top],
    }


if __name__ == "__main__":
    import sys

    json.dump(handler(sys.stdin.buffer.read(), None), sys.stdout, ensure_ascii=False, indent=2)
    print()
