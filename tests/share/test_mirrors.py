"""A store at a hub that changes while people read it: what their mirrors then have."""

import shutil
from pathlib import Path

import pytest

from kdcache.errors import MissingTargets
from kdcache.share import PushJob
from kdcache.store import open_store
from tests.store.small import SmallStore
from tests.store.test_kinds import add_kind


def test_a_kind_that_the_hub_no_longer_has_leaves_the_mirror(
    small: SmallStore, hub_folder: Path
) -> None:
    add_kind(small, "r8", "features", views=3)
    PushJob(small.root, str(hub_folder)).run()
    (features,) = [s for s in open_store(hub_folder).sound_targets if s.kind.name == "features"]
    assert len(features.commits) == 12
    spare = open_store(hub_folder).mentor("r8").array.spare_encoder
    spare.write_text("{}")  # as of a variant that had one
    shutil.rmtree(hub_folder)
    shutil.rmtree(small.root / "mentors" / "r8" / "features")
    PushJob(small.root, str(hub_folder)).run()

    found = open_store(hub_folder)
    assert found.kinds("r8") == ("logits",)
    assert not found.target_errors
    with pytest.raises(MissingTargets, match="no features of r8"):
        found.mentor("r8", "features")
    assert not spare.exists()
