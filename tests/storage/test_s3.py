"""S3 URIs, and requests for single objects against a real S3 service."""

from __future__ import annotations

import pytest

from vhm.errors import InputError, StorageError
from vhm.storage.s3 import Bucket, parse_uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://key:secret@bucket/x", "contains no credentials"),
        ("https://bucket/x", "write it as s3://"),
        ("s3:///x", "does not name an S3 bucket"),
        ("/data/x", "/data/x is not an S3 URI"),
    ],
)
def test_invalid_uris_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_uri(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("timeout", ["soon", "-1", "0"])
def test_an_invalid_timeout_is_refused(timeout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_S3_TIMEOUT", timeout)
    with pytest.raises(InputError, match="is not a positive number of seconds"):
        Bucket("x")


def test_the_first_of_two_conditional_writes_wins(bucket: str) -> None:
    first = Bucket(bucket).put("record", b"first", IfNoneMatch="*")
    second = Bucket(bucket).put("record", b"second", IfNoneMatch="*")
    again = Bucket(bucket).put("record", b"first", IfNoneMatch="*")
    assert (first, second, again) == (True, False, True), "a retry after a lost response counts as successful"
    assert Bucket(bucket).get("record") == b"first"


def test_keys_are_sorted_and_start_after_a_key(bucket: str) -> None:
    for name in ("b/2", "b/10", "a", "b/1"):
        Bucket(bucket).put(name, b"")
    assert Bucket(bucket).keys("b/") == ["b/1", "b/10", "b/2"]
    assert Bucket(bucket).keys("b/", after="b/10") == ["b/2"]
    Bucket(bucket).delete(Bucket(bucket).keys("b/"))
    assert Bucket(bucket).keys("") == ["a"]


def test_ranges_and_missing_objects(bucket: str) -> None:
    Bucket(bucket).put("x", b"0123456789")
    assert Bucket(bucket).get("x", 3, 4) == b"3456"
    assert Bucket(bucket).get("x", 3, 0) == b""
    with pytest.raises(StorageError, match="8 bytes instead of 9"):
        Bucket(bucket, attempts=2).get("x", 2, 9)
    with pytest.raises(FileNotFoundError):
        Bucket(bucket).get("y")
    assert Bucket(bucket).head("y") is None
