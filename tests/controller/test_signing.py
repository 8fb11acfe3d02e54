"""The key that signs bundles: announced before it is used, and on the disk before it is announced."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controller.authority.keys import Unusable
from controller.signing import Signing
from hostproxy.mesh.bundle import raw_public_key

PASSPHRASE = b"a passphrase that is long enough"


def test_it_is_rotated_in_two_acts(tmp_path: Path) -> None:
    path = str(tmp_path / "signing.key")
    signing = Signing.create(path, PASSPHRASE)
    (old,) = signing.signers
    with pytest.raises(Unusable, match="no other key"):
        signing.use()
    signing.announce()
    with pytest.raises(Unusable, match="announced already"):
        signing.announce()
    loaded = Signing.load(path, PASSPHRASE)
    assert loaded.signers == signing.signers
    assert loaded.signers[0] == old == raw_public_key(loaded.current)
    loaded.use()
    again = Signing.load(path, PASSPHRASE)
    assert again.signers == loaded.signers == (signing.signers[1],)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_no_key_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "signing.key")
    Signing.create(path, PASSPHRASE)
    with pytest.raises(Unusable, match="is there already"):
        Signing.create(path, PASSPHRASE)


@pytest.mark.parametrize("damage", ["mode", "content", "next"])
def test_a_key_that_cannot_be_used(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    Signing.create(str(path), PASSPHRASE).announce()
    if damage == "mode":
        path.chmod(0o644)
    elif damage == "content":
        path.write_text("nothing")
    else:
        (tmp_path / "signing.key.next").write_text("nothing")
    with pytest.raises(Unusable):
        Signing.load(str(path), PASSPHRASE)
    with pytest.raises(Unusable):
        Signing.load(str(tmp_path / "other.key"), PASSPHRASE)
