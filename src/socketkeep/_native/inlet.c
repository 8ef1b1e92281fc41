/* What passes an inlet: the descriptor of a plain end, and the header that its edge has sent before; of
   `_wire/_inlets` and `_base/_proxy_header`.

   It owns nothing.  The edge has made the descriptor non-blocking. */

#define _GNU_SOURCE

#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Of a PROXY header of version 2: what it begins with, its kinds of addresses, and how long it is at
   least with them. */
static const unsigned char START[] = "\r\n\r\n\0\r\nQUIT\n\x21";
enum { START_SIZE = 13, FIXED = 16, OF_FOUR = 0x11, OF_SIX = 0x21, FOUR_SIZE = 12, SIX_SIZE = 36 };

/* Room for one descriptor. */
typedef union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
} Right;

static int
failed(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return DOOR_FAILED;
}

int
inlet_take(int inlet)
{
    Right right;
    char any;
    struct iovec data = {&any, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &right, .msg_controllen = CMSG_LEN(sizeof(int)),
    };
    const struct cmsghdr *first;
    ssize_t count;
    int fd = fcntl(inlet, F_DUPFD_CLOEXEC, 0);

    if (fd < 0) {
        return failed(); /* without a descriptor for it, a connection that has come would be lost */
    }
    close(fd);
    do {
        count = recvmsg(inlet, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (count < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (count < 0) {
        if (PyErr_Occurred()) {
            return DOOR_FAILED;
        }
        return errno == EAGAIN || errno == EWOULDBLOCK ? DOOR_NOBODY : failed();
    }
    first = CMSG_FIRSTHDR(&message);
    if (!first || first->cmsg_level != SOL_SOCKET || first->cmsg_type != SCM_RIGHTS ||
        first->cmsg_len != CMSG_LEN(sizeof(int))) {
        errno = ECONNABORTED;
        return failed();
    }
    memcpy(&fd, CMSG_DATA(first), sizeof fd);
    return fd;
}

Py_ssize_t
inlet_header(int fd, unsigned char header[HEADER_MOST], struct sockaddr_storage *source)
{
    ssize_t count = recv(fd, header, HEADER_MOST, MSG_PEEK | MSG_DONTWAIT);
    const unsigned char *from = header + FIXED;
    int length;

    memset(source, 0, sizeof *source);
    if (count < FIXED || memcmp(header, START, START_SIZE) != 0) {
        return 0;
    }
    length = header[14] << 8 | header[15];
    if (count < FIXED + length) {
        return 0;
    }
    if (header[START_SIZE] == OF_FOUR && length >= FOUR_SIZE) {
        struct sockaddr_in *four = (struct sockaddr_in *)source;

        four->sin_family = AF_INET;
        memcpy(&four->sin_addr, from, 4);
        memcpy(&four->sin_port, from + 8, 2);
    } else if (header[START_SIZE] == OF_SIX && length >= SIX_SIZE) {
        struct sockaddr_in6 *six = (struct sockaddr_in6 *)source;

        six->sin6_family = AF_INET6;
        memcpy(&six->sin6_addr, from, 16);
        memcpy(&six->sin6_port, from + 32, 2);
    } else {
        return 0;
    }
    return FIXED + length;
}

int
inlet_take_header(int fd, unsigned char header[HEADER_MOST], Py_ssize_t size)
{
    if (recv(fd, header, (size_t)size, MSG_DONTWAIT) == size) {
        return 0;
    }
    errno = ECONNABORTED;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* Give one end of a pair away, with the header in it; -1: `errno` says why not. */
static int
give_end(int outlet, const int pair[2], const char *header, size_t size)
{
    Right right;
    char any = 0;
    struct iovec data = {&any, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &right, .msg_controllen = CMSG_LEN(sizeof(int)),
    };
    ssize_t count = send(pair[0], header, size, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (count != (ssize_t)size) {
        errno = count < 0 ? errno : ENOBUFS;
        return -1;
    }
    right.head = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
    };
    memcpy(CMSG_DATA(&right.head), &pair[1], sizeof pair[1]);
    do {
        count = sendmsg(outlet, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -1 : 0;
}

/* (outlet, header) */
PyObject *
inlet_pass_on(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *header;
    Py_ssize_t size;
    int outlet, pair[2], code;

    if (!PyArg_ParseTuple(args, "iy#:pass_on", &outlet, &header, &size)) {
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (give_end(outlet, pair, header, (size_t)size) == 0) {
        close(pair[1]);
        return PyLong_FromLong(pair[0]);
    }
    code = errno;
    close(pair[0]);
    close(pair[1]);
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Write an address as a header has it; its family, AF_UNSPEC: it has no place for that. */
static int
write_address(const struct sockaddr_storage *address, unsigned char host[16], unsigned char port[2])
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    if (address->ss_family == AF_INET) {
        memcpy(host, &four->sin_addr, 4);
        memcpy(port, &four->sin_port, 2);
        return AF_INET;
    }
    if (address->ss_family != AF_INET6) {
        return AF_UNSPEC;
    }
    memcpy(port, &six->sin6_port, 2);
    if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
        memcpy(host, &six->sin6_addr.s6_addr[12], 4);
        return AF_INET;
    }
    memcpy(host, &six->sin6_addr, 16);
    return AF_INET6;
}

PyObject *
inlet_ends_of(PyObject *Py_UNUSED(module), PyObject *sock)
{
    struct sockaddr_storage theirs, ours;
    socklen_t size = sizeof theirs;
    unsigned char hosts[2][16], ports[2][2], ends[1 + SIX_SIZE];
    int fd = PyObject_AsFileDescriptor(sock), family, width;

    if (fd < 0) {
        return NULL;
    }
    if (getpeername(fd, (struct sockaddr *)&theirs, &size) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    size = sizeof ours;
    if (getsockname(fd, (struct sockaddr *)&ours, &size) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    family = write_address(&theirs, hosts[0], ports[0]);
    if (family == AF_UNSPEC || family != write_address(&ours, hosts[1], ports[1])) {
        PyErr_SetString(PyExc_ValueError, "the ends of the connection are not two of one kind");
        return NULL;
    }
    width = family == AF_INET ? 4 : 16;
    ends[0] = family == AF_INET ? OF_FOUR : OF_SIX;
    memcpy(ends + 1, hosts[0], (size_t)width);
    memcpy(ends + 1 + width, hosts[1], (size_t)width);
    memcpy(ends + 1 + 2 * width, ports, sizeof ports);
    return PyBytes_FromStringAndSize((const char *)ends, 1 + 2 * width + (int)sizeof ports);
}
