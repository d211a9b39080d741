"""One bucket of an S3 service: requests with retries and back-off, transfers checked by their sha256.

Credentials, region and endpoint come from boto3's usual sources (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, profiles,
roles). They are never passed as an argument and never written to a file.
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
from typing import TYPE_CHECKING, Any, TypeVar

from vhm.errors import InputError, StorageError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

T = TypeVar("T")

_PART_SIZE = 16 * 2**20  # bytes of a multipart upload's part; larger for files of more than 10,000 such parts
_TRANSIENT_CODES = frozenset(
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


def is_uri(location: str | Path) -> bool:
    return isinstance(location, str) and "://" in location


def parse_uri(text: str) -> S3Uri:
    """Split s3://BUCKET/PREFIX. Raises InputError for anything else, and for a URI that contains credentials."""
    scheme, separator, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not separator:
        raise InputError(f"{text} is not an S3 URI: write it as s3://BUCKET/PREFIX")
    if scheme != "s3" or not bucket:
        raise InputError(f"{scheme}://… does not name an S3 bucket: write it as s3://BUCKET/PREFIX")
    if "@" in bucket or ":" in bucket:
        raise InputError(
            "an S3 URI contains no credentials and no port: set AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL instead"
        )
    return S3Uri(bucket, prefix.strip("/"))


# --- one bucket ----------------------------------------------------------------------------------


def _timeout() -> float:
    seconds = os.environ.get("VHM_S3_TIMEOUT", "60")
    if not re.fullmatch(r"\d+(\.\d+)?", seconds) or float(seconds) == 0:
        raise InputError(f"VHM_S3_TIMEOUT={seconds!r} is not a positive number of seconds")
    return float(seconds)


@dataclass(frozen=True)
class ObjectHead:
    """The metadata of an object; `sha256` is in its metadata if `put` or `upload` wrote it."""

    size: int
    sha256: str | None
    etag: str


class _DamagedResponse(Exception):
    """A response is not the requested content."""


