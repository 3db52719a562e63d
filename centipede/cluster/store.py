"""Store: the thread that keeps a member registered in etcd, puts its records and looks for those of others.

The control thread leaves what is to be put and claimed, takes what was seen, and waits for nothing. With the store gone
the thread tries again each second; what was left to put meanwhile stays, the newest for each name.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from centipede.cluster.etcd import MOST_RECORDS, Etcd, Range, StoreError
from centipede.cluster.registry import GRANT_S, MOST_OFFERED, RECORD_S, View

ROUND_S = 1.0
LEASE_S = 10
"""A member that the store did not hear of for this long is no longer registered."""
BORN_BYTES = 16
_GOODBYE_S = 1.0
"""The end of the daemon waits at most this long for the store."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The store does not do as it is asked."""

    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A record to be put, or a name to be counted (``value`` is None), in this store and in no other."""

    name: str
    store: bytes
    value: bytes | None = None
    until: float = float("inf")
    """By the monotonic clock. Then its sessions are over, and the store may have forgotten what it counted of them."""


class Keeper:
    """What is to be done with the store, without the thread. One round each second."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        name: str,
        registration: bytes,
        is_own: Callable[[bytes], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Names go below ``prefix``. ``registration`` is put under ``name`` unless another's is there."""
        self._clock = clock
        self._etcd = etcd
        self._prefix = prefix
        self._name = name
        self._registration = registration
        self._is_own = is_own
        self._lease = 0
        self._registered = False
        self._born = b""
        self._losses = 0
        self._revision = 0
        """Of the last look."""
        self._since = 0
        # What a round that failed on the way had seen.
        self._anew = False
        self._found: list[tuple[str, bytes]] = []
        self._grants: list[tuple[str, int]] = []

    def round(self, left: dict[str, Left]) -> View:
        """Look, keep the registration, put and count what was left. What is done is taken out of ``left``.

        What cannot be done within ``ROUND_S`` is for the next round, or the registration would end meanwhile.
        Raises StoreError if it shows nothing; the next round goes on where this one failed.
        """
        until = self._clock() + ROUND_S
        members, more = self._look()  # first: nothing of one store may be put into another
        while more and self._clock() < until:
            members, more = self._look()
        # Whoever took or removed it may have been the thread of a life before, which ended late.
        self._registered = self._registered and members.get(self._name) == self._registration
        there, reason = members.get(self._name), ""
        holder = None if there is None or self._is_own(there) else there
        try:
            holder = self._keep_registered()
            self._put(left, until)
        except StoreError as error:  # as one that is full: what it shows is good all the same
            reason = str(error)
        view = View(self._store, members, tuple(self._found), tuple(self._grants), holder, self._anew, reason)
        self._found, self._grants, self._anew = [], [], False
        return view

    @property
    def _store(self) -> bytes:
        return self._born + self._losses.to_bytes(4, "big")

    def _lose(self) -> None:
        """What was put and counted until now may be forgotten."""
        self._losses += 1
        self._anew = True
        self._found, self._grants = [], []
        self._since = 0

    def _keep_registered(self) -> bytes | None:
        """Gives the registration of whoever has the member's number in its place."""
        if self._lease and not self._etcd.keep_alive(self._lease):
            # For how long nobody knows: this machine may have stood still with all its clocks, and what is young by
            # them be older than what the store remembers.
            self._lease = 0
            self._lose()
        if not self._lease:
            self._registered = False
            self._lease = self._etcd.grant(LEASE_S)
        holder = None
        if not self._registered:
            holder = self._register()
            if holder is None:
                self._registered = self._anew = True
        return holder

    def _put(self, left: dict[str, Left], until: float) -> None:
        for name in [name for name, each in left.items() if each.store != self._store or each.until <= until]:
            del left[name]
        if not self._registered:
            return
        registered = self._prefix + self._name, self._registration  # is asked for at the same moment
        records = counts = 0  # the leases of this round
        for name, each in sorted(left.items(), key=lambda item: item[1].value is not None):  # a claim is waited for
            if each.value is not None:
                records = records or self._etcd.grant(RECORD_S)
                self._registered = self._etcd.put(self._prefix + name, each.value, records, registered)
            else:
                counts = counts or self._etcd.grant(GRANT_S)
                count = self._etcd.count(self._prefix + name, b"", counts, registered)
                self._registered = count is not None
                self._grants += [] if count is None else [(name, count)]
            if not self._registered:  # what is left is for a round that finds out why
                break
            del left[name]
            if self._clock() >= until:
                break

    def leave(self) -> None:
        """Let the others see at once that this member is gone."""
        if self._lease:
            self._etcd.revoke(self._lease)

    def _register(self) -> bytes | None:
        """Take the member's number. Gives the registration of whoever has it."""
        there = self._etcd.create(self._prefix + self._name, self._registration, self._lease)
        if there is None:
            return None
        if self._is_own(there.value) and self._etcd.replace(there, self._registration, self._lease):
            return None
        return there.value

    def _look(self) -> tuple[dict[str, bytes], bool]:
        """All registrations, and whether there may be further records.

        Keeps the records that are new, and notices a store that is another than before.
        """
        born, members, sessions = (self._prefix + each for each in ("born", "members/", "sessions/"))
        found = self._etcd.look([Range(born), Range(members), Range(sessions, self._since)])
        marks, registered, records = found.ranges
        mark = marks[0].value[:BORN_BYTES] if marks else self._make_mark(born)
        if found.revision < self._revision or mark != self._born:
            # made anew, or put back to an earlier state: it may have forgotten what it counted
            self._born = mark
            if self._since:  # not all of its records were looked for
                records = ()
            self._lose()
        self._revision = found.revision
        if records:
            self._since = records[-1].revision + 1
        self._found += ((each.key.removeprefix(self._prefix), each.value) for each in records)
        del self._found[:-MOST_OFFERED]
        return {each.key.removeprefix(self._prefix): each.value for each in registered}, len(records) == MOST_RECORDS

    def _make_mark(self, born: str) -> bytes:
        """What tells this store from one that was made anew: whoever comes first puts it there."""
        own = secrets.token_bytes(BORN_BYTES)
        there = self._etcd.create(born, own, 0)
        return own if there is None else there.value[:BORN_BYTES]


class Store:
    """The thread, and what passes between it and the control thread."""

    def __init__(self, keeper: Keeper, etcd: Etcd) -> None:
        self._keeper = keeper
        self._etcd = etcd
        self._lock = threading.Lock()
        """Held for a moment only, never over a request."""
        self._left: dict[str, Left] = {}
        self._seen: queue.SimpleQueue[View | Gone] = queue.SimpleQueue()
        self._ended = threading.Event()
        # A daemon thread: a request can hang for seconds and must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Say good-bye to the store if it answers within a second."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_GOODBYE_S)

    def leave(self, left: Iterable[Left]) -> None:
        """Leave what is to be put or counted, in place of what was left under the same name."""
        with self._lock:
            self._left.update((each.name, each) for each in left)

    def seen(self) -> list[View | Gone]:
        """What happened since, in order."""
        taken = []
        while not self._seen.empty():
            taken.append(self._seen.get())
        return taken

    def _work(self) -> None:
        left: dict[str, Left] = {}
        while not self._ended.is_set():
            with self._lock:
                left.update(self._left)
                self._left.clear()
            try:
                self._seen.put(self._keeper.round(left))
            except StoreError as error:
                self._seen.put(Gone(str(error)))
            self._ended.wait(ROUND_S)
        with suppress(StoreError):  # the lease ends by itself
            self._keeper.leave()
        self._etcd.close()
