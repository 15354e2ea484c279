"""A hub in a folder that several people write to: it stays open to all whom its root lets in."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdcache.errors import StoreError
from kdcache.remote import Connection
from kdcache.share import PushJob
from tests.store.small import SmallStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
NOBODY = 65534


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def careful(request: pytest.FixtureRequest) -> Iterator[None]:
    """Somebody whose umask closes what he makes to others."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("careful")
@pytest.mark.parametrize("mode", [0o2775, 0o777, 0o700])
def test_what_is_pushed_is_as_open_as_the_root(
    small: SmallStore, hub_folder: Path, mode: int
) -> None:
    hub_folder.mkdir()
    hub_folder.chmod(mode)
    PushJob(small.root, str(hub_folder)).run()
    made = list(hub_folder.rglob("*"))
    assert {path.name for path in hub_folder.iterdir()} >= {"chunks", "pushes", "index.json"}
    for path in made:
        wanted = mode if path.is_dir() else mode & 0o666
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path
    if mode == 0o700:  # and the umask is what decides where the root lets nobody in
        umask = os.umask(0o077)
        os.umask(umask)
        assert not any(stat.S_IMODE(path.stat().st_mode) & umask for path in made)


def test_a_folder_that_somebody_else_closed() -> None:
    """The error speaks of permissions, not of credentials."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        closed = Path(root, "hub")
        closed.mkdir(mode=0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(StoreError, match=r"cannot be written: no permission .*chmod") as e:
                Connection(closed).put("chunks/file", b"content")
        finally:
            if user == 0:
                os.seteuid(user)
        assert "redentials" not in str(e.value)
