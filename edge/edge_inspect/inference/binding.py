"""A loaded network with its input and output fixed in memory: write `input`, call `run`, read `output`.

1. `input` (bytes) and `output` (float32) are numpy arrays whose addresses never change; the runtime reads and writes
   them itself.
2. `run` does nothing but run: no binding, no copy by us on the CPU, exactly two copies (in, out) on a GPU.
3. `provider` is what really computes, not what was asked for.

Kept apart by memory: `CpuBinding` (ONNX Runtime, any provider that reads the CPU's memory), `CudaBinding` (ONNX
Runtime, device memory with page-locked host memory before and behind it), `OpenVinoBinding` (OpenVINO's own runtime).
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_inspect.inference.byte_input import PIXELS
from edge_wire.manifest import Variant

PAGE_BYTES = 4096
Number = TypeVar("Number", np.uint8, np.float32)
Array = NDArray[np.uint8] | NDArray[np.float32]


class Binding(Protocol):
    """What an engine runs."""

    provider: str
    input: NDArray[np.uint8]
    """(1, 3, height, width), RGB"""
    output: NDArray[np.float32]

    def run(self) -> None: ...

    def close(self) -> None: ...


class CpuBinding:
    """ONNX Runtime over our own memory: the tensors are views of `input` and `output`, which no run allocates."""

    def __init__(self, ort: Any, session: Any, variant: Variant, provider: str) -> None:
        self.provider = provider
        self.input = aligned(variant.input.shape, np.uint8)
        self.output = aligned(variant.output.shape, np.float32)
        self._session = session
        self._io = session.io_binding()
        self._io.bind_ortvalue_input(PIXELS, ort.OrtValue.ortvalue_from_numpy(self.input))
        self._io.bind_ortvalue_output(variant.output.name, ort.OrtValue.ortvalue_from_numpy(self.output))

    def run(self) -> None:
        self._session.run_with_iobinding(self._io)

    def close(self) -> None:
        self._io = self._session = None


class CudaBinding:
    """Device tensors at fixed addresses (CUDA graphs need that), page-locked host arrays on both sides.

    Any CUDA error raises RuntimeError and must end the process: a poisoned context keeps answering wrongly.
    """

    def __init__(self, ort: Any, session: Any, variant: Variant, provider: str) -> None:
        self.provider = provider
        self.input = aligned(variant.input.shape, np.uint8)
        self.output = aligned(variant.output.shape, np.float32)
        self._cuda = CudaRuntime()
        self._cuda.lock_pages(self.input)
        self._cuda.lock_pages(self.output)
        self._device_input = ort.OrtValue.ortvalue_from_numpy(self.input, "cuda", 0)
        self._device_output = ort.OrtValue.ortvalue_from_numpy(self.output, "cuda", 0)
        self._session = session
        self._io = session.io_binding()
        self._io.bind_ortvalue_input(PIXELS, self._device_input)
        self._io.bind_ortvalue_output(variant.output.name, self._device_output)

    def run(self) -> None:
        self._cuda.to_device(self._device_input.data_ptr(), self.input)
        self._session.run_with_iobinding(self._io)  # returns when the GPU is done
        self._cuda.to_host(self.output, self._device_output.data_ptr())

    def close(self) -> None:
        if self._session is not None:
            self._io = self._session = self._device_input = self._device_output = None
            self._cuda.unlock_pages(self.input)
            self._cuda.unlock_pages(self.output)


class OpenVinoBinding:
    """OpenVINO's own runtime over our memory; for CPUs that its ONNX Runtime plugin does not offer itself on."""

    def __init__(self, openvino: Any, compiled: Any, variant: Variant) -> None:
        self.provider = "openvino"
        self.input = aligned(variant.input.shape, np.uint8)
        self.output = aligned(variant.output.shape, np.float32)
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(self.output, shared_memory=True))

    def run(self) -> None:
        self._request.start_async()  # infer() would wrap every output in a new object
        self._request.wait()

    def close(self) -> None:
        self._request = None


class CudaRuntime:
    """The four functions of libcudart that ONNX Runtime's Python API has no allocation-free form of."""

    _TO_DEVICE, _TO_HOST = 1, 2

    def __init__(self) -> None:
        self._lib = _load_cudart()
        self._lib.cudaGetErrorString.restype = ctypes.c_char_p
        self._lib.cudaMemcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._lib.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        self._lib.cudaHostUnregister.argtypes = [ctypes.c_void_p]

    def lock_pages(self, array: Array) -> None:
        self._check("cudaHostRegister", self._lib.cudaHostRegister(array.ctypes.data, array.nbytes, 0))

    def unlock_pages(self, array: Array) -> None:
        self._check("cudaHostUnregister", self._lib.cudaHostUnregister(array.ctypes.data))

    def to_device(self, address: int, array: Array) -> None:
        self._check("cudaMemcpy", self._lib.cudaMemcpy(address, array.ctypes.data, array.nbytes, self._TO_DEVICE))

    def to_host(self, array: Array, address: int) -> None:
        self._check("cudaMemcpy", self._lib.cudaMemcpy(array.ctypes.data, address, array.nbytes, self._TO_HOST))

    def _check(self, what: str, code: int) -> None:
        if code:
            raise RuntimeError(f"{what} failed: {self._lib.cudaGetErrorString(code).decode()}")


def _load_cudart() -> ctypes.CDLL:
    """The one that ONNX Runtime has already loaded into this process, whichever its version."""
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError("libcudart is not loaded although the CUDA provider is")


def aligned(shape: tuple[int, ...], dtype: type[Number]) -> NDArray[Number]:
    """Zeros that start on a page: what runtimes map without a copy and CUDA can lock."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + PAGE_BYTES, np.uint8)
    start = -raw.ctypes.data % PAGE_BYTES
    return raw[start : start + size].view(dtype).reshape(shape)
