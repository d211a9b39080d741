"""Random hostile tar shards. To add a class, add a function to `HOSTILE`."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable

IMAGE = b"\xff\xd8\xff\xe0 not much of an image"


def tar(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    """A tar archive of (name, content, changes of its header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def good(rng: random.Random) -> list[tuple[str, bytes, dict[str, object]]]:
    names = [f"src/{rng.randrange(10**6)}-{n}.jpg" for n in range(rng.randrange(1, 4))]
    return [(name, IMAGE + bytes([n]), {}) for n, name in enumerate(names)]


def _named(make: Callable[[random.Random], str]) -> Callable[[random.Random], bytes]:
    return lambda rng: tar(*good(rng), (make(rng), IMAGE, {}), *good(rng))


def _kind(kind: bytes, **more: object) -> Callable[[random.Random], bytes]:
    return lambda rng: tar(*good(rng), (f"src/x{rng.randrange(99)}.jpg", b"", {"type": kind, **more}))


def _patched(change: Callable[[random.Random, bytearray], None]) -> Callable[[random.Random], bytes]:
    def make(rng: random.Random) -> bytes:
        content = bytearray(tar(*good(rng)))
        change(rng, content)
        return bytes(content)

    return make


def _checksum(content: bytearray) -> None:
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()


def _sized(rng: random.Random, content: bytearray) -> None:
    content[124:136] = f"{rng.choice([8**11 - 1, 10**9, len(content) * 2]):011o}\0".encode()
    _checksum(content)


def _binary_size(rng: random.Random, content: bytearray) -> None:
    content[124:136] = b"\x80" + rng.randbytes(11)
    _checksum(content)


def _flip_header(rng: random.Random, content: bytearray) -> None:
    content[rng.randrange(0, 100)] ^= 1 << rng.randrange(1, 7)


HOSTILE: dict[str, Callable[[random.Random], bytes]] = {
    "path with ..": _named(lambda rng: "../" * rng.randrange(1, 9) + "evil.jpg"),
    "path with .. inside": _named(lambda rng: f"src/{'../' * rng.randrange(2, 5)}evil.jpg"),
    "absolute path": _named(lambda rng: f"/tmp/evil-{rng.randrange(99)}.jpg"),
    "Windows path": _named(lambda rng: rng.choice(["..\\evil.jpg", "C:\\evil.jpg", "a\\..\\b.jpg"])),
    "URL": _named(lambda rng: rng.choice(["file:///etc/evil.jpg", "http://x/evil.jpg"])),
    "long path with ..": _named(lambda rng: "../" * 60 + "evil.jpg"),
    "empty path component": _named(lambda rng: "src//evil.jpg"),
    "symbolic link": _kind(tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": _kind(tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": _kind(tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": _kind(tarfile.BLKTYPE, devmajor=8, devminor=0),
    "named pipe": _kind(tarfile.FIFOTYPE),
    "sparse file": _kind(tarfile.GNUTYPE_SPARSE),
    "contiguous file": _kind(tarfile.CONTTYPE),
    "path through a link": lambda rng: tar(
        ("src", b"", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("src/evil.jpg", IMAGE, {})
    ),
    "the same name twice": lambda rng: tar(("a.jpg", IMAGE, {}), ("a.jpg", b"other", {})),
    "file as folder": lambda rng: tar(("a.jpg", IMAGE, {}), ("a.jpg/b.jpg", IMAGE, {})),
    "size beyond the archive": _patched(_sized),
    "binary size": _patched(_binary_size),
    "damaged header": _patched(_flip_header),
    "truncated": lambda rng: tar(*good(rng))[: 512 * rng.randrange(1, 3) + rng.randrange(511)],
    "huge name": lambda rng: tar((f"src/{'x' * rng.choice([300, 70_000])}.jpg", IMAGE, {})),
    "huge extended header": lambda rng: tar(("a.jpg", IMAGE, {"pax_headers": {"comment": "x" * 200_000}})),
    "sparse by extended header": lambda rng: tar(
        ("a.jpg", IMAGE, {"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10**12)}})
    ),
    "size by extended header": lambda rng: tar(("a.jpg", IMAGE, {"pax_headers": {"size": str(10**15)}})),
    "name by extended header": lambda rng: tar(("a.jpg", IMAGE, {"pax_headers": {"path": "../../evil.jpg"}})),
    "compressed bomb": lambda rng: gzip.compress(tar(("a.jpg", bytes(5_000_000), {}))),
    "random bytes": lambda rng: rng.randbytes(rng.randrange(1, 5000)),
    "empty": lambda rng: b"",
    "NUL in the name": lambda rng: tar(("a.jpg", IMAGE, {"pax_headers": {"path": "src/a.jpg\0/../../evil.jpg"}})),
}
