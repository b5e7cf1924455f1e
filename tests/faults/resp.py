"""The Redis protocol (RESP2 and RESP3), as far as somebody in between needs it: where a frame ends and what it asks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

from stem.adapters.redis.client import script

_BULK: Final = frozenset(b"$=!")
_MANY: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_LINE: Final = frozenset(b"+-:_#,(")
_PUSHED: Final = frozenset((b"message", b"pmessage", b"smessage", b"invalidate"))
_TWO_WORDS: Final = frozenset(("CLIENT", "CONFIG", "SCRIPT", "XGROUP", "XINFO", "PUBSUB", "DEBUG", "MEMORY", "OBJECT"))


class Cutter:
    """Cuts a stream of bytes into whole frames: commands in one direction, replies in the other.

    Attributes:
        lost: the bytes made no sense; what is left of them comes out as it is, and so does everything that follows.
    """

    def __init__(self) -> None:
        self.lost = False
        self._data = bytearray()
        self._at = 0
        self._left = 1

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the frames that are complete now."""
        self._data += data
        frames = []
        try:
            while not self.lost and self._walk():
                frames.append(bytes(self._data[: self._at]))
                del self._data[: self._at]
                self._at, self._left = 0, 1
        except ValueError:
            self.lost = True
        if self.lost and self._data:
            frames.append(bytes(self._data))
            self._data.clear()
        return frames

    def _walk(self) -> bool:
        """Go on to the end of the frame; False when it is not all there. Goes on from there the next time."""
        data = self._data
        while self._left:
            line_end = data.find(b"\r\n", self._at)
            if line_end < 0:
                return False
            kind, after = data[self._at], line_end + 2
            if kind in _BULK:
                size = int(data[self._at + 1 : line_end])
                after += size + 2 if size >= 0 else 0
                if after > len(data):
                    return False
            elif kind in _MANY:
                # An attribute (`|`) comes before the value it belongs to, and does not count itself.
                self._left += max(0, int(data[self._at + 1 : line_end])) * _MANY[kind] + (kind == ord("|"))
            elif kind not in _LINE and self._at:
                raise ValueError(f"no RESP type: {kind}")
            # A first line of another kind is a command typed by hand: `PING`.
            self._at = after
            self._left -= 1
        return True


def words_of(frame: bytes, most: int = 1 << 30) -> list[bytes]:
    """Return the words of a command, or the leading plain items of an array; at most `most`."""
    if frame[:1] not in (b"*", b">"):
        return [] if frame[:1] in (b"+", b"-", b":", b"$") else frame.split()[:most]
    at = frame.index(b"\r\n") + 2
    words: list[bytes] = []
    while at < len(frame) and len(words) < most and frame[at] == ord("$"):
        line_end = frame.index(b"\r\n", at)
        size = int(frame[at + 1 : line_end])
        words.append(frame[line_end + 2 : line_end + 2 + max(0, size)])
        at = line_end + 2 + (size + 2 if size >= 0 else 0)
    return words


def is_pushed(frame: bytes) -> bool:
    """Say whether a frame from a server is a message of a subscription, which answers no command."""
    return frame[:1] in (b"*", b">") and frame[4:5] == b"$" and words_of(frame, 1)[:1][0] in _PUSHED


def is_error(frame: bytes) -> bool:
    return frame[:1] in (b"-", b"!")


@cache
def scripts() -> Mapping[str, str]:
    """Return the names of all scripts that a server can run by themselves, by their SHA-1."""
    folder = resources.files("stem.adapters.redis") / "scripts"
    whole = [part.name for part in folder.iterdir() if part.name.endswith(".lua")]
    names = [name.removesuffix(".lua") for name in whole if (folder / name).read_text().startswith("#!lua")]
    return {script(name).sha: name for name in sorted(names)}


def name_of(frame: bytes) -> str:
    """Return what a command is called: a script's own name, or one or two words in capitals (`CLIENT UNBLOCK`)."""
    words = words_of(frame, 2)
    if not words:
        return ""
    first = words[0].decode("ascii", "replace").upper()
    if len(words) == 1:
        return first
    if first == "EVALSHA":
        return scripts().get(words[1].decode("ascii", "replace").lower(), first)
    if first == "EVAL":
        return scripts().get(hashlib.sha1(words[1], usedforsecurity=False).hexdigest(), first)
    return f"{first} {words[1].decode('ascii', 'replace').upper()}" if first in _TWO_WORDS else first
