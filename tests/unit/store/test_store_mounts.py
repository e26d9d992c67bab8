from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from registry.store import mounts
from registry.store.catalog import Registry
from registry.store.mounts import network_filesystem

LOCAL = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684084k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
"""
# As Linux writes them: an NFS home with an autofs trigger below it, a share with a blank in its name,
# WSL's drive of Windows, a FUSE mount with optional fields, a bind of a local folder inside a share.
MIXED = (
    LOCAL
    + """\
40 27 0:35 / /home rw,relatime shared:20 - autofs /etc/auto.home rw,fd=6,pgrp=901,timeout=300
41 40 0:52 / /home/ann rw,relatime shared:21 - nfs4 filer:/export/ann rw,vers=4.2,rsize=1048576
42 27 0:53 / /mnt/team\\040share rw,relatime - cifs //server/team rw,vers=3.1.1,cache=strict
43 27 0:54 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs;path=C:\\134
44 27 0:55 / /data rw,nosuid,nodev shared:30 master:2 - fuse.sshfs ann@host:/data rw,user_id=1000
45 41 254:0 /var/scratch /home/ann/scratch rw,relatime shared:1 - ext4 /dev/vda rw
46 27 0:56 / /scratch rw,relatime - lustre 10.0.0.1@tcp:/fs1 rw,flock
47 27 254:1 / /mnt/covered rw - ext4 /dev/vdb rw
48 27 0:57 / /mnt/covered rw - nfs filer:/later rw
49 27 0:58 / /mnt/uncovered rw - nfs filer:/earlier rw
50 27 254:2 / /mnt/uncovered rw - xfs /dev/vdc rw
"""
)


@pytest.mark.parametrize("folder", ["/", "/home/ann", "/proc/x", "/nowhere/at/all"])
def test_a_machine_without_network_drives_has_none(folder: str) -> None:
    assert network_filesystem(Path(folder), LOCAL) is None


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/ann", "nfs4"),
        ("/home/ann/.local/share/safelatch", "nfs4"),
        ("/home/ann/scratch/registry", None),
        ("/home/annabel", None),
        ("/mnt/team share/locks", "cifs"),
        ("/mnt/c/Users/ann", "9p"),
        ("/data/registry", "fuse.sshfs"),
        ("/scratch/ann", "lustre"),
        ("/mnt/covered/x", "nfs"),
        ("/mnt/uncovered/x", None),
        ("/mnt/other", None),
    ],
)
def test_the_deepest_and_last_mount_says_what_a_folder_is_on(folder: str, kind: str | None) -> None:
    assert network_filesystem(Path(folder), MIXED) == kind


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "1 2 3 4 /x - nfs", " - nfs4 a b\n" * 3])
def test_a_table_that_cannot_be_read_says_nothing(text: str) -> None:
    assert network_filesystem(Path("/x"), text) is None


@pytest.fixture
def network_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system's table of mounts has as an NFS share."""
    folder = tmp_path / "share"
    folder.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"{LOCAL}60 27 0:70 / {folder} rw - nfs4 filer:/share rw\n")
    monkeypatch.setattr(mounts, "_TABLE", table)
    return folder


def test_a_registry_on_a_network_drive_is_warned_of_once_with_the_way_out(
    network_drive: Path,
) -> None:
    path = str(network_drive / "registry.db")
    with (
        pytest.warns(UserWarning, match="network drive") as caught,
        Registry.create(path) as registry,
    ):
        registry.append_event("x", "y", {})
    (warning,) = caught
    assert str(warning.message) == (
        f"{network_drive} is on a network drive (nfs4), where SQLite's WAL is not safe: if two "
        "machines write to the registry, it can be damaged. Keep it on a local disk: safelatch --db "
        "/local/registry.db init; or on a server: safelatch --db postgresql://HOST/DATABASE "
        "db upgrade"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Registry.open(path).close()


def test_a_link_to_a_network_drive_is_followed(network_drive: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(network_drive)
    with pytest.warns(UserWarning, match="network drive"):
        Registry.create(str(tmp_path / "link" / "registry.db")).close()


def test_a_local_registry_and_a_system_without_the_table_are_not_warned_of(
    network_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Registry.create(str(tmp_path / "local.db")).close()
        monkeypatch.setattr(mounts, "_TABLE", tmp_path / "nothing")
        Registry.create(str(network_drive / "registry.db")).close()
