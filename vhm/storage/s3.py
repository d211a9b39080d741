"""A bucket of an S3 service, spoken to with retries and back-off; what comes or arrives damaged is sent again.

Credentials, region and endpoint come from where boto3 looks for them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, profiles,
roles): never from an argument, and never into a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vhm.errors import InputError, StorageError

_PART = 16 * 2**20  # of a multipart upload; larger for files of more than 10,000 of them
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
    scheme, separator, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not separator:
        raise InputError(f"{text} is no address of S3: write it as s3://BUCKET/PREFIX")
    if scheme != "s3" or not bucket:
        raise InputError(f"{scheme}://… names no bucket of S3: write it as s3://BUCKET/PREFIX")
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
