"""The rights that a server serves with: what --user and its companions come to."""

from __future__ import annotations

import os

from socketkeep._base._accounts import Account, account_of, group_id
from socketkeep._base._mistakes import OptionError
from socketkeep._config._server_options import ServeConfig


def account_to_become(config: ServeConfig) -> Account | None:
    """Return who is to serve; None: who this process is already.  Raises OptionError."""
    if not config.user:
        return None
    try:
        if config.group:
            group_id(config.group)
    except ValueError as error:
        raise OptionError(f"--group: {error}") from None
    try:
        account = account_of(config.user, config.group)
    except ValueError as error:
        raise OptionError(f"--user: {error}") from None
    if account.uid == 0:
        raise OptionError("--user: root is who gives up rights: name another user")
    mine = os.geteuid()
    if mine == account.uid and os.getegid() == account.gid:
        return None
    if mine != 0:
        raise OptionError(
            f"--user: only root can become {account.text}, and this is uid {mine}: start the"
            " server as root, or as that user without --user"
        )
    return account
