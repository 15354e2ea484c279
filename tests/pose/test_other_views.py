"""A mentor that was trained on views of another size than those it is to be run over."""

from pathlib import Path

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset


def test_a_mentor_of_other_views_is_told(tmp_path: Path, people: ImageDataset) -> None:
    network = kdcache.build_network("lp18", people.num_classes, seed=0)
    stated = {"height": "64", "width": "64"}
    save_weights(tmp_path / "lp18.safetensors", network, stated)
    mentor = kdcache.load_mentor("lp18", people, tmp_path / "lp18.safetensors")
    for sides, warnings in (({"height": 64, "width": 64}, 0), ({"height": 128, "width": 96}, 1)):
        job = kdcache.PrecomputeJob(
            people, [mentor], store=tmp_path / "S", views=1, recipe_options=sides, device="cpu"
        )
        assert len(job.warnings) == warnings
    assert "trained on views of 64 x 64, these are 128 x 96" in job.warnings[0]
