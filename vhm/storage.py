"""S3: directories are published whole, fetched whole, and read in parts.

    s3://BUCKET/PREFIX/
        VERSION/…                 the files; VERSION is the first 16 digits of the manifest's own hash
        VERSION/.published.json   size and sha256 of every file and of its 8 MiB blocks; written after them
        history/00000007          what was published 7th: created once, by one writer
        latest                    the newest of history, for people and other tools; moves last

What a name means never changes, so an interrupted publication goes on, and readers see the version before it or
the one after it. Credentials, region and endpoint come from where boto3 looks for them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, profiles, roles): never from an argument, and never into a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from vhm.errors import CheckFailed, InputError, StorageError
from vhm.io import check_place, read_json, whole_directory, write_json
from vhm.progress import track

log = logging.getLogger(__name__)

BLOCK = 8 * 2**20
MANIFEST = ".published.json"  # hidden files are not published: it meets none
_PART = 16 * 2**20  # of a multipart upload; larger for files of more than 10,000 of them
_COPY_LIMIT = 5 * 2**30
_PASSING = frozenset(
    {"BadDigest", "InternalError", "InvalidDigest", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
    | {"ThrottlingException", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
)


@dataclass(frozen=True)
class S3Uri:
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def __truediv__(self, name: str) -> S3Uri:
        return S3Uri(self.bucket, f"{self.prefix}/{name}" if self.prefix else name)


def is_uri(place: str | Path) -> bool:
    return isinstance(place, str) and "://" in place


def parse_uri(text: str) -> S3Uri:
    """The bucket and prefix of s3://BUCKET/PREFIX. InputError for anything else, credentials in it included."""
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise InputError(f"{scheme}://… is no place to store at: write it as s3://BUCKET/PREFIX")
    if "@" in bucket or ":" in bucket:
        raise InputError("an s3:// address holds no credentials and no port: set AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL")
    return S3Uri(bucket, prefix.strip("/"))


# --- one bucket ----------------------------------------------------------------------------------


def _timeout() -> float:
    told = os.environ.get("VHM_S3_TIMEOUT", "60")
    if not re.fullmatch(r"\d+(\.\d+)?", told) or float(told) == 0:
        raise InputError(f"VHM_S3_TIMEOUT={told!r} is no number of seconds")
    return float(told)


class _Damaged(Exception):
    """What came is not what was asked for."""


