/* Accepting: accept4(2), and the peer's address as people read it; of `_worker/_accepting.Door`.

   It owns nothing.  The descriptor is non-blocking and close-on-exec from the beginning. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Its text; the name of a Unix socket, which is the peer's to choose, as it is: that is for Python. */
static PyObject *
peer_of(const struct sockaddr_storage *address, socklen_t size)
{
    char text[PEER_SIZE];

    if (address->ss_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path)) {
        const struct sockaddr_un *named = (const struct sockaddr_un *)address;
        size_t length = size - offsetof(struct sockaddr_un, sun_path);

        if (named->sun_path[0]) {
            length = strnlen(named->sun_path, length);
        }
        return PyBytes_FromStringAndSize(named->sun_path, (Py_ssize_t)length);
    }
    board_peer(text, address);
    return PyUnicode_FromString(text);
}

PyObject *
door_accept(PyObject *Py_UNUSED(module), PyObject *listener)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int of = PyObject_AsFileDescriptor(listener), fd;
    PyObject *peer, *accepted;

    if (of < 0) {
        return NULL;
    }
    do {
        fd = accept4(of, (struct sockaddr *)&address, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (fd < 0) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            Py_RETURN_NONE;
        }
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    peer = peer_of(&address, size);
    accepted = peer ? Py_BuildValue("iN", fd, peer) : NULL;
    if (!accepted) {
        close(fd);
    }
    return accepted;
}
