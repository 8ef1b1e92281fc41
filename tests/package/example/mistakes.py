"""What a type checker is to refuse: each line that says so, and no other."""

from socketkeep import AsyncConnection, Connection, Service, Timeout, connect, resumable


def handle(conn: Connection) -> None:
    conn.send("text")  # mistake
    conn.mode = 2.5  # mistake
    conn.no_such_verb()  # mistake
    size: str = conn.recv()  # mistake
    conn.recv_until(b"\n", maximum=3)  # mistake
    print(size)


async def handle_async(conn: AsyncConnection) -> None:
    for _ in conn.lines():  # mistake
        pass
    data: bytes = conn.recv()  # mistake
    print(data)


Timeout("a second")  # mistake
connect(7000)  # mistake
Service()  # mistake


@resumable(on_crash="retry")  # mistake
def resumed(conn: Connection) -> None:
    conn.commit()
