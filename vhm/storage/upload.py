"""Uploading files whose hashes are known: an object is what was planned, or there is an error.

Each block is compared with the plan when it is read (`PlannedFile`); the service compares what it receives with the
checksum of each request and, for files of several parts, with the checksum of all; the stored object is queried last.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vhm.errors import DamagedObjectError, StorageError
from vhm.storage.files import BLOCK, FileEntry, PlannedFile
from vhm.storage.s3 import Bucket

if TYPE_CHECKING:
    from s3transfer.manager import TransferManager

_ATTEMPTS = 3  # for one file; each of its requests is retried more often


class Uploader:
    """Uploads to one bucket, from several threads; when the context ends with an error, uploads are aborted."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def __enter__(self) -> Uploader:
        from s3transfer.manager import TransferConfig, TransferManager

        config = TransferConfig(
            multipart_threshold=BLOCK + 1,
            multipart_chunksize=BLOCK,
            max_request_concurrency=self._bucket.parallel,
            max_in_memory_upload_chunks=self._bucket.parallel,
        )
        self._transfers: TransferManager = TransferManager(self._bucket.client, config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transfers.__exit__(kind, error, traceback)

    def upload(self, path: Path, key: str, entry: FileEntry) -> None:
        """Upload a file. Raises InputError if it does not have the content of `entry`, and StorageError."""
        for _ in range(_ATTEMPTS):
            # Not found is the multipart upload: it was completed and the response lost, or another writer aborted it.
            with contextlib.suppress(FileNotFoundError):
                self._send(path, key, entry)
            if is_stored(self._bucket, key, entry):
                return
        raise StorageError(f"s3://{self._bucket.name}/{key} is not what was sent: publish again")

    def _send(self, path: Path, key: str, entry: FileEntry) -> None:
        with PlannedFile(path, entry) as file, self._bucket.translated_errors(f"write {key}"):
            if not entry.blocks:
                self._bucket.put(key, file.read(entry.size + 1))
                return
            options = {"ChecksumAlgorithm": "SHA256", "Metadata": {"sha256": entry.sha256}}
            self._transfers.upload(file, self._bucket.name, key, options).result()


def is_stored(bucket: Bucket, key: str, entry: FileEntry, read: bool = False) -> bool:
    """Whether an object has the size, the hash and the service's checksum of a file; with `read`, also its content."""
    head = bucket.head(key)
    if head is None or (head.size, head.sha256) != (entry.size, entry.sha256) or entry.contradicts(head.checksum):
        return False
    try:
        for start, size, digest in entry.spans() if read else ():
            bucket.get(key, start, size, digest)
    except (DamagedObjectError, FileNotFoundError):
        return False
    return True
