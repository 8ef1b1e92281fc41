"""Which of CPython's tests are run, and which are left out, each with the reason."""

from __future__ import annotations

from typing import Final

#: Modules and classes of the `test` package, as unittest's loader takes them.
SELECTED: Final = (
    "test.test_socket",
    "test.test_socketserver",
    # The third class of the module, TCPTimeoutTestCase, connects to hosts on the internet.
    "test.test_timeout.CreationTestCase",
    "test.test_timeout.UDPTimeoutTestCase",
    "test.test_asyncio.test_base_events",
    "test.test_asyncio.test_buffered_proto",
    # The module runs the same tests over two more selectors, and others that have no socket.
    "test.test_asyncio.test_events.EPollEventLoopTests",
    "test.test_asyncio.test_selector_events",
    "test.test_asyncio.test_sendfile",
    "test.test_asyncio.test_server",
    "test.test_asyncio.test_sock_lowlevel",
    "test.test_asyncio.test_ssl",
    "test.test_asyncio.test_sslproto",
    "test.test_asyncio.test_streams",
    "test.test_asyncio.test_unix_events",
)

#: The beginning of a test's id -> why it is not run.
LEFT_OUT: Final = {
    "test.test_socket.ThreadedVSOCKSocketStreamTest.": (
        "connects through the hypervisor, and waits for ever where that does not pass it on"
    ),
    "test.test_socket.GeneralModuleTests.test_idna": "asks for a name on the internet",
    "test.test_socket.GeneralModuleTests.testHostnameRes": (
        "asks the name server for the machine's own name; no socket object takes part"
    ),
}

#: The beginning of a test's id -> why the two runs of it may not be at the same time.
ALONE: Final = {
    "test.test_socket.TestLinuxAbstractNamespace.": "binds fixed names in the abstract namespace",
}
