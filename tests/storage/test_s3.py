"""Addresses, and what a bucket promises about single objects, against a real S3 service."""

from __future__ import annotations

import pytest

from vhm.errors import InputError, StorageError
from vhm.storage.s3 import Bucket, parse_uri


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://key:secret@bucket/x", "no credentials"),
        ("https://bucket/x", "write it as s3://"),
        ("s3:///x", "names no bucket"),
        ("/data/x", "/data/x is no address of S3"),
    ],
)
def test_addresses(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        parse_uri(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("told", ["soon", "-1", "0"])
def test_a_timeout_that_is_none(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_S3_TIMEOUT", told)
    with pytest.raises(InputError, match="no number of seconds"):
        Bucket("x")


def test_of_two_conditional_writes_the_first_stays(bucket: str) -> None:
    first = Bucket(bucket).put("record", b"first", IfNoneMatch="*")
    second = Bucket(bucket).put("record", b"second", IfNoneMatch="*")
    again = Bucket(bucket).put("record", b"first", IfNoneMatch="*")
    assert (first, second, again) == (True, False, True), "who asks again after a lost answer has written it"
    assert Bucket(bucket).get("record") == b"first"


def test_keys_come_in_order_and_from_a_place_on(bucket: str) -> None:
    for name in ("b/2", "b/10", "a", "b/1"):
        Bucket(bucket).put(name, b"")
    assert Bucket(bucket).keys("b/") == ["b/1", "b/10", "b/2"]
    assert Bucket(bucket).keys("b/", after="b/10") == ["b/2"]
    Bucket(bucket).delete(Bucket(bucket).keys("b/"))
    assert Bucket(bucket).keys("") == ["a"]


def test_ranges_and_what_is_not_there(bucket: str) -> None:
    Bucket(bucket).put("x", b"0123456789")
    assert Bucket(bucket).get("x", 3, 4) == b"3456"
    assert Bucket(bucket).get("x", 3, 0) == b""
    with pytest.raises(StorageError, match="8 bytes instead of 9"):
        Bucket(bucket, attempts=2).get("x", 2, 9)
    with pytest.raises(FileNotFoundError):
        Bucket(bucket).get("y")
    assert Bucket(bucket).head("y") is None
