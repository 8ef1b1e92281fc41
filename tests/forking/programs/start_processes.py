"""Start a process by each of multiprocessing's methods, close, and say what the peer sees."""

from __future__ import annotations

import faulthandler
import multiprocessing
import socket
from multiprocessing.connection import Connection as Pipe

from socketkeep import Connection


def live_until_told(pipe: Pipe) -> None:
    pipe.send("started")
    pipe.poll(30)


def what_the_peer_sees(method: str, ours: socket.socket | Connection, peer: socket.socket) -> str:
    multiprocessing.set_start_method(method, force=True)
    word, childs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=live_until_told, args=(childs,))
    process.start()
    assert word.poll(30)
    word.recv()
    if isinstance(ours, Connection):
        ours.release()
    else:
        ours.close()
    try:
        return "EOF" if peer.recv(1) == b"" else "bytes"
    except TimeoutError:
        return "waits"
    finally:
        word.send("end")
        process.join(30)


def main() -> None:
    for method in ("fork", "spawn", "forkserver"):
        for kind in ("plain", "Connection"):
            with socket.create_server(("127.0.0.1", 0)) as server:
                peer = socket.create_connection(server.getsockname())
                accepted, _ = server.accept()
            peer.settimeout(0.3 if (method, kind) == ("fork", "plain") else 10)
            ours = Connection(accepted) if kind == "Connection" else accepted
            print(f"{method} {kind}: {what_the_peer_sees(method, ours, peer)}", flush=True)
            peer.close()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(12, exit=True)
    main()
