"""The readers people use today, side by side with ours: same targets, same shuffled batches.

comparing.py        rounds, rows and what is skipped
reader.py           what a reader is given and gives
ours.py             from the store, resident
files.py            memory maps, a file a sample (FKD, ml-dr, torchdistill), records (TinyViT)
containers.py       LMDB, HDF5, Arrow, WebDataset
on_our_store.py     zarr-python, zarrs and tensorstore, indexed per batch on our very store
"""

from benchmarks.readers.comparing import LIBRARIES, measure

__all__ = ["LIBRARIES", "measure"]
