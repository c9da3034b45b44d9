"""Makes text that others wrote safe to read: what cannot be seen is shown, what is endless is cut. Escapes no HTML."""

import re
from typing import Final

LONGEST: Final = 2000
"""Characters of one text; a sentence fits, a flood does not."""

# Controls, zero-width and direction marks, line separators, tags, lone surrogates and noncharacters: each can make a
# line read as something that it is not, or is not allowed in HTML at all.
_UNSEEN: Final = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)


def readable(text: str, longest: int = LONGEST) -> str:
    """The text with every character that cannot be seen written as its number, cut to so many characters."""
    shown = _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
