"""Base class of the wrappers that measure or trace a port."""

from typing import Any, Generic, TypeVar

Port = TypeVar("Port")


class PortWrapper(Generic[Port]):
    """Passes everything to `inner`, except the methods that a subclass defines."""

    def __init__(self, inner: Port):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
