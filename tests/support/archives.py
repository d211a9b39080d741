"""Hostile tar shards, drawn from a seed. To add a class, add a function to `HOSTILE`."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable

IMAGE = b"\xff\xd8\xff\xe0 not much of an image"


def tar(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    """A tar of (name, content, changes of its header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def good(draw: random.Random) -> list[tuple[str, bytes, dict[str, object]]]:
    names = [f"src/{draw.randrange(10**6)}-{n}.jpg" for n in range(draw.randrange(1, 4))]
    return [(name, IMAGE + bytes([n]), {}) for n, name in enumerate(names)]


def _named(make: Callable[[random.Random], str]) -> Callable[[random.Random], bytes]:
    return lambda draw: tar(*good(draw), (make(draw), IMAGE, {}), *good(draw))


def _kind(kind: bytes, **more: object) -> Callable[[random.Random], bytes]:
    return lambda draw: tar(*good(draw), (f"src/x{draw.randrange(99)}.jpg", b"", {"type": kind, **more}))


def _patched(change: Callable[[random.Random, bytearray], None]) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        content = bytearray(tar(*good(draw)))
        change(draw, content)
        return bytes(content)

    return make


def _checksum(content: bytearray) -> None:
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()


def _sized(draw: random.Random, content: bytearray) -> None:
    content[124:136] = f"{draw.choice([8**11 - 1, 10**9, len(content) * 2]):011o}\0".encode()
    _checksum(content)


def _binary_size(draw: random.Random, content: bytearray) -> None:
    content[124:136] = b"\x80" + draw.randbytes(11)
    _checksum(content)


def _flip_header(draw: random.Random, content: bytearray) -> None:
    content[draw.randrange(0, 100)] ^= 1 << draw.randrange(1, 7)


HOSTILE: dict[str, Callable[[random.Random], bytes]] = {
    "up": _named(lambda draw: "../" * draw.randrange(1, 9) + "evil.jpg"),
    "up inside": _named(lambda draw: f"src/{'../' * draw.randrange(2, 5)}evil.jpg"),
    "absolute": _named(lambda draw: f"/tmp/evil-{draw.randrange(99)}.jpg"),
    "windows": _named(lambda draw: draw.choice(["..\\evil.jpg", "C:\\evil.jpg", "a\\..\\b.jpg"])),
    "scheme": _named(lambda draw: draw.choice(["file:///etc/evil.jpg", "http://x/evil.jpg"])),
    "long up": _named(lambda draw: "../" * 60 + "evil.jpg"),
    "empty part": _named(lambda draw: "src//evil.jpg"),
    "symbolic link": _kind(tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": _kind(tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": _kind(tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": _kind(tarfile.BLKTYPE, devmajor=8, devminor=0),
    "pipe": _kind(tarfile.FIFOTYPE),
    "sparse": _kind(tarfile.GNUTYPE_SPARSE),
    "contiguous": _kind(tarfile.CONTTYPE),
    "link, then through it": lambda draw: tar(
        ("src", b"", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("src/evil.jpg", IMAGE, {})
    ),
    "twice": lambda draw: tar(("a.jpg", IMAGE, {}), ("a.jpg", b"other", {})),
    "file as folder": lambda draw: tar(("a.jpg", IMAGE, {}), ("a.jpg/b.jpg", IMAGE, {})),
    "longer than the archive": _patched(_sized),
    "a size in binary": _patched(_binary_size),
    "damaged header": _patched(_flip_header),
    "cut short": lambda draw: tar(*good(draw))[: 512 * draw.randrange(1, 3) + draw.randrange(511)],
    "huge name": lambda draw: tar((f"src/{'x' * draw.choice([300, 70_000])}.jpg", IMAGE, {})),
    "huge extended header": lambda draw: tar(("a.jpg", IMAGE, {"pax_headers": {"comment": "x" * 200_000}})),
    "sparse by extended header": lambda draw: tar(
        ("a.jpg", IMAGE, {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10**12)}})
    ),
    "size by extended header": lambda draw: tar(("a.jpg", IMAGE, {"pax_headers": {"size": str(10**15)}})),
    "name by extended header": lambda draw: tar(("a.jpg", IMAGE, {"pax_headers": {"path": "../../evil.jpg"}})),
    "compressed bomb": lambda draw: gzip.compress(tar(("a.jpg", bytes(5_000_000), {}))),
    "no tar": lambda draw: draw.randbytes(draw.randrange(1, 5000)),
    "empty": lambda draw: b"",
    "a null in the name": lambda draw: tar(("a.jpg", IMAGE, {"pax_headers": {"path": "src/a.jpg\0/../../evil.jpg"}})),
}
