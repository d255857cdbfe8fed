"""verl on a CPU: a platform registered by verl's own interface, and its engine for that device.

verl knows CUDA, ROCm and NPU. Where it asks a device module for what only accelerators have, this
one answers with the process's own figures, and forwards the rest to `torch.cpu`.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

_KIB = 1024


class _CpuModule(ModuleType):
    """`torch.cpu`, and the names of `torch.cuda` that verl's workers read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def memory_allocated(*_: object) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = memory_allocated

    @staticmethod
    def max_memory_allocated(*_: object) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB

    max_memory_reserved = max_memory_allocated

    @staticmethod
    def mem_get_info(*_: object) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @staticmethod
    def get_device_name(*_: object) -> str:
        return "CPU"

    @staticmethod
    def empty_cache() -> None:
        return None


class CpuPlatform(PlatformBase):  # type: ignore[misc] # verl has no types
    """The platform `cpu`: one device per process, collectives by gloo."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule("cpu_device")

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # named by VERL_PLATFORM, never guessed

    def current_device(self) -> str:
        return "cpu"  # a number would mean an accelerator to torch

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """Nothing: there is one."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing: calls return when they are done."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        """Nothing: the allocator is the system's."""

    def empty_cache(self) -> None:
        """Nothing: as above."""

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CPU_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """Nothing: torch's own profiler sees a CPU without help."""

    def profiler_stop(self) -> None:
        """Nothing: as above."""

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def register() -> None:
    """Make the platform and verl's FSDP engine for it known, before any worker is built."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    from verl.workers.engine import EngineRegistry, FSDPEngineWithLMHead  # noqa: PLC0415

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(
        FSDPEngineWithLMHead
    )


__all__ = ["CpuPlatform", "register"]
