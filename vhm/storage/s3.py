"""One bucket of an S3 service: requests with retries and back-off, contents checked by their sha256.

Credentials, region and endpoint come from boto3's usual sources (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, profiles,
roles). They are never passed as an argument and never written to a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.errors import DamagedObjectError, InputError, StorageError
from vhm.storage.files import base64_digest

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

_MAX_DELAY = 5.0  # seconds between two attempts
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
    """What S3 knows of an object: `sha256` is in its metadata if this package wrote it.

    `checksum` is the SHA-256 checksum that the service computed when it received the object, if it computes one.
    """

    size: int
    sha256: str | None
    etag: str
    checksum: str | None


class _DamagedResponse(Exception):
    """A response is not the requested content; `digest` is the hash of a complete one."""

    def __init__(self, message: str, digest: str | None = None) -> None:
        super().__init__(message)
        self.digest = digest


@dataclass(frozen=True)
class Bucket:
    """A bucket whose requests are retried with back-off; `timeout` is for one response, in seconds."""

    name: str
    timeout: float = field(default_factory=_timeout)
    attempts: int = 12
    parallel: int = 8

    @cached_property
    def client(self) -> BaseClient:
        """The boto3 client; it repeats requests that may succeed later."""
        import boto3
        from botocore.config import Config

        client = boto3.session.Session().client(
            "s3",
            region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 1},  # `_delay` is the only one that retries
                connect_timeout=min(10.0, self.timeout),
                read_timeout=self.timeout,
                max_pool_connections=2 * self.parallel,
            ),
        )
        client.meta.events.register("needs-retry.s3", self._delay)
        return client

    def _delay(
        self,
        attempts: int,
        response: tuple[object, dict[str, Any]] | None,
        caught_exception: Exception | None,
        **_: object,
    ) -> float | None:
        """Seconds until a failed request is repeated; None if it is not, or did not fail."""
        if attempts >= self.attempts or not _is_transient(response, caught_exception):
            return None
        return self._backoff(attempts)

    def _backoff(self, attempt: int) -> float:
        """Seconds to wait after the given attempt, from 1, failed: no longer than the timeout of a request."""
        return min(_MAX_DELAY, self.timeout, 0.05 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)

    def get(self, key: str, start: int = 0, size: int | None = None, sha256: str | None = None) -> bytes:
        """The bytes of an object, or `size` of them from `start`; a damaged or short response is requested again.

        The content is compared with `sha256`, or, for a complete object, with the hash that `put` stored in its
        metadata. Raises FileNotFoundError if the key does not exist, DamagedObjectError if the service returns the
        same wrong content twice, StorageError for every other failure.
        """
        if size == 0:
            return b""
        last_digest = None
        for attempt in range(1, self.attempts + 1):
            try:
                return self._get_once(key, start, size, sha256)
            except _DamagedResponse as error:
                message = f"cannot read {key} in bucket {self.name}: {error}"
                if error.digest is not None and error.digest == last_digest:
                    raise DamagedObjectError(f"{message}: publish its directory again") from None
                last_digest = error.digest
            time.sleep(self._backoff(attempt))
        raise StorageError(message)

    def _get_once(self, key: str, start: int, size: int | None, sha256: str | None) -> bytes:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError
        from botocore.exceptions import IncompleteReadError as Incomplete

        span = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
        response = self._request(f"read {key}", "get_object", Key=key, **span)
        try:
            content: bytes = response["Body"].read()
        except (FlexibleChecksumError, HTTPClientError, Incomplete) as error:
            raise _DamagedResponse(_describe(error)) from None
        digest = hashlib.sha256(content).hexdigest()
        if size is not None and len(content) != size:
            raise _DamagedResponse(f"{len(content)} bytes instead of {size}", digest)
        expected = sha256 or (response["Metadata"].get("sha256") if size is None else None)
        if expected is not None and digest != expected:
            raise _DamagedResponse("its sha256 differs from the expected one", digest)
        return content

    def head(self, key: str) -> ObjectHead | None:
        """Size, hash and ETag of an object; None if it does not exist."""
        try:
            head = self._request(f"query {key}", "head_object", Key=key, ChecksumMode="ENABLED")
        except FileNotFoundError:
            return None
        sha256 = head.get("Metadata", {}).get("sha256")
        return ObjectHead(head["ContentLength"], sha256, head["ETag"], head.get("ChecksumSHA256"))

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

        sha256 = hashlib.sha256(content).hexdigest()
        checked = {"Metadata": {"sha256": sha256}, "ChecksumSHA256": base64_digest(sha256)}
        try:
            self._request(f"write {key}", "put_object", Key=key, Body=content, **checked, **conditions)
        except ClientError as error:
            if _status(error) not in (409, 412):
                raise StorageError(f"cannot write {key}: {_describe(error)}") from None
            head = self.head(key)
            return head is not None and head.sha256 == sha256
        return True

    def copy(self, source: str, key: str) -> None:
        """Copy an object within the bucket. Raises FileNotFoundError if `source` does not exist."""
        self._request(f"copy {source}", "copy_object", Key=key, CopySource={"Bucket": self.name, "Key": source})

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._request(f"delete {key}", "delete_object", Key=key)

    def abort_uploads(self, prefix: str, pattern: str) -> None:
        """Abort the unfinished multipart uploads of the keys that begin with `prefix` and match `pattern`."""
        page_start: dict[str, str] = {}
        while True:
            page = self._request(f"list uploads to {prefix}", "list_multipart_uploads", Prefix=prefix, **page_start)
            for upload in page.get("Uploads", []):
                if re.match(pattern, upload["Key"]):
                    self._abort(upload["Key"], upload["UploadId"])
            if not page.get("IsTruncated"):
                return
            page_start = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request(f"abort an upload of {key}", "abort_multipart_upload", Key=key, UploadId=upload)

    def _request(self, what: str, operation: str, **parameters: object) -> dict[str, Any]:
        """Call one boto3 operation on this bucket and return its response; raises as `translated_errors` does."""
        with self.translated_errors(what):
            response: dict[str, Any] = getattr(self.client, operation)(Bucket=self.name, **parameters)
            return response

    @contextlib.contextmanager
    def translated_errors(self, what: str) -> Iterator[None]:
        """Turn boto3's exceptions into ours.

        Raises FileNotFoundError if the object does not exist, ClientError if a condition does not hold, StorageError
        for every other failure.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchUpload", "404"):
                raise FileNotFoundError(what) from None
            if _status(error) in (409, 412):
                raise
            raise StorageError(f"cannot {what} in bucket {self.name}: {_describe(error)}") from None
        except (BotoCoreError, ResponseParserError) as error:
            raise StorageError(f"cannot {what} in bucket {self.name}: {_describe(error)}") from None


def _is_transient(response: tuple[object, dict[str, Any]] | None, error: Exception | None) -> bool:
    """Whether a request failed in a way that a retry may remedy."""
    from botocore.exceptions import HTTPClientError

    if response is None:
        return isinstance(error, HTTPClientError)
    status = int(response[1].get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status >= 500 or status == 429 or response[1].get("Error", {}).get("Code") in _TRANSIENT_CODES


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def _describe(error: Exception) -> str:
    from botocore.exceptions import ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
    if isinstance(error, ClientError) and _status(error) == 403:
        return f"refused ({error.response['Error']['Code']}): check the credentials and their permissions"
    return " ".join(str(error).split())
