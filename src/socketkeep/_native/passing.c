/* Packets with descriptors, from one process to another (SCM_RIGHTS): the twin of `send` and `receive` of
   `_base/_passing.py`.

   It owns the room that a packet is received into, one for the module: what has come is copied out of it
   before the interpreter's lock is given up.  Nothing here waits. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_RIGHTS = 253 }; /* SCM_MAX_FD of the kernel */

/* Where a control message stands that has so many descriptors, or more. */
typedef union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MOST_RIGHTS * sizeof(int))];
} Control;

/* The descriptor of a socket; -1: an error is set. */
static int
descriptor_of(State *state, PyObject *sock)
{
    PyObject *number = PyObject_CallMethodNoArgs(sock, state->names[FILENO]);
    long fd = number ? PyLong_AsLong(number) : -1;

    Py_XDECREF(number);
    if (fd < 0 || fd > INT_MAX) {
        if (!PyErr_Occurred()) {
            errno = EBADF;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        return -1;
    }
    return (int)fd;
}

/* Put descriptors beside a packet; -1: an error is set. */
static int
put_rights(struct msghdr *message, Control *control, PyObject *descriptors)
{
    PyObject *list = PySequence_Fast(descriptors, "descriptors are a sequence");
    Py_ssize_t count = list ? PySequence_Fast_GET_SIZE(list) : 0;
    struct cmsghdr *header = &control->align; /* the first */

    if (!list) {
        return -1;
    }
    if (count > MOST_RIGHTS) {
        errno = EINVAL; /* as the kernel says */
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (count) {
        memset(control, 0, CMSG_SPACE((size_t)count * sizeof(int)));
        message->msg_control = control;
        message->msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        for (Py_ssize_t each = 0; each < count; each++) {
            long number = PyLong_AsLong(PySequence_Fast_GET_ITEM(list, each));
            int fd = (int)number;

            if (fd != number) {
                PyErr_SetString(PyExc_OverflowError, "there is no descriptor of that number");
            }
            memcpy(CMSG_DATA(header) + each * (Py_ssize_t)sizeof fd, &fd, sizeof fd);
        }
    }
    Py_DECREF(list);
    return PyErr_Occurred() ? -1 : 0;
}

PyObject *
passing_send(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    struct msghdr message = {.msg_iovlen = 1};
    struct iovec piece;
    Py_buffer payload;
    Control control;
    ssize_t sent;
    int fd;

    if (given < 2 || given > 3) {
        return PyErr_Format(PyExc_TypeError, "send_packet() takes 2 or 3 arguments (%zd given)", given);
    }
    fd = descriptor_of(PyModule_GetState(module), args[0]);
    if (fd < 0 || (given == 3 && put_rights(&message, &control, args[2]) < 0) ||
        PyObject_GetBuffer(args[1], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    piece = (struct iovec){payload.buf, (size_t)payload.len};
    message.msg_iov = &piece;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    PyBuffer_Release(&payload);
    if (sent < 0) {
        return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromSsize_t(sent);
}

/* Go through the descriptors that came: append them to the list, or close them where there is none. */
static int
take_rights(struct msghdr *message, PyObject *list)
{
    int failed = 0;

    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        size_t size = header->cmsg_len < CMSG_LEN(0) ? 0 : header->cmsg_len - CMSG_LEN(0);

        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t each = 0; each < size / sizeof(int); each++) {
            PyObject *number;
            int fd;

            memcpy(&fd, CMSG_DATA(header) + each * sizeof fd, sizeof fd);
            number = list && !failed ? PyLong_FromLong(fd) : NULL;
            if (!number || PyList_Append(list, number) < 0) {
                failed = 1;
                close(fd);
            }
            Py_XDECREF(number);
        }
    }
    return failed ? -1 : 0;
}

/* A packet as Python has it; NULL: an error is set, and what came with it is closed. */
static PyObject *
packet(PyTypeObject *kind, const char *data, Py_ssize_t size, struct msghdr *message)
{
    PyObject *whole = kind->tp_alloc(kind, 3), *bytes = whole ? PyBytes_FromStringAndSize(data, size) : NULL;
    PyObject *fds = bytes ? PyList_New(0) : NULL;

    if (take_rights(message, fds) < 0 && fds) {
        for (Py_ssize_t each = 0; each < PyList_GET_SIZE(fds); each++) {
            close((int)PyLong_AsLong(PyList_GET_ITEM(fds, each)));
        }
        Py_CLEAR(fds);
    }
    if (!fds) {
        Py_XDECREF(whole);
        Py_XDECREF(bytes);
        return NULL;
    }
    PyTuple_SET_ITEM(whole, 0, bytes);
    PyTuple_SET_ITEM(whole, 1, fds);
    PyTuple_SET_ITEM(whole, 2, PyBool_FromLong(message->msg_flags & MSG_CTRUNC));
    return whole;
}

PyObject *
passing_receive(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    State *state = PyModule_GetState(module);
    struct msghdr message = {.msg_iovlen = 1};
    Py_ssize_t size = PACKET_SIZE;
    char *room = state->packet;
    struct iovec piece;
    Control control;
    PyObject *whole;
    ssize_t came;
    int fd;

    if (given < 2 || given > 3 || !PyType_Check(args[0]) ||
        !PyType_IsSubtype((PyTypeObject *)args[0], &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "receive_packet() takes a class of tuples, a socket, and a size");
        return NULL;
    }
    fd = descriptor_of(state, args[1]);
    if (fd < 0) {
        return NULL;
    }
    if (given == 3) {
        size = PyLong_AsSsize_t(args[2]);
        if (size < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "a packet has no fewer than 0 bytes");
            }
            return NULL;
        }
    }
    if (size > PACKET_SIZE && !(room = PyMem_Malloc((size_t)size))) {
        return PyErr_NoMemory();
    }
    piece = (struct iovec){room, (size_t)size};
    message.msg_iov = &piece;
    message.msg_control = &control;
    do {
        message.msg_controllen = sizeof control;
        came = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (came < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (came < 0) {
        whole = PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    } else {
        whole = packet((PyTypeObject *)args[0], room, came, &message);
    }
    if (room != state->packet) {
        PyMem_Free(room);
    }
    return whole;
}