@dataclass(frozen=True)
class Bucket:
    """A bucket whose requests are retried with back-off; `timeout` is for one response, in seconds."""

    name: str
    timeout: float = field(default_factory=_timeout)
    attempts: int = 12
    parallel: int = 8

    @cached_property
    def _client(self) -> BaseClient:
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            config=Config(
                retries={"total_max_attempts": 1},  # `_retry` is the only place that retries
                connect_timeout=min(10.0, self.timeout),
                read_timeout=self.timeout,
                max_pool_connections=2 * self.parallel,
            ),
        )

    def get(self, key: str, start: int = 0, size: int | None = None, sha256: str | None = None) -> bytes:
        """The bytes of an object, or `size` of them from `start`; a damaged or short response is requested again.

        The content is compared with `sha256`, or, for a complete object, with the hash that `put` or `upload` stored
        in its metadata. Raises StorageError; FileNotFoundError if the key does not exist.
        """
        if size == 0:
            return b""

        def read() -> bytes:
            span = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
            response = self._client.get_object(Bucket=self.name, Key=key, **span)
            content: bytes = response["Body"].read()
            if size is not None and len(content) != size:
                raise _DamagedResponse(f"{len(content)} bytes instead of {size}")
            expected = sha256 or (response["Metadata"].get("sha256") if size is None else None)
            if expected is not None and hashlib.sha256(content).hexdigest() != expected:
                raise _DamagedResponse("its sha256 differs from the expected one")
            return content

        return self._retry(f"read {key}", read)

    def head(self, key: str) -> ObjectHead | None:
        """Size, hash and ETag of an object; None if it does not exist."""
        try:
            response = self._request(f"query {key}", "head_object", Key=key)
        except FileNotFoundError:
            return None
        return ObjectHead(response["ContentLength"], response.get("Metadata", {}).get("sha256"), response["ETag"])

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> list[str]:
        """The keys that begin with `prefix`, in order.

        `after` excludes keys up to and including it; the listing stops after the page that reaches `limit` keys.
        """
        keys: list[str] = []
        page_start = {"StartAfter": after} if after else {}
        while True:
            page = self._request(f"list {prefix}", "list_objects_v2", Prefix=prefix, **page_start)
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            if not page.get("IsTruncated") or (limit is not None and len(keys) >= limit):
                return keys
            page_start = {"ContinuationToken": page["NextContinuationToken"]}

    def put(self, key: str, content: bytes, **conditions: str) -> bool:
        """Write a small object. Returns False if a condition (IfNoneMatch, IfMatch) does not hold.

        If the response to a successful write was lost, the retry fails its condition. The object then has this very
        content, and the write counts as successful.
        """
        from botocore.exceptions import ClientError

        digest = hashlib.sha256(content).hexdigest()
        try:
            self._put_object(key, content, digest, **conditions)
        except ClientError as error:
            if _status(error) not in (409, 412):
                raise StorageError(f"cannot write {key}: {_describe(error)}") from None
            head = self.head(key)
            return head is not None and head.sha256 == digest
        return True

    def copy(self, source: str, key: str) -> None:
        """Copy an object within the bucket. Raises FileNotFoundError if `source` does not exist."""
        self._request(f"copy {source}", "copy_object", Key=key, CopySource={"Bucket": self.name, "Key": source})

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._request(f"delete {key}", "delete_object", Key=key)

    def upload(self, path: Path, key: str, sha256: str) -> None:
        """Upload a file whose hash is known and check the stored object.

        Parts that an interrupted upload of the same file has sent are not sent again.
        """
        size = path.stat().st_size
        if size <= _PART_SIZE:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise InputError(f"{path} changed while it was published: publish again")
            self._put_object(key, content, sha256)
        else:
            self._upload_parts(path, key, size, sha256)
        head = self.head(key)
        if head is None or head.size != size or head.sha256 != sha256:
            raise StorageError(f"the upload of {path} to s3://{self.name}/{key} is incomplete: publish again")

    def _put_object(self, key: str, content: bytes, sha256: str, **conditions: str) -> None:
        self._request(f"write {key}", "put_object", Key=key, Body=content, Metadata={"sha256": sha256}, **conditions)

    def _upload_parts(self, path: Path, key: str, size: int, sha256: str) -> None:
        part_size = max(_PART_SIZE, -(-size // 10_000 // 2**20) * 2**20)
        upload, etags = self._resumable_upload(path, key, part_size)
        if upload is None:
            created = self._request(f"write {key}", "create_multipart_upload", Key=key, Metadata={"sha256": sha256})
            upload = created["UploadId"]

        def send(number: int) -> None:
            with path.open("rb") as file:
                file.seek((number - 1) * part_size)
                content = file.read(part_size)
            what = f"write part {number} of {key}"
            sent = self._request(what, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=content)
            etags[number] = sent["ETag"]

        missing = [number for number in range(1, -(-size // part_size) + 1) if number not in etags]
        with ThreadPoolExecutor(self.parallel) as threads:
            list(threads.map(send, missing))
        parts = {"Parts": [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]}
        # A lost response may belong to a completed upload, which then no longer exists; `upload` checks the object.
        with contextlib.suppress(FileNotFoundError):
            self._request(f"finish {key}", "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload=parts)
        for unfinished in self._uploads(key):
            self._abort(key, unfinished)

    def _resumable_upload(self, path: Path, key: str, part_size: int) -> tuple[str | None, dict[int, str]]:
        """An interrupted upload of this file: its id and the ETags of its parts by number; (None, {}) if none fits."""
        uploads = self._uploads(key)
        if not uploads:
            return None, {}
        for other in uploads[:-1]:
            self._abort(key, other)
        etags: dict[int, str] = {}
        with path.open("rb") as file:
            for part in self._uploaded_parts(key, uploads[-1]):
                file.seek((part["PartNumber"] - 1) * part_size)
                content = file.read(part_size)
                if part["Size"] == len(content) and part["ETag"].strip('"') == _md5(content):
                    etags[part["PartNumber"]] = part["ETag"]
        if not etags:
            self._abort(key, uploads[-1])
            return None, {}
        return uploads[-1], etags

    def _uploads(self, key: str) -> list[str]:
        """The ids of the unfinished multipart uploads of a key."""
        response = self._request(f"list uploads of {key}", "list_multipart_uploads", Prefix=key)
        return [entry["UploadId"] for entry in response.get("Uploads", []) if entry["Key"] == key]

    def _uploaded_parts(self, key: str, upload: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        page_start: dict[str, int] = {}
        while True:
            page = self._request(f"list parts of {key}", "list_parts", Key=key, UploadId=upload, **page_start)
            parts += page.get("Parts", [])
            if not page.get("IsTruncated"):
                return parts
            page_start = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request(f"abort an upload of {key}", "abort_multipart_upload", Key=key, UploadId=upload)

    def _request(self, what: str, operation: str, **parameters: object) -> dict[str, Any]:
        """Call one boto3 operation on this bucket and return its response; raises as `_retry` does."""
        return self._retry(what, lambda: getattr(self._client, operation)(Bucket=self.name, **parameters))

    def _retry(self, what: str, call: Callable[[], T]) -> T:
        """Repeat `call` until it succeeds or the attempts are exhausted.

        Raises FileNotFoundError if the object does not exist, ClientError if a condition does not hold, StorageError
        for every other failure.
        """
        import stamina
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for attempt in stamina.retry_context(
                on=_is_transient, attempts=self.attempts, timeout=None, wait_initial=0.05, wait_max=5.0, wait_jitter=0.1
            ):
                with attempt:
                    return call()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchUpload", "404"):
                raise FileNotFoundError(what) from None
            if _status(error) in (409, 412):
                raise
            raise StorageError(f"cannot {what} in bucket {self.name}: {_describe(error)}") from None
        except (BotoCoreError, _DamagedResponse) as error:
            raise StorageError(f"cannot {what} in bucket {self.name}: {_describe(error)}") from None
        raise AssertionError("stamina returns or raises")


def _is_transient(error: Exception) -> bool:
    """Whether a retry may succeed."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, HTTPClientError
    from botocore.exceptions import IncompleteReadError as Incomplete
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _status(error) >= 500 or _status(error) == 429 or error.response["Error"]["Code"] in _TRANSIENT_CODES
    return isinstance(
        error, (HTTPClientError, FlexibleChecksumError, Incomplete, ResponseParserError, _DamagedResponse)
    )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()  # the ETag of an S3 part


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _describe(error: Exception) -> str:
    from botocore.exceptions import ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
    if isinstance(error, ClientError) and _status(error) == 403:
        return f"refused ({error.response['Error']['Code']}): check the credentials and their permissions"
    return " ".join(str(error).split())
