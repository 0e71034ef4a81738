"""Two coordinators as one: first among the workers of this machine, then among nodes."""

from __future__ import annotations

import time

from api_relaying_server.coordination import Coordinator, Hear, Lease, Message


class ChainedCoordinator:
    """A coordinator whose leases need one of `near`, then one of `far`."""

    def __init__(self, near: Coordinator, far: Coordinator) -> None:
        self._near = near
        self._far = far

    def lease(self, name: str, wait: float) -> Lease | None:
        """Both leases as one."""
        until = time.monotonic() + wait
        near = self._near.lease(name, wait)
        if near is None:
            return None
        far = self._far.lease(name, max(0.0, until - time.monotonic()))
        if far is None:
            near.release()
            return None
        return _ChainedLease(near, far)

    def is_leased(self, name: str) -> bool:
        """Where either sees it."""
        return self._near.is_leased(name) or self._far.is_leased(name)

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """Tells both."""
        near = self._near.tell(message, wait)
        return self._far.tell(message, wait) and near

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """Hears both."""
        self._near.on_message(hear, near)
        self._far.on_message(hear)

    def catch_up(self) -> None:
        """Catches up with both."""
        self._near.catch_up()
        self._far.catch_up()

    def close(self) -> None:
        """Closes both."""
        self._far.close()
        self._near.close()


class _ChainedLease:
    """Two leases as one."""

    def __init__(self, near: Lease, far: Lease) -> None:
        self._near = near
        self._far = far

    @property
    def waited(self) -> bool:
        """True where another process held one of them first."""
        return self._near.waited or self._far.waited

    @property
    def unheard(self) -> bool:
        """True where a message from either side may not have come yet."""
        return self._near.unheard or self._far.unheard

    def release(self) -> None:
        """Releases both."""
        self._far.release()
        self._near.release()
