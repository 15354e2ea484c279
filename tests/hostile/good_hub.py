"""The small good hub that hostile ones are made from.

What r14 says of the good store's views was pushed by somebody; the victim has r8 too, and pushes.
Beside it: a store of other views, and an entry of a mentor's checkpoint.
"""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.share import Hub, PushJob
from kdcache.store import MentorManifest, ensure_mentor, ensure_store, new_manifest, open_store
from kdcache.store.gathered import GatheredStore, gather_array
from kdcache.store.hub_layout import HUB_FORMAT
from kdcache.store.sealed import BLANK, SEAL, seal
from kdcache.views import make_recipe
from tests.hostile.good import VIEWS, Good, make_good

CHECKPOINT = b"weights"


@dataclass(frozen=True, kw_only=True)
class GoodHub:
    """The hub's folder, the victim's store, and what his store is made of."""

    root: Path
    good: Good

    @property
    def fingerprint(self) -> str:
        return open_store(self.good.root).fingerprint


def make_good_hub(folder: Path) -> GoodHub:
    good = make_good(folder)
    root = folder / "good-hub"
    PushJob(good.root, str(root), mentors=["r14"]).run()
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / ("0" * 64)).write_bytes(CHECKPOINT)
    entry = {
        "hub": HUB_FORMAT, "name": "r8", "architecture": "resnet8", "dataset": "digits",
        "num_classes": 10, "sha256": "0" * 64, "bytes": len(CHECKPOINT), "suffix": ".pt",
        "sidecar": None, SEAL: BLANK,
    }  # fmt: skip
    (root / "mentors").mkdir()
    content = seal(entry)
    file = f"digits.resnet8.{hashlib.sha256(content).hexdigest()[:16]}.json"
    (root / "mentors" / file).write_bytes(content)
    _push_other_views(folder, good, Hub(str(root)))
    return GoodHub(root=root, good=good)


def _push_other_views(folder: Path, good: Good, hub: Hub) -> None:
    """r14 on views of another seed; its chunk's bytes are the good store's."""
    dataset, root = good.dataset, folder / "other"
    manifest = new_manifest(dataset, make_recipe("crop-flip", seed=5, **dataset.view_parameters))
    ensure_store(root, manifest, dataset)
    like = open_store(good.root).mentor("r14")
    mentor = MentorManifest(**{**like.manifest.to_json(), "fingerprint": manifest.fingerprint})
    ensure_mentor(root, manifest, mentor, like.encoder, like.kind, VIEWS)
    stored = open_store(root).mentor("r14")
    records = {key: replace(one, identity=stored.identity) for key, one in like.commits.items()}
    array = gather_array(stored, [])
    metadata = {**array.metadata, "shape": [VIEWS, *array.metadata["shape"][1:]]}
    pushed = replace(array, metadata=metadata, records=records)
    chunks = hub.url + "/chunks/"
    shutil.copytree(chunks + like.identity, chunks + stored.identity)
    hub.add_push(GatheredStore(manifest=manifest, arrays={stored.identity: pushed}))
