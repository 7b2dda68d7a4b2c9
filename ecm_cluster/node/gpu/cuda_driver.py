"""The GPUs that this process sees, asked of NVIDIA's driver itself: no torch, so in a fraction of a second.

The functions and their numbers are those of the CUDA driver API (``cuda.h``).
"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE of cuda.h
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class DriverError(Exception):
    """The driver does not exist, or a call of it failed.

    Attributes:
        call: The function that failed; empty where the library could not be loaded.
        code: What it returned (``CUresult``).
    """

    def __init__(self, text: str, call: str = "", code: int = 0) -> None:
        super().__init__(text)
        self.call, self.code = call, code


@dataclass(frozen=True)
class Gpu:
    """A GPU, or an instance of one (MIG), as this process sees it.

    Attributes:
        uuid: Its identity on the node, regardless of its name in ``CUDA_VISIBLE_DEVICES``.
        capability: Compute capability, such as (9, 0).
        free, total: Memory in bytes; None where it was not asked for.
    """

    uuid: str
    name: str
    capability: tuple[int, int]
    free: int | None = None
    total: int | None = None


class Driver:
    """The driver's library, initialised.

    Raises:
        DriverError: It is not installed, or sees no GPU, or does not work.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise DriverError(f"the NVIDIA driver's library cannot be loaded ({error})") from None
        self._call("cuInit", 0)

    def version(self) -> tuple[int, int]:
        """The newest CUDA release that the driver supports, such as (12, 8)."""
        number = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def gpus(self) -> list[Gpu]:
        """All that this process may use, in the order of their indices."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return [self._describe(self._device(index)) for index in range(count.value)]

    def with_memory(self, index: int) -> Gpu:
        """One GPU with its memory; that takes a context on it, so a GPU that does not work is noticed.

        Raises:
            DriverError: The GPU cannot be used.
        """
        device, context = self._device(index), ctypes.c_void_p()
        gpu = self._describe(device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self._call("cuCtxSetCurrent", context)
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            self._call("cuMemGetInfo", ctypes.byref(free), ctypes.byref(total), version=2)
        finally:
            self._call("cuDevicePrimaryCtxRelease", device, version=2)
        return Gpu(gpu.uuid, gpu.name, gpu.capability, free.value, total.value)

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), index)
        return device

    def _describe(self, device: ctypes.c_int) -> Gpu:
        name, identity = ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDeviceGetUuid", identity, device, version=2)  # the second version tells instances (MIG) apart
        numbers = []
        for attribute in COMPUTE_CAPABILITY:
            number = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
            numbers.append(number.value)
        return Gpu(str(uuid.UUID(bytes=bytes(identity))), name.value.decode(errors="replace"), (numbers[0], numbers[1]))

    def _call(self, name: str, *args: Any, version: int = 1) -> None:
        """Call a function, its newer version where the driver has that.

        Raises:
            DriverError: It does not return 0.
        """
        newer = getattr(self._library, f"{name}_v{version}", None) if version > 1 else None
        code = (newer or getattr(self._library, name))(*args)
        if code:
            raise DriverError(f"{name} failed: {self._text(code)}", name, code)

    def _text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return f"{(text.value or b'unknown error').decode(errors='replace')} ({code})"