@dataclass(frozen=True)
class Bucket:
    """A bucket, spoken to with retries and back-off; `timeout` is for one answer, in seconds."""

    name: str
    timeout: float = field(default_factory=_timeout)
    attempts: int = 12
    parallel: int = 8

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            config=Config(
                retries={"total_max_attempts": 1},  # one place retries: here
                connect_timeout=min(10.0, self.timeout),
                read_timeout=self.timeout,
                max_pool_connections=2 * self.parallel,
            ),
        )

    def get(self, key: str, start: int = 0, size: int | None = None, sha256: str | None = None) -> bytes:
        """An object's bytes, or `size` of them from `start`; damaged or short answers are asked for again.

        What is damaged `sha256` tells, or for a whole object what `put` and `upload` wrote beside it. Raises
        StorageError, FileNotFoundError where there is no such key.
        """
        if size == 0:
            return b""

        def read() -> bytes:
            wanted = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
            answer = self._client.get_object(Bucket=self.name, Key=key, **wanted)
            content = answer["Body"].read()
            if size is not None and len(content) != size:
                raise _Damaged(f"{len(content)} bytes instead of {size}")
            told = sha256 or (answer["Metadata"].get("sha256") if size is None else None)
            if told is not None and hashlib.sha256(content).hexdigest() != told:
                raise _Damaged("its sha256 is another")
            return content

        return self._try(f"read {key}", read)

    def head(self, key: str) -> dict[str, Any] | None:
        """{"size", "sha256", "etag"} of an object; None where there is none."""
        try:
            found = self._try(f"ask for {key}", lambda: self._client.head_object(Bucket=self.name, Key=key))
        except FileNotFoundError:
            return None
        return {
            "size": found["ContentLength"],
            "sha256": found.get("Metadata", {}).get("sha256"),
            "etag": found["ETag"],
        }

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """All keys below `prefix`, or the first of them, in order."""
        keys: list[str] = []
        more: dict[str, Any] = {"StartAfter": after} if after else {}
        while True:
            page = self._try(
                f"list {prefix}",
                lambda more=more: self._client.list_objects_v2(Bucket=self.name, Prefix=prefix, **more),  # type: ignore[misc]
            )
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            if not page.get("IsTruncated") or (limit is not None and len(keys) >= limit):
                return keys
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, content: bytes, **conditions: str) -> bool:
        """Write a small object; False where a condition (IfNoneMatch, IfMatch) does not hold.

        An answer that got lost may have been a yes: then what is there is this very content, and counts as one.
        """
        from botocore.exceptions import ClientError

        digest = hashlib.sha256(content).hexdigest()
        try:
            self._try(
                f"write {key}",
                lambda: self._client.put_object(
                    Bucket=self.name, Key=key, Body=content, Metadata={"sha256": digest}, **conditions
                ),
            )
        except ClientError as error:
            if _status(error) not in (409, 412):
                raise StorageError(f"cannot write {key}: {_words(error)}") from None
            there = self.head(key)
            return bool(there and there["sha256"] == digest)
        return True

    def copy(self, source: str, key: str) -> None:
        self._try(
            f"copy {source}",
            lambda: self._client.copy_object(
                Bucket=self.name, Key=key, CopySource={"Bucket": self.name, "Key": source}
            ),
        )

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._try(f"delete {key}", lambda key=key: self._client.delete_object(Bucket=self.name, Key=key))  # type: ignore[misc]

    def upload(self, path: Path, key: str, sha256: str) -> None:
        """Upload a file whose hash is known, and look whether it arrived. What an earlier attempt left of it stays."""
        size = path.stat().st_size
        if size <= _PART:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise InputError(f"{path} changed while it was published: publish again")
            self._try(
                f"write {key}",
                lambda: self._client.put_object(Bucket=self.name, Key=key, Body=content, Metadata={"sha256": sha256}),
            )
        else:
            self._multipart(path, key, size, sha256)
        there = self.head(key)
        if there is None or there["size"] != size or there["sha256"] != sha256:
            raise StorageError(f"{path} did not arrive whole at s3://{self.name}/{key}: publish again")

    def _multipart(self, path: Path, key: str, size: int, sha256: str) -> None:
        part = max(_PART, -(-size // 10_000 // 2**20) * 2**20)
        target = {"Bucket": self.name, "Key": key}
        upload, parts = self._begun(path, key, part, size)
        if upload is None:
            made = self._try(
                f"write {key}", lambda: self._client.create_multipart_upload(**target, Metadata={"sha256": sha256})
            )
            upload = made["UploadId"]
        target["UploadId"] = upload

        def send(number: int) -> None:
            with path.open("rb") as file:
                file.seek((number - 1) * part)
                content = file.read(part)
            sent = self._try(
                f"write part {number} of {key}",
                lambda: self._client.upload_part(**target, PartNumber=number, Body=content),
            )
            parts[number] = sent["ETag"]

        left = [number for number in range(1, -(-size // part) + 1) if number not in parts]
        with ThreadPoolExecutor(self.parallel) as threads:
            list(threads.map(send, left))
        whole = {"Parts": [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]}
        with contextlib.suppress(FileNotFoundError):  # an answer got lost, and it is finished: `upload` looks at it
            self._try(f"finish {key}", lambda: self._client.complete_multipart_upload(**target, MultipartUpload=whole))
        self._abort_uploads(key)

    def _begun(self, path: Path, key: str, part: int, size: int) -> tuple[str | None, dict[int, str]]:
        """An interrupted upload of this key, and those of its parts that are of this file."""
        uploads = self._uploads(key)
        if not uploads:
            return None, {}
        for other in uploads[:-1]:
            self._abort(key, other)
        listed: list[dict[str, Any]] = []
        more: dict[str, int] = {}
        while True:
            page = self._try(
                f"list parts of {key}",
                lambda more=more: self._client.list_parts(Bucket=self.name, Key=key, UploadId=uploads[-1], **more),  # type: ignore[misc]
            )
            listed += page.get("Parts", [])
            if not page.get("IsTruncated"):
                break
            more = {"PartNumberMarker": page["NextPartNumberMarker"]}
        parts: dict[int, str] = {}
        with path.open("rb") as file:
            for entry in listed:
                file.seek((entry["PartNumber"] - 1) * part)
                content = file.read(part)
                if entry["Size"] == len(content) and entry["ETag"].strip('"') == _md5(content):
                    parts[entry["PartNumber"]] = entry["ETag"]
        if not parts:
            self._abort(key, uploads[-1])
            return None, {}
        return uploads[-1], parts

    def _uploads(self, key: str) -> list[str]:
        found = self._try(
            f"list uploads of {key}",
            lambda: self._client.list_multipart_uploads(Bucket=self.name, Prefix=key),
        )
        return [entry["UploadId"] for entry in found.get("Uploads", []) if entry["Key"] == key]

    def _abort_uploads(self, key: str) -> None:
        for upload in self._uploads(key):
            self._abort(key, upload)

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._try(
                f"give up an old upload of {key}",
                lambda: self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload),
            )

    def _try(self, what: str, call: Callable[[], Any]) -> Any:
        """Make one request until it is answered. FileNotFoundError, ClientError for a condition that does not hold,
        StorageError for the rest."""
        import stamina
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for attempt in stamina.retry_context(
                on=_is_passing, attempts=self.attempts, timeout=None, wait_initial=0.05, wait_max=5.0, wait_jitter=0.1
            ):
                with attempt:
                    return call()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchUpload", "404"):
                raise FileNotFoundError(what) from None
            if _status(error) in (409, 412):
                raise
            raise StorageError(f"cannot {what} in bucket {self.name}: {_words(error)}") from None
        except (BotoCoreError, _Damaged) as error:
            raise StorageError(f"cannot {what} in bucket {self.name}: {_words(error)}") from None
        raise AssertionError("stamina returns or raises")


def _is_passing(error: Exception) -> bool:
    """Whether asking again may help."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, HTTPClientError
    from botocore.exceptions import IncompleteReadError as Incomplete
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _status(error) >= 500 or _status(error) == 429 or error.response["Error"]["Code"] in _PASSING
    return isinstance(error, (HTTPClientError, FlexibleChecksumError, Incomplete, ResponseParserError, _Damaged))


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()  # what an S3 part's ETag is


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _words(error: Exception) -> str:
    if type(error).__name__ == "NoCredentialsError":
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
    if getattr(error, "response", None) and _status(error) == 403:
        code = error.response["Error"]["Code"]  # type: ignore[attr-defined]
        return f"refused ({code}): look at the credentials and at what they may do"
    return " ".join(str(error).split())


# --- publishing ----------------------------------------------------------------------------------


def manifest_of(directory: Path) -> dict[str, Any]:
    """{"files": {name: {"size", "sha256", "blocks"}}} of a directory; hidden files are not part of it.

    `blocks` are the sha256 of each 8 MiB, where there are several.
    """
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = [path.relative_to(directory).as_posix() for path in paths]
    chosen = [(n, p) for n, p in zip(names, paths, strict=True) if not any(x.startswith(".") for x in n.split("/"))]
    if not chosen:
        raise InputError(f"{directory} holds no file to publish")
    with ThreadPoolExecutor() as threads:
        entries = list(track(threads.map(lambda item: _entry(item[1]), chosen), "hashing", len(chosen)))
    return {"files": {name: entry for (name, _), entry in zip(chosen, entries, strict=True)}}


def version_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(manifest)).hexdigest()[:16]


def publish(directory: Path, uri: S3Uri, keep: int | None = None) -> str:
    """Put a directory at `uri` as its newest version, and return the version.

    Files that an earlier attempt or the version before has are not sent again. `keep` is how many versions stay.
    Raises CheckFailed when somebody else publishes there at the same time and is first, StorageError when the
    service fails for good; then nothing has changed for readers.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory to publish")
    bucket = Bucket(uri.bucket)
    number, before = _newest(bucket, uri) or (0, None)
    manifest = manifest_of(directory)
    version = version_of(manifest)
    if version != before:
        _send(bucket, uri, directory, manifest, version, before)
        record = orjson.dumps({"version": version, "writer": os.urandom(8).hex()})
        if not bucket.put(_record(uri, number + 1), record, IfNoneMatch="*"):
            raise CheckFailed(f"somebody else published to {uri} meanwhile: look at it, then publish again")
        number += 1
    _point(bucket, uri, number, version)
    if keep is not None:
        _prune(bucket, uri, number, keep)
    return version


def _send(
    bucket: Bucket, uri: S3Uri, directory: Path, manifest: dict[str, Any], version: str, before: str | None
) -> None:
    """Everything of a version, its manifest last."""
    place = uri / version
    there = set(bucket.keys(f"{place.prefix}/"))
    if (place / MANIFEST).prefix in there:
        return
    known: dict[str, str] = {}
    if before is not None:
        old = _manifest(bucket, uri / before)["files"]
        known = {entry["sha256"]: f"{(uri / before).prefix}/{name}" for name, entry in old.items()}

    def send(item: tuple[str, dict[str, Any]]) -> None:
        name, entry = item
        key = f"{place.prefix}/{name}"
        if key in there:
            head = bucket.head(key)
            if head and head["size"] == entry["size"] and head["sha256"] == entry["sha256"]:
                return
        if entry["sha256"] in known and entry["size"] <= _COPY_LIMIT:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                bucket.copy(known[entry["sha256"]], key)
                return
        bucket.upload(directory / name, key, entry["sha256"])

    files = manifest["files"]
    with ThreadPoolExecutor(bucket.parallel) as threads:
        for _ in track(threads.map(send, files.items()), f"publishing to {uri}", len(files)):
            pass
    bucket.put((place / MANIFEST).prefix, _json(manifest))


def _point(bucket: Bucket, uri: S3Uri, number: int, version: str) -> None:
    """Move `latest` to `number`, unless it is further already."""
    key = (uri / "latest").prefix
    content = orjson.dumps({"number": number, "version": version})
    while True:
        head = bucket.head(key)
        if head is None:
            if bucket.put(key, content, IfNoneMatch="*"):
                return
            continue
        if int(orjson.loads(bucket.get(key))["number"]) >= number:
            return
        if bucket.put(key, content, IfMatch=head["etag"]):
            return


def _prune(bucket: Bucket, uri: S3Uri, number: int, keep: int) -> None:
    """Remove all but the newest `keep` versions, each one's manifest first."""
    records = bucket.keys((uri / "history").prefix + "/")
    versions = {key: _record_of(bucket, key) for key in records if int(key.rsplit("/", 1)[1]) <= number}
    kept = {versions[key] for key in records[-keep:] if key in versions}
    for key, version in list(versions.items())[:-keep]:
        if version not in kept:
            files = bucket.keys((uri / version).prefix + "/")
            bucket.delete(sorted(files, key=lambda name: not name.endswith(f"/{MANIFEST}")))
        bucket.delete([key])


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """One version of a published directory."""

    bucket: Bucket
    uri: S3Uri
    files: dict[str, dict[str, Any]]

    @property
    def version(self) -> str:
        return self.uri.prefix.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        """A small file. FileNotFoundError where the version has none of that name."""
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.bucket.get(f"{self.uri.prefix}/{name}", sha256=self.files[name]["sha256"])


def open_published(uri: S3Uri) -> Published | None:
    """The version that `uri` names, else the newest one published there; None where nothing was."""
    bucket = Bucket(uri.bucket)
    if bucket.head((uri / MANIFEST).prefix) is None:
        newest = _newest(bucket, uri)
        if newest is None:
            return None
        uri = uri / newest[1]
    return Published(bucket, uri, _manifest(bucket, uri)["files"])


def fetch(uri: S3Uri, out: Path) -> str:
    """Bring a version (the newest one, or the one that `uri` names) to the directory `out`; returns the version.

    Blocks that an interrupted fetch, or an older version at `out`, has already are not sent again, and every
    block is checked. Raises InputError where nothing was published, StorageError.
    """
    published = open_published(uri)
    if published is None:
        raise InputError(f"nothing was published at {uri}")
    out = out.absolute()
    check_place(out, MANIFEST)
    beside = out.with_name(f".{out.name}.{published.version}.fetch")  # kept when this is interrupted
    beside.mkdir(parents=True, exist_ok=True)
    old = read_json(out / MANIFEST)["files"] if (out / MANIFEST).is_file() else {}
    have = {entry["sha256"]: out / name for name, entry in old.items()}

    def bring(item: tuple[str, dict[str, Any]]) -> None:
        name, entry = item
        path = _below(beside, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and entry["sha256"] in have and have[entry["sha256"]].is_file():
            shutil.copyfile(have[entry["sha256"]], path)
        _bring(published, name, entry, path)

    with ThreadPoolExecutor(published.bucket.parallel) as threads:
        jobs = threads.map(bring, published.files.items())
        for _ in track(jobs, f"fetching {uri}", len(published.files)):
            pass
    with whole_directory(out, MANIFEST) as folder:
        for name in published.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(beside / name, folder / name)
        write_json(folder / MANIFEST, {"version": published.version, "files": published.files})
    shutil.rmtree(beside)
    return published.version


def _bring(published: Published, name: str, entry: dict[str, Any], path: Path) -> None:
    """Fill `path` with the blocks that it lacks."""
    key, size = f"{published.uri.prefix}/{name}", int(entry["size"])
    hashes = entry.get("blocks") or [entry["sha256"]]
    step = BLOCK if "blocks" in entry else max(size, 1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, size)
        for number, wanted in enumerate(hashes):
            start, length = number * step, min(step, size - number * step)
            if hashlib.sha256(os.pread(descriptor, length, start)).hexdigest() == wanted:
                continue
            content = published.bucket.get(key, start, length, wanted) if size else published.bucket.get(key)
            os.pwrite(descriptor, content, start)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _below(folder: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise StorageError(f"the published manifest names {name!r}, a path outside of its directory: not fetched")
    return folder / name


# --- names ---------------------------------------------------------------------------------------


def _record(uri: S3Uri, number: int) -> str:
    return (uri / f"history/{number:08d}").prefix


def _record_of(bucket: Bucket, key: str) -> str:
    return str(orjson.loads(bucket.get(key))["version"])


def _newest(bucket: Bucket, uri: S3Uri) -> tuple[int, str] | None:
    """Number and version of what was published last: history tells, `latest` only where to begin to look."""
    latest = bucket.head((uri / "latest").prefix)
    after = ""
    if latest is not None:
        number = int(orjson.loads(bucket.get((uri / "latest").prefix))["number"])
        after = _record(uri, number - 1)
    records = bucket.keys((uri / "history").prefix + "/", after)
    if not records:
        return None
    return int(records[-1].rsplit("/", 1)[1]), _record_of(bucket, records[-1])


def _manifest(bucket: Bucket, place: S3Uri) -> dict[str, Any]:
    """A version's manifest, checked against the version."""
    content = bucket.get((place / MANIFEST).prefix)
    if hashlib.sha256(content).hexdigest()[:16] != place.prefix.rsplit("/", 1)[-1]:
        raise StorageError(f"{place / MANIFEST} is not what its version says: publish it again")
    return orjson.loads(content)


def _entry(path: Path) -> dict[str, Any]:
    whole, blocks = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            whole.update(block)
            blocks.append(hashlib.sha256(block).hexdigest())
    entry = {"size": path.stat().st_size, "sha256": whole.hexdigest()}
    return entry | {"blocks": blocks} if len(blocks) > 1 else entry


def _json(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
