"""What every measured port has in common: all but what is measured goes straight to the port itself."""

from typing import Any


class PortWrapper:
    """Stands for `inner`; subclasses define the methods that they measure."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
