"""The snapshot that a process makes of its memory, to be forked from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.cores import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason="a snapshot is taken in C")

NAME = "memfd:socketkeep fork snapshot"

BEGINNING = f"""
import ctypes, gc, json, os, random, sys, threading
from socketkeep._native import core

libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype = ctypes.c_void_p

def taken():
    with open("/proc/self/maps") as maps:
        return [line.split()[0].split("-") for line in maps if "{NAME}" in line]

def is_taken(address):
    return any(int(start, 16) <= address < int(end, 16) for start, end in taken())

def refusal():
    before = open("/proc/self/maps").read().count("{NAME}")
    try:
        core.take_snapshot()
    except RuntimeError as error:
        assert len(taken()) == before
        return str(error)
    raise AssertionError("it was taken")

def in_child(call):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

KEPT = """
data = {number: [str(number), {"of": number * 1.5}] for number in range(50000)}
said = json.dumps(data)
resident = sum(int(end, 16) - int(start, 16) for start, end in taken())
assert resident == 0
size = core.take_snapshot()
assert size > 8 << 20, size
assert size == sum(int(end, 16) - int(start, 16) for start, end in taken())
chunk = libc.malloc(100)
for address in id(data[40000]), id(data[3][1]), id(None), chunk:
    assert is_taken(address), hex(address)
assert not is_taken(ctypes.addressof(ctypes.c_int.in_dll(libc, "timezone"))), "of the C library"
assert json.dumps(data) == said, "all is as it was"

# Who writes has a page of its own.
data["both"] = "parent"
def child():
    assert json.dumps({key: data[key] for key in data if key != "both"}) == said
    assert data["both"] == "parent"
    data["both"] = "child"
    data[7][1]["of"] = "child"
    for number in range(0, 50000, 5):
        data[number].append(number)
    del data[9]
    assert gc.collect() >= 0
    ran = []
    threads = [threading.Thread(target=ran.append, args=(each,)) for each in range(4)]
    for each in threads: each.start()
    for each in threads: each.join()
    assert sorted(ran) == [0, 1, 2, 3]
    in_child(lambda: data.update(both="grandchild"))
    assert data["both"] == "child"
in_child(child)
assert data.pop("both") == "parent"
assert json.dumps(data) == said
random.seed(1)
first = random.random()
random.seed(1)
assert random.random() == first
"""

GROWS_AND_SHRINKS = """
blocks = [libc.malloc(100_000) for _ in range(300)]
for block in blocks[:150]:
    ctypes.memset(block, 0xff, 100_000)
freed = [libc.malloc(3000) for _ in range(3000)]
held = [bytes(300) for _ in range(100_000)]
size = core.take_snapshot()
assert all(map(is_taken, (blocks[7], freed[9], id(held[5000]))))

def as_before():
    assert all(libc.memcmp(ctypes.c_void_p(block), b"\\xff" * 100_000, 100_000) == 0
               for block in blocks[:150])

as_before()
for block in freed + blocks[150:]:
    libc.free(ctypes.c_void_p(block))
del held
gc.collect()
assert libc.malloc_trim(0) == 1
# What was free and is given back has its old bytes, and calloc clears it all the same.
libc.calloc.restype = ctypes.c_void_p
for each in range(6000):
    block = libc.calloc(1, 2900)
    assert libc.memcmp(ctypes.c_void_p(block), bytes(2900), 2900) == 0
for _ in range(3):
    large = [bytearray(1000) for _ in range(100_000)]
    assert not any(map(any, large[::501]))
    for each in large: each[:] = b"x" * 1000
    del large, each
    gc.collect()
    libc.malloc_trim(0)
as_before()
in_child(as_before)
assert core.take_snapshot() > 0, "of what came since"
as_before()
in_child(as_before)
"""

REFUSED = """
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
assert refusal() == "the process has 2 threads"
ended.set()
thread.join()
page = (id(libc) + 4095) & ~4095
assert libc.mlock(ctypes.c_void_p(page), 4096) == 0
assert refusal() == "memory of the process is locked (mlock)"
libc.munlock(ctypes.c_void_p(page), 4096)
chunk = libc.malloc(100)
assert libc.madvise(ctypes.c_void_p(chunk & ~4095), 4096, 10) == 0  # MADV_DONTFORK
assert refusal() == "memory of the heap is of a special kind (dc in /proc/PID/smaps)"
assert libc.madvise(ctypes.c_void_p(chunk & ~4095), 4096, 11) == 0  # MADV_DOFORK
import resource
most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most[1]))
assert refusal() == "memory cannot be copied: File too large"
resource.setrlimit(resource.RLIMIT_FSIZE, most)
assert core.take_snapshot() > 0
"""


def run(program: str, **environment: str) -> None:
    """Run it in a process of its own, on the interpreter's own allocator."""
    environment = {**os.environ, "PYTHONMALLOC": "", "LD_PRELOAD": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [KEPT, GROWS_AND_SHRINKS, REFUSED], ids=["kept", "grows", "no"])
def test_a_process_goes_on(program: str) -> None:
    run(program)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_another_malloc_has_memory_of_its_own(tmp_path: Path) -> None:
    library = tmp_path / "own.so"
    (tmp_path / "own.c").write_text(
        "#include <stddef.h>\nvoid *__libc_malloc(size_t);\n"
        "void *malloc(size_t size) { return __libc_malloc(size); }\n"
    )
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "own.c"], check=True, timeout=60
    )
    run('assert refusal() == "malloc is not the C library\'s"', LD_PRELOAD=str(library))
