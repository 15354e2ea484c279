"""One torch thread: these tensors are tiny, and waking a second thread costs milliseconds a call
on a busy machine (measured: 55 ms instead of 1 ms for one loss with its gradient)."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
