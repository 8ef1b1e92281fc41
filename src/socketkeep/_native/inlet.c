/* Accepting from an inlet: the descriptor of a plain end, and the header that its edge has sent before;
   of `_wire/_inlets.Inlet` and `_base/_proxy_header.source_of`.

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

static int
failed(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return DOOR_FAILED;
}

int
inlet_take(int inlet)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } rights;
    char any;
    struct iovec data = {&any, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = CMSG_LEN(sizeof(int)),
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
