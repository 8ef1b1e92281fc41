"""The files of --allow-file and --deny-file: networks, one a line, read anew by each reload."""

from __future__ import annotations

import os
import stat
from typing import Final

import msgspec

from socketkeep._base._mistakes import OptionError
from socketkeep._config._listener_options import check_networks
from socketkeep._config._server_options import ServeConfig

#: More would keep the keeper from its other work while it reads them.
_MOST_BYTES: Final = 4 << 20
_MOST_NETWORKS: Final = 50_000


class AddressLists(msgspec.Struct, frozen=True):
    """The networks of both files."""

    allow: list[str] = []
    deny: list[str] = []


NO_LISTS: Final = AddressLists()


def read_lists(config: ServeConfig) -> AddressLists:
    """Return what the files have.  Raises OptionError, whose text names the file and the line."""
    return AddressLists(
        _read(config.allow_file, "--allow-file"), _read(config.deny_file, "--deny-file")
    )


def _read(path: str, flag: str) -> list[str]:
    if not path:
        return []
    networks = []
    for number, line in enumerate(_text(path, flag).splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            check_networks([text])
        except ValueError as error:
            raise OptionError(f"{flag}: {path}, line {number}: {error}") from None
        networks.append(text)
    if len(networks) > _MOST_NETWORKS:
        raise OptionError(
            f"{flag}: {path} has {len(networks)} networks, and may have {_MOST_NETWORKS}"
        )
    return networks


def _text(path: str, flag: str) -> str:
    try:
        # Without waiting, should it be a named pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OptionError(f"{flag}: {path} is no regular file")
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{flag}: cannot read {path}: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise OptionError(f"{flag}: {path} has more than {_MOST_BYTES} bytes")
    return data.decode(errors="replace")
