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

int
door_take(int listener, struct sockaddr_storage *address, socklen_t *size)
{
    int fd;

    do {
        *size = sizeof *address;
        fd = accept4(listener, (struct sockaddr *)address, size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (fd >= 0) {
        return fd;
    }
    if (!PyErr_Occurred()) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return DOOR_NOBODY;
        }
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return DOOR_FAILED;
}

PyObject *
door_told(int fd, const struct sockaddr_storage *address, socklen_t size)
{
    PyObject *peer = peer_of(address, size);
    PyObject *accepted = peer ? Py_BuildValue("iN", fd, peer) : NULL;

    if (!accepted) {
        close(fd);
    }
    return accepted;
}

PyObject *
door_accept(PyObject *Py_UNUSED(module), PyObject *listener)
{
    struct sockaddr_storage address;
    socklen_t size;
    int of = PyObject_AsFileDescriptor(listener), fd;

    if (of < 0) {
        return NULL;
    }
    fd = door_take(of, &address, &size);
    return fd < 0 ? core_done(fd == DOOR_FAILED) : door_told(fd, &address, size);
}
