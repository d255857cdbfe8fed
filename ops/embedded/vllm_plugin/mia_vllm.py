"""vLLM's CPU platform with another way to apply adapters; a plug-in by vLLM's own interface.

Runs in the serve environment, found by the entry point beside it. Where vLLM would not run on its
plain CPU platform, it stays as it is.
"""

from vllm.platforms import cpu_platform_plugin
from vllm.platforms.cpu import CpuPlatform

__all__ = ["GroupedCpuPlatform", "platform"]

_PLAIN = "vllm.platforms.cpu.CpuPlatform"


def platform() -> str | None:
    """Return the class of the platform; None leaves vLLM to choose."""
    return f"{__name__}.GroupedCpuPlatform" if cpu_platform_plugin() == _PLAIN else None


class GroupedCpuPlatform(CpuPlatform):  # type: ignore[misc] # vLLM has no types here
    """The CPU platform, which applies each adapter to all of its tokens at once."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """Name who applies adapters."""
        return "mia_vllm_lora.GroupedLora"
