"""Readers that need nothing but the operating system: memory maps, files, records."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.readers.reader import Given, Opened, batch_of_bytes

FILES_A_FOLDER = 1000


@contextmanager
def map_by_mentor(given: Given) -> Iterator[Opened]:
    """A raw float16 memory map, mentor after mentor as our store has it: (M, N, C)."""
    count, mentors, classes = given.logits_NMC.shape
    path = given.folder / "by-mentor.float16"
    given.logits_NMC.transpose(1, 0, 2).tofile(path)
    # mode "c": torch warns of memory that it may not write.
    mapped = np.memmap(path, dtype=np.float16, mode="c", shape=(mentors * count, classes))
    rows = torch.from_numpy(mapped)
    first_row_M = torch.arange(mentors) * count

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        # 1.5 times as fast as numpy's fancy index, measured here; so it is below.
        rows_BM = torch.from_numpy(index_B)[:, None] + first_row_M
        return rows.index_select(0, rows_BM.view(-1)).float().view(-1, mentors, classes)

    yield Opened(take=take, path=path)


@contextmanager
def map_by_sample(given: Given) -> Iterator[Opened]:
    """A raw float16 memory map, a sample's mentors side by side: (N, M, C). Quicker to gather; to
    add, drop or choose a mentor, all of it has to be written anew."""
    path = given.folder / "by-sample.float16"
    given.logits_NMC.tofile(path)
    mapped = np.memmap(path, dtype=np.float16, mode="c", shape=given.logits_NMC.shape)
    rows_NMC = torch.from_numpy(mapped)

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        return rows_NMC.index_select(0, torch.from_numpy(index_B)).float()

    yield Opened(take=take, path=path)


@contextmanager
def file_a_sample(given: Given) -> Iterator[Opened]:
    """One `torch.save` file a sample, in folders of a thousand.

    Layout: FKD (FKD_SLG/generate_soft_label.py), ml-dr (dr/data.py), torchdistill
    (datasets/wrapper.py). Theirs hold every view of a sample, or the logits twice; ours one view.
    """
    root = given.folder / "files"
    paths = []
    for index, logits_MC in enumerate(given.logits_NMC):
        if index % FILES_A_FOLDER == 0:
            folder = root / str(index // FILES_A_FOLDER)
            folder.mkdir(parents=True)
        paths.append(str(folder / f"{index}.pt"))
        torch.save(torch.from_numpy(logits_MC), paths[-1])

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        # weights_only=True, the safe way, takes 1.5 times as long; theirs are from before it.
        rows = [torch.load(paths[index], weights_only=False) for index in index_B.tolist()]
        return torch.stack(rows).float()

    yield Opened(take=take, path=root)


@contextmanager
def records(given: Given) -> Iterator[Opened]:
    """Records of one size in one file; a table says at which offset a sample's lies.

    Layout: TinyViT (data/augmentation/manager.py): a dictionary of keys and offsets, seek and read.
    """
    path = given.folder / "records.bin"
    given.logits_NMC.tofile(path)
    count, *shape = given.logits_NMC.shape
    size = given.logits_NMC[0].nbytes
    offset_of = {index: index * size for index in range(count)}
    file = os.open(path, os.O_RDONLY)

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        # pread is seek and read in one call of the system.
        rows = [os.pread(file, size, offset_of[index]) for index in index_B.tolist()]
        return batch_of_bytes(rows, shape)

    try:
        yield Opened(take=take, path=path)
    finally:
        os.close(file)
