"""kdcache: run the mentors once, train students for ever.

The public names, each loaded when first used (importing kdcache does not import torch):

    kdcache.open_dataset("cifar100")                  datasets: index -> (pixels, label)
    kdcache.views.CropFlip(size=32, padding=4)        replayable views
    kdcache.precompute_targets(dataset, ["r56"])      run the mentors once
    kdcache.export_store(path, new, encoder="auto")   encode what they said anew
    kdcache.merge_stores(path_or_url, path)           copy what a store has into another
    kdcache.open_store(path_or_url)                   what they said: .targets(view, index)
    kdcache.TargetStream(store)                       the same, whole views in the background
    kdcache.ReplayLoader(dataset, store)              batches of views with their targets
    kdcache.ClassroomLoss()                           knowledge filter and mentoring
    kdcache.HeatmapClassroomLoss()                    the same on heatmaps, joint by joint
    kdcache.train_student(student="r20", store=path)  our own loop; yields records
    kdcache.train_sweep(configs)                      several students from one view in memory
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache import classroom, datasets, encode, errors, models, store, train, views
    from kdcache.against import inspect_classroom
    from kdcache.card import store_card, write_card
    from kdcache.classroom import (
        Amtml,
        AverageLoss,
        CAMKDLoss,
        ClassroomLoss,
        CrossEntropyLoss,
        DISTLoss,
        DKDLoss,
        EBKDLoss,
        HeatmapClassroomLoss,
        KDLoss,
        LogitMSELoss,
        LossOutput,
        LossShapes,
        SoftLoss,
    )
    from kdcache.copying import CopyJob, merge_stores
    from kdcache.datasets import ImageDataset, Preprocessing, open_dataset
    from kdcache.differing import compare_stores
    from kdcache.exporting import ExportJob, export_store
    from kdcache.inspection import inspect_store
    from kdcache.loader import Batch, ReplayLoader
    from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
    from kdcache.models import build_network
    from kdcache.online import OnlineTargets
    from kdcache.pictures import draw_people
    from kdcache.precompute import PrecomputeJob, precompute_targets
    from kdcache.sources import LabelsOnly, TargetSource
    from kdcache.store import TargetStore, open_store
    from kdcache.stream import TargetStream
    from kdcache.train import (
        TrainConfig,
        evaluate_checkpoint,
        evaluate_network,
        train_mentor,
        train_student,
        train_sweep,
    )

_HOMES = {
    "kdcache.against": ("inspect_classroom",),
    "kdcache.card": ("store_card", "write_card"),
    "kdcache.classroom": (
        "Amtml",
        "AverageLoss",
        "CAMKDLoss",
        "ClassroomLoss",
        "CrossEntropyLoss",
        "DISTLoss",
        "DKDLoss",
        "EBKDLoss",
        "HeatmapClassroomLoss",
        "KDLoss",
        "LogitMSELoss",
        "LossOutput",
        "LossShapes",
        "SoftLoss",
    ),
    "kdcache.copying": ("CopyJob", "merge_stores"),
    "kdcache.datasets": ("ImageDataset", "Preprocessing", "open_dataset"),
    "kdcache.differing": ("compare_stores",),
    "kdcache.exporting": ("ExportJob", "export_store"),
    "kdcache.inspection": ("inspect_store",),
    "kdcache.loader": ("Batch", "ReplayLoader"),
    "kdcache.mentors": ("Mentor", "MentorPool", "RunShape", "load_mentor"),
    "kdcache.models": ("build_network",),
    "kdcache.online": ("OnlineTargets",),
    "kdcache.pictures": ("draw_people",),
    "kdcache.precompute": ("PrecomputeJob", "precompute_targets"),
    "kdcache.sources": ("LabelsOnly", "TargetSource"),
    "kdcache.store": ("TargetStore", "open_store"),
    "kdcache.stream": ("TargetStream",),
    "kdcache.train": (
        "TrainConfig",
        "evaluate_checkpoint",
        "evaluate_network",
        "train_mentor",
        "train_student",
        "train_sweep",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
_PACKAGES = ("classroom", "datasets", "encode", "errors", "models", "store", "train", "views")

__all__ = [
    "Amtml",
    "AverageLoss",
    "Batch",
    "CAMKDLoss",
    "ClassroomLoss",
    "CopyJob",
    "CrossEntropyLoss",
    "DISTLoss",
    "DKDLoss",
    "EBKDLoss",
    "ExportJob",
    "HeatmapClassroomLoss",
    "ImageDataset",
    "KDLoss",
    "LabelsOnly",
    "LogitMSELoss",
    "LossOutput",
    "LossShapes",
    "Mentor",
    "MentorPool",
    "OnlineTargets",
    "PrecomputeJob",
    "Preprocessing",
    "ReplayLoader",
    "RunShape",
    "SoftLoss",
    "TargetSource",
    "TargetStore",
    "TargetStream",
    "TrainConfig",
    "build_network",
    "classroom",
    "compare_stores",
    "datasets",
    "draw_people",
    "encode",
    "errors",
    "evaluate_checkpoint",
    "evaluate_network",
    "export_store",
    "inspect_classroom",
    "inspect_store",
    "load_mentor",
    "merge_stores",
    "models",
    "open_dataset",
    "open_store",
    "precompute_targets",
    "store",
    "store_card",
    "train",
    "train_mentor",
    "train_student",
    "train_sweep",
    "views",
    "write_card",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"kdcache.{name}")
    raise AttributeError(f"module 'kdcache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
