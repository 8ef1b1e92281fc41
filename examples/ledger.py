"""A bank that keeps its accounts in SQLite: each payment is made once, whoever is killed meanwhile.

Start it, and pay::

    LEDGER=bank.db socketkeep serve examples/ledger.py:handle -b 127.0.0.1:7000 --keep crash
    printf 'open alice 100\nopen bob 0\npay alice bob 30\nbalance bob\n' | nc -N 127.0.0.1 7000

What is done to the database and what is said to the peer are two things, and a worker may die
between them: then the message comes again.  `conn.id` and `conn.received` name it, the same each
time, and the database notes under that name what it has answered, in the transaction that does it.

Each line is a command, and each gets a line: ``open NAME AMOUNT``, ``pay FROM TO AMOUNT``,
``balance NAME``, ``total``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Final

from socketkeep import Connection, resumable

MOST: Final = 10**12
TABLES: Final = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS answered (connection TEXT PRIMARY KEY, received INTEGER, reply BLOB);
"""


class Refused(Exception):
    """It is not done, and the text says why."""


def open_bank() -> sqlite3.Connection:
    """Open the database, and make it if there is none."""
    bank = sqlite3.connect(os.environ.get("LEDGER", "ledger.db"), timeout=30, isolation_level=None)
    bank.executescript(TABLES)
    return bank


def balance(bank: sqlite3.Connection, name: str) -> int:
    """Return what an account has."""
    found = bank.execute("SELECT balance FROM accounts WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise Refused(f"there is no account {name!r}")
    return int(found[0])


def amount(text: str) -> int:
    """Return how much that is."""
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MOST:
        raise Refused(f"an amount is a number up to {MOST}, not {text!r}")
    return int(text)


def carry_out(bank: sqlite3.Connection, words: list[str]) -> str:
    """Do what a line says, and return what there is to say of it."""
    match words:
        case ["open", name, text]:
            if bank.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
                raise Refused(f"there is an account {name!r} already")
            bank.execute("INSERT INTO accounts VALUES (?, ?)", (name, amount(text)))
            return "opened"
        case ["pay", payer, payee, text]:
            paid = amount(text)
            balance(bank, payee)
            if balance(bank, payer) < paid:
                raise Refused(f"{payer!r} has less")
            change = "UPDATE accounts SET balance = balance + ? WHERE name = ?"
            bank.execute(change, (-paid, payer))
            bank.execute(change, (paid, payee))
            return f"paid {balance(bank, payer)}"
        case ["balance", name]:
            return str(balance(bank, name))
        case ["total"]:
            return str(bank.execute("SELECT coalesce(sum(balance), 0) FROM accounts").fetchone()[0])
    raise Refused("say open NAME AMOUNT, pay FROM TO AMOUNT, balance NAME or total")


def answer(bank: sqlite3.Connection, conn: Connection, line: bytes) -> bytes:
    """Do what a line says, unless that has been done, and return the reply."""
    bank.execute("BEGIN IMMEDIATE")
    with bank:  # commits, or rolls back
        before = bank.execute(
            "SELECT reply FROM answered WHERE connection = ? AND received = ?",
            (conn.id, conn.received),
        ).fetchone()
        if before is not None:
            return bytes(before[0])
        try:
            reply = carry_out(bank, line.decode(errors="replace").split())
        except Refused as refusal:
            reply = f"refused: {refusal}"
        said = reply.encode() + b"\n"
        # The last one of each connection is enough: the one before it is committed there, too.
        bank.execute(
            "INSERT OR REPLACE INTO answered VALUES (?, ?, ?)", (conn.id, conn.received, said)
        )
        return said


@resumable(redeliver=True)
def handle(conn: Connection) -> None:
    """Answer each line once."""
    with closing(open_bank()) as bank:
        for line in conn.lines(max=1000):
            conn.reply(answer(bank, conn, line))
