"""Certificates and keys anew: when it is asked for, and when the files change."""

from __future__ import annotations

from collections.abc import Sequence

from socketkeep._base import _log
from socketkeep._base._file_stamps import FileStamps
from socketkeep._edge._certificates import BadTls
from socketkeep._edge._clients import Listening


class CertificateRenewal:
    """Keeps what listeners read from files as it is there.

    What is no good when it is read anew is said once, and leaves all as it was.
    """

    def __init__(self, listening: Sequence[Listening], *, looks: bool = True) -> None:
        """looks: at the files, for changes; not where they come from the keeper, which does."""
        self._listening = listening
        self._stamps = {
            each.number: FileStamps(each.tls.files if looks else ()) for each in listening
        }

    def renew(self) -> None:
        """Read all files anew."""
        for each in self._listening:
            self._stamps[each.number].note()
            self._renew(each)

    def look(self) -> None:
        """Read anew what has changed; to be called now and then."""
        for each in self._listening:
            if self._stamps[each.number].have_changed():
                self._renew(each)

    def _renew(self, each: Listening) -> None:
        try:
            changed = each.tls.renew()
        except BadTls as error:
            _log.error(
                "certificates not renewed: those before stay", listener=each.text, error=str(error)
            )
        else:
            if changed:
                _log.info("certificates renewed", listener=each.text)
