"""The ledger of a handler's doings since its last commit, and what the record says of them.

The record's status is how the keeper knows, without a message, what a crash has left.  So each step
that makes more uncertain is written before it is done: before bytes leave the kernel, before bytes
go out.
"""

from __future__ import annotations

from socketkeep._stream._record import AGAIN, CLEAN, READ, SENT, STATUS, Record, Status


class Ledger:
    """The account of one connection.

    read: bytes have left the kernel.  sent: the handler has sent.  pushes: how many sends from
    elsewhere are going out.  bound: this process alone has what is needed to go on, the keys of TLS
    or bytes that the kernel is thought to have.  disputed: a worker that died may have dealt with
    some of what is still to be committed, the next `doubtful` bytes from the kernel.  again: none
    of that has been committed yet.
    """

    __slots__ = ("again", "bound", "disputed", "doubtful", "pushes", "read", "record", "sent")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.read = self.sent = self.bound = self.disputed = self.again = False
        self.pushes = self.doubtful = 0

    @property
    def status(self) -> int:
        """Return what the record is to say."""
        if self.bound:
            return int(Status.BOUND)
        status = SENT if self.sent or self.pushes else READ if self.read else CLEAN
        return status | AGAIN if self.again else status

    def show(self) -> None:
        """Have the record say it.

        A thread that pushes writes it too.  Each looks again after it has written, so that the last
        to write has seen what the others changed.
        """
        while True:
            self.record[STATUS] = status = self.status
            if status == self.status:
                return

    def _show(self, status: int) -> None:
        """As `show`, where `status` is what to say if nothing out of the ordinary counts."""
        if not (self.pushes or self.bound or self.again):
            self.record[STATUS] = status
            if not self.pushes:  # begun meanwhile by another thread
                return
        self.show()

    def reading(self) -> None:
        """Note, before a system call takes bytes from the kernel, that it does."""
        self.read = True
        if not self.sent:
            self._show(READ)

    def read_nothing(self) -> None:
        """Take `reading` back: no byte came, and none is uncommitted."""
        self.read = self.disputed
        if not self.sent:
            self._show(READ if self.read else CLEAN)

    def sending(self) -> None:
        """Note, before the handler's own bytes go out, that they do."""
        self.sent = True
        self._show(SENT)

    def push_begins(self) -> None:
        """Note, before bytes from elsewhere go out, that they do."""
        self.pushes += 1
        self.show()

    def push_ends(self) -> None:
        """Note that they have gone out, or will not."""
        if self.pushes:  # not in a child that was forked meanwhile
            self.pushes -= 1
            self.show()

    def dispute(self, doubtful: int) -> None:
        """Note that a worker which died may have dealt with that many bytes of the kernel's."""
        self.disputed = True
        self.doubtful = doubtful

    def commit(self, *, unread: bool, left_kernel: int = 0) -> None:
        """Note that all is dealt with, but for bytes that are `unread`.

        left_kernel: how many bytes the commit itself has taken from the kernel.
        """
        if self.disputed:
            self.doubtful -= left_kernel
            self.disputed = self.doubtful > 0
        if left_kernel or not self.disputed:
            self.again = False  # a commit of nothing is none of the message of the death before
        self.sent = False
        self.read = unread or self.disputed
        self._show(READ if self.read else CLEAN)
