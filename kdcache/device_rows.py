"""Rows of a host buffer as the training device sees them: copied there whole, or row by row.

The buffer is filled again and again by a loading thread, and rows are taken by the training thread:

    rows = rows_on(device, buffer)
    rows.settle()                    # loading thread, before it writes into the buffer
    rows.refresh(start, stop)        # loading thread: these rows of the buffer are new
    rows.take(row_K)                 # training thread: (K, *row) on the device

Where the buffer is small beside the device's free memory, `refresh` copies the new rows there from
pinned memory on a stream of its own, and `take` is an indexed read on the device: nothing crosses
over in a step but row numbers. Otherwise `take` gathers into pinned memory and sends that.

Whoever calls sees to it that rows are not taken while they are refreshed, in the order of the
calls; what the device does later is seen to here (`CudaCopies`).
"""

from typing import Protocol

import torch

from kdcache.devices import free_memory, send

SHARE = 1 / 8  # of the device's free memory that one buffer's copy may take; a stream has several


class Rows(Protocol):
    """One buffer's rows."""

    def settle(self) -> None:
        """Waits until the buffer may be written to."""
        ...

    def refresh(self, start: int, stop: int) -> None:
        """The rows from `start` to before `stop` of the buffer are new."""
        ...

    def take(self, row_K: torch.Tensor) -> torch.Tensor:
        """(K, *row) on the device, of rows int64 (K,) given on the host; not waited for."""
        ...


def rows_on(
    device: torch.device,
    buffer: torch.Tensor,
    *,
    resident: bool | None = None,
    copies: "Copies | None" = None,
) -> Rows:
    """`buffer`: (R, *row) on the host, pinned for CUDA. `resident`: whether the device keeps a copy
    of it; None: where it is no CPU and has the memory. `copies`: how that is kept up to date; None:
    as suits the device."""
    if resident is None:
        resident = device.type != "cpu" and buffer.nbytes <= SHARE * free_memory(device)
    if not resident:
        return HostRows(device, buffer)
    if copies is None:
        copies = CudaCopies(device) if device.type == "cuda" else Copies()
    return DeviceRows(device, buffer, copies)


class HostRows:
    """Gathered on the host, then sent."""

    def __init__(self, device: torch.device, buffer: torch.Tensor) -> None:
        self._device, self._buffer, self._is_here = device, buffer, device.type == "cpu"

    def settle(self) -> None:
        pass

    def refresh(self, start: int, stop: int) -> None:
        pass

    def take(self, row_K: torch.Tensor) -> torch.Tensor:
        if self._is_here:
            return self._buffer.index_select(0, row_K)
        if self._device.type != "cuda":
            return send(self._buffer.index_select(0, row_K), self._device)
        # Pinned memory of torch's own cache, which waits for the copy before it is used again.
        shape = (len(row_K), *self._buffer.shape[1:])
        staged = torch.empty(shape, dtype=self._buffer.dtype, pin_memory=True)
        torch.index_select(self._buffer, 0, row_K, out=staged)
        return staged.to(self._device, non_blocking=True)


class Copies:
    """How a buffer's copy is kept up to date, on devices where a copy is done when it returns."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Loading thread: `target` on the device becomes `source`, whose memory must then rest
        until `settle`."""
        target.copy_(source)

    def settle(self) -> None:
        """Loading thread: waits until every copy has read its source."""

    def before_take(self) -> None:
        """Training thread: what the device is asked next comes after every copy so far."""

    def after_take(self) -> None:
        """Training thread: copies from now on come after what the device was asked so far."""


class CudaCopies(Copies):
    """On a stream of its own, beside the training thread's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._taken = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.record_stream(self._stream)  # should it be freed while a copy is under way
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken)  # an event never recorded is not waited for
            target.copy_(source, non_blocking=True)
            self._copied.record(self._stream)

    def settle(self) -> None:
        self._copied.synchronize()  # copies are done in order: the last one is all of them

    def before_take(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._copied)

    def after_take(self) -> None:
        self._taken.record(torch.cuda.current_stream(self._device))


class DeviceRows:
    """Kept on the device, and gathered there."""

    def __init__(self, device: torch.device, buffer: torch.Tensor, copies: Copies) -> None:
        self._device, self._buffer, self._copies = device, buffer, copies
        self._rows = torch.empty_like(buffer, device=device)
        self._copies.after_take()  # whoever had this memory before may be using it still

    def settle(self) -> None:
        self._copies.settle()

    def refresh(self, start: int, stop: int) -> None:
        self._copies.copy(self._rows[start:stop], self._buffer[start:stop])

    def take(self, row_K: torch.Tensor) -> torch.Tensor:
        row_K = send(row_K, self._device)
        self._copies.before_take()
        taken = self._rows.index_select(0, row_K)
        self._copies.after_take()
        return taken
