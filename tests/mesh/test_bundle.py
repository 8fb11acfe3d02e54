"""Bundles: what a host takes, and the many things that it must not."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostproxy.mesh import bundle
from hostproxy.mesh.bundle import Manifest, Newest, Refused, open_bundle, raw_public_key, seal

NOW = 1_800_000_000.0
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
PUBLIC = raw_public_key(KEY)
FILES = {"payments.toml": b'[service.payments]\ntimeout = "2s"\n', "defaults.toml": b'[defaults]\naccess = "deny"\n'}


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "mesh": "corp.example",
        "host": "web-1",
        "epoch": 1,
        "generation": 7,
        "issued": NOW,
        "expires": NOW + 86400.0,
        "files": {},
        "roots": ("-----BEGIN CERTIFICATE-----\n",),
        "signers": (PUBLIC,),
    }
    return Manifest(**(values | changes))


def opened(data: bytes, **changes: Any) -> bundle.Bundle:
    values: dict[str, Any] = {
        "signers": [PUBLIC],
        "mesh": "corp.example",
        "host": "web-1",
        "now": NOW,
        "newest": Newest(),
    }
    return open_bundle(data, **(values | changes))


def refused(data: bytes, **changes: Any) -> str:
    with pytest.raises(Refused) as caught:
        opened(data, **changes)
    assert str(caught.value)
    return caught.value.code


def signed(payload: bytes, key: Ed25519PrivateKey = KEY) -> bytes:
    """What somebody who has the key, and does not follow the rules, can make."""
    return bundle.FORMAT + bundle.key_id(raw_public_key(key)) + key.sign(bundle.FORMAT + payload) + payload


GOOD = seal(manifest(), FILES, KEY)


def test_a_good_bundle_comes_out_as_it_went_in() -> None:
    taken = opened(GOOD)
    assert dict(taken.files) == FILES
    assert taken.version == (1, 7)
    assert taken.manifest.host == "web-1"


def test_the_same_again_is_no_rollback() -> None:
    taken = opened(GOOD)
    assert opened(GOOD, newest=Newest(1, 7, taken.digest)).version == (1, 7)


@pytest.mark.parametrize(
    ("newest", "code"),
    [
        (Newest(1, 8, "x"), "rollback"),
        (Newest(2, 1, "x"), "rollback"),
        (Newest(1, 7, "x"), "conflict"),
    ],
)
def test_what_is_older_or_contradicts_is_refused(newest: Newest, code: str) -> None:
    assert refused(GOOD, newest=newest) == code


def test_far_ahead_takes_a_new_epoch() -> None:
    newest = Newest(1, 6, "x")
    ahead = 7 + 10**9
    assert refused(seal(manifest(generation=ahead), FILES, KEY), newest=newest) == "fast-forward"
    assert opened(seal(manifest(generation=ahead, epoch=2), FILES, KEY), newest=newest).version == (2, ahead)
    with pytest.raises(Refused, match="out of bounds"):
        seal(manifest(generation=2**63), FILES, KEY)


def test_only_its_host_and_mesh_take_it() -> None:
    assert refused(GOOD, host="web-2") == "host"
    assert refused(GOOD, mesh="other.example") == "mesh"


def test_one_from_the_future_means_that_a_clock_is_wrong() -> None:
    assert refused(GOOD, now=NOW - bundle.SKEW - 1) == "clock"
    assert opened(GOOD, now=NOW - bundle.SKEW + 1)


def test_an_expired_one_is_taken_for_want_of_a_better() -> None:
    assert opened(GOOD, now=NOW + 10 * 86400.0).manifest.expires < NOW + 10 * 86400.0


def test_only_trusted_keys_sign() -> None:
    assert refused(seal(manifest(), FILES, OTHER)) == "signer"
    assert opened(seal(manifest(), FILES, OTHER), signers=[PUBLIC, raw_public_key(OTHER)])


def test_the_name_of_a_trusted_key_is_not_its_signature() -> None:
    forged = bundle.FORMAT + bundle.key_id(PUBLIC) + OTHER.sign(bundle.FORMAT + GOOD[bundle.HEADER :])
    assert refused(forged + GOOD[bundle.HEADER :]) == "signature"


def test_one_flipped_bit_anywhere_is_found() -> None:
    choice = random.Random(3)
    for position in (choice.randrange(len(GOOD) * 8) for _ in range(1000)):
        data = bytearray(GOOD)
        data[position // 8] ^= 1 << position % 8
        assert refused(bytes(data)) in ("format", "signer", "signature")


def test_truncated_anywhere_is_found() -> None:
    choice = random.Random(4)
    for length in (choice.randrange(len(GOOD)) for _ in range(1000)):
        assert refused(GOOD[:length]) in ("format", "signature")
    assert refused(GOOD + b"\0") == "signature"


def test_nothing_is_decoded_before_the_signature_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(msgspec.msgpack, "decode", decode)
    assert refused(GOOD[:-1] + b"x") == "signature"


@pytest.mark.parametrize("name", ["../x.toml", "a/b.toml", "x", ".toml", "a..toml", "A.toml", "x.toml\n", "é.toml", ""])
def test_names_of_files_are_no_paths(name: str) -> None:
    with pytest.raises(Refused):
        seal(manifest(), {name: b"#"}, KEY)
    content = {name: b"#"}
    hashes = {name: hashlib.sha256(b"#").digest()}
    payload = msgspec.msgpack.encode({"manifest": msgspec.to_builtins(manifest(files=hashes), builtin_types=(bytes,)),
                                      "files": content})
    assert refused(signed(payload)) == "files"


def test_signed_nonsense_is_refused() -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    for payload in (b"", b"\xc1", msgspec.msgpack.encode(deep), msgspec.msgpack.encode({"manifest": 1, "files": {}})):
        assert refused(signed(payload)) == "malformed"


def test_mixed_files_are_refused() -> None:
    other = seal(manifest(), {**FILES, "payments.toml": b"# other\n"}, KEY)
    hashes = opened(GOOD).manifest
    payload = msgspec.msgpack.encode(bundle.Payload(manifest=hashes, files=dict(opened(other).files)))
    assert refused(signed(payload)) == "files"
    payload = msgspec.msgpack.encode(bundle.Payload(manifest=hashes, files={}))
    assert refused(signed(payload)) == "files"


@pytest.mark.parametrize(
    "changes",
    [
        {"roots": ()},
        {"signers": ()},
        {"signers": (b"short",)},
        {"roots": ("x",) * 17},
        {"epoch": -1},
        {"generation": 0},
        {"confirm_within": float("nan")},
        {"expires": float("inf")},
        {"denied": ("spiffe://corp.example/../x",)},
    ],
)
def test_nobody_seals_what_nobody_takes(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        seal(manifest(**changes), FILES, KEY)
    assert caught.value.code == "shape"


def test_too_large_is_refused_by_both_sides() -> None:
    with pytest.raises(Refused, match="the most is"):
        seal(manifest(), {"a.toml": b"#" * bundle.BUNDLE_SIZE}, KEY)
    assert refused(GOOD + b"\0" * bundle.BUNDLE_SIZE) == "size"
