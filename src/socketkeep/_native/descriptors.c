/* The look at the descriptors of processes: the twin of `_inspect/_descriptors.py`.

   It owns the directory, and the sorted inodes, that a call of it has open.  The system calls, some
   four for each descriptor, are made without the interpreter's lock; what they tell is kept in an
   array of C, and goes into the caller's dictionaries process by process. */

#include "core.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A descriptor of a socket that is asked for. */
typedef struct {
    uint64_t inode;
    int fd;
    int flags; /* of open(2); -1: not known */
} Found;

/* The descriptors of one process. */
typedef struct {
    Found *found;
    size_t count;
    size_t room;
} Process;

/* An inode that is asked for, and whether its socket's mode has been seen already. */
typedef struct {
    uint64_t inode;
    int seen;
} Asked;

/* The inodes that are asked for, in ascending order; any at all when `any`. */
typedef struct {
    Asked *asked;
    size_t count;
    int any;
} Wanted;

static int
ascending(const void *left, const void *right)
{
    uint64_t a = ((const Asked *)left)->inode, b = ((const Asked *)right)->inode;

    return a < b ? -1 : a > b;
}

static Asked *
find(const Wanted *wanted, uint64_t inode)
{
    Asked key = {.inode = inode};

    return bsearch(&key, wanted->asked, wanted->count, sizeof(Asked), ascending);
}

/* Whether the text is a number and nothing else; `*number` is it. */
static int
decimal(const char *text, uint64_t *number)
{
    char *end;

    if (*text < '0' || *text > '9') {
        return 0;
    }
    errno = 0;
    *number = strtoull(text, &end, 10);
    return *end == '\0' && errno == 0;
}

/* What one fdinfo file tells: position, flags, mount and, since Linux 5.14, inode, a line each. */
typedef struct {
    int flags;
    uint64_t mount;
    uint64_t inode; /* 0: it is not told */
} Info;

/* The number that stands in a line behind this label, where the line begins so; `*at` moves on to
   the next line. */
static int
numbered(const char **at, const char *label, int base, uint64_t *number)
{
    size_t length = strlen(label);
    char *end;

    if (strncmp(*at, label, length) != 0) {
        return 0;
    }
    *number = strtoull(*at + length, &end, base);
    *at = *end == '\n' ? end + 1 : end;
    return 1;
}

/* Whether it could be read. */
static int
read_info(int directory, const char *name, Info *info)
{
    char text[256];
    const char *at = text;
    uint64_t position, flags;
    ssize_t size;
    int opened = openat(directory, name, O_RDONLY | O_CLOEXEC);

    if (opened < 0) {
        return 0; /* closed meanwhile */
    }
    size = read(opened, text, sizeof text - 1);
    close(opened);
    if (size <= 0) {
        return 0;
    }
    text[size] = '\0';
    *info = (Info){0};
    if (!numbered(&at, "pos:", 10, &position) || !numbered(&at, "flags:", 8, &flags)) {
        return 0;
    }
    info->flags = (int)flags;
    if (numbered(&at, "mnt_id:", 10, &info->mount)) {
        numbered(&at, "ino:", 10, &info->inode);
    }
    return 1;
}

/* The inode of the socket that the link is of, 0 when it is of something else, -1 when it is gone. */
static int
read_inode(int directory, const char *name, uint64_t *inode)
{
    char text[64], *end;
    ssize_t size = readlinkat(directory, name, text, sizeof text - 1);

    *inode = 0;
    if (size < 0) {
        return -1;
    }
    text[size] = '\0';
    if (strncmp(text, "socket:[", 8) == 0) {
        *inode = strtoull(text + 8, &end, 10);
    }
    return 0;
}

static int
add(Process *process, uint64_t inode, int fd, int flags)
{
    if (process->count == process->room) {
        size_t room = process->room ? 2 * process->room : 64;
        Found *larger = realloc(process->found, room * sizeof(Found));

        if (!larger) {
            errno = ENOMEM;
            return -1;
        }
        process->found = larger;
        process->room = room;
    }
    process->found[process->count++] = (Found){.inode = inode, .fd = fd, .flags = flags};
    return 0;
}

/* Go over the descriptors of a process whose two directories are open.  -1: errno says why. */
static int
look_at(DIR *links, int texts, const Wanted *wanted, uint64_t mount, Process *process)
{
    struct dirent *entry;
    uint64_t number, inode;
    int likely = 0, told;
    Asked *asked;
    Info info;

    while ((errno = 0, entry = readdir(links)) != NULL) {
        if (!decimal(entry->d_name, &number)) {
            continue; /* the directory itself */
        }
        /* The link tells of what the descriptor is, fdinfo its mode and, on most kernels, the inode
           as well: one of the two is enough.  Descriptors of a kind stand together, so what the
           last one was is what the next is taken for. */
        told = likely && mount && read_info(texts, entry->d_name, &info);
        if (told) {
            inode = info.mount == mount ? info.inode : 0;
        } else if (read_inode(dirfd(links), entry->d_name, &inode) < 0) {
            if (errno == ENOENT) {
                continue; /* closed since it was listed */
            }
            return -1;
        }
        asked = inode && !wanted->any ? find(wanted, inode) : NULL;
        likely = inode && (asked || wanted->any);
        if (!likely) {
            continue;
        }
        if (asked && asked->seen) {
            info.flags = -1;
            likely = 0; /* another process has it too, and probably those that follow */
        } else if (!told && !read_info(texts, entry->d_name, &info)) {
            info.flags = -1;
        } else if (asked) {
            asked->seen = 1;
        }
        if (add(process, inode, (int)number, info.flags) < 0) {
            return -1;
        }
    }
    return errno ? -1 : 0;
}

/* Return 0, or the errno of what hindered it. */
static int
look_into(uint64_t pid, const Wanted *wanted, uint64_t mount, Process *process)
{
    char path[48];
    int texts, failed;
    DIR *links;

    snprintf(path, sizeof path, "/proc/%" PRIu64 "/fd", pid);
    links = opendir(path);
    if (!links) {
        return errno;
    }
    snprintf(path, sizeof path, "/proc/%" PRIu64 "/fdinfo", pid);
    texts = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (texts < 0) {
        failed = errno;
    } else {
        failed = look_at(links, texts, wanted, mount, process) < 0 ? errno : 0;
        close(texts);
    }
    closedir(links);
    return failed;
}

/* Put what was found of a process into the caller's dictionaries. */
static int
tell(PyObject *pid, const Process *process, PyObject *of, PyObject *nonblocking)
{
    int failed = 0;

    for (size_t at = 0; at < process->count && !failed; at++) {
        const Found *found = &process->found[at];
        PyObject *inode = PyLong_FromUnsignedLongLong(found->inode);
        PyObject *descriptor = inode ? Py_BuildValue("(Oi)", pid, found->fd) : NULL;
        PyObject *several = descriptor ? PyDict_GetItemWithError(of, inode) : NULL;

        if (!descriptor || (!several && PyErr_Occurred())) {
            failed = 1;
        } else if (several) {
            failed = PyList_Append(several, descriptor) < 0;
        } else if ((several = PyList_New(1)) == NULL) {
            failed = 1;
        } else {
            Py_INCREF(descriptor);
            PyList_SET_ITEM(several, 0, descriptor);
            failed = PyDict_SetItem(of, inode, several) < 0;
            Py_DECREF(several);
        }
        if (!failed && found->flags >= 0) {
            PyObject *mode = found->flags & O_NONBLOCK ? Py_True : Py_False;

            failed = PyDict_SetItem(nonblocking, inode, mode) < 0;
        }
        Py_XDECREF(descriptor);
        Py_XDECREF(inode);
    }
    return failed ? -1 : 0;
}

/* Have `wanted` be the inodes of a set, or any where it is None. */
static int
choose(PyObject *inodes, Wanted *wanted)
{
    PyObject *iterator, *item;
    Py_ssize_t size;

    *wanted = (Wanted){.any = inodes == Py_None};
    if (wanted->any) {
        return 0;
    }
    size = PyObject_Size(inodes);
    if (size < 0 || (iterator = PyObject_GetIter(inodes)) == NULL) {
        return -1;
    }
    wanted->asked = PyMem_Malloc((size_t)size * sizeof(Asked));
    if (!wanted->asked) {
        Py_DECREF(iterator);
        PyErr_NoMemory();
        return -1;
    }
    while (wanted->count < (size_t)size && (item = PyIter_Next(iterator)) != NULL) {
        wanted->asked[wanted->count++] = (Asked){.inode = PyLong_AsUnsignedLongLong(item)};
        Py_DECREF(item);
        if (PyErr_Occurred()) {
            break;
        }
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        PyMem_Free(wanted->asked);
        return -1;
    }
    qsort(wanted->asked, wanted->count, sizeof(Asked), ascending);
    return 0;
}

PyObject *
core_look(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *pids, *inodes, *of, *nonblocking, *sequence, *hindered = NULL;
    unsigned long long mount;
    Wanted wanted;
    Process process = {0};

    if (!PyArg_ParseTuple(args, "OOKO!O!:look", &pids, &inodes, &mount, &PyDict_Type, &of,
                          &PyDict_Type, &nonblocking)) {
        return NULL;
    }
    if (choose(inodes, &wanted) < 0) {
        return NULL;
    }
    sequence = PySequence_Tuple(pids);
    if (!sequence || (hindered = PyDict_New()) == NULL) {
        goto failed;
    }
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(sequence); at++) {
        PyObject *pid = PyTuple_GET_ITEM(sequence, at);
        unsigned long long number = PyLong_AsUnsignedLongLong(pid);
        int code;

        if (PyErr_Occurred()) {
            goto failed;
        }
        process.count = 0;
        Py_BEGIN_ALLOW_THREADS
        code = look_into(number, &wanted, mount, &process);
        Py_END_ALLOW_THREADS
        if (tell(pid, &process, of, nonblocking) < 0) {
            goto failed;
        }
        if (code) {
            PyObject *value = PyLong_FromLong(code);
            int set = value ? PyDict_SetItem(hindered, pid, value) : -1;

            Py_XDECREF(value);
            if (set < 0) {
                goto failed;
            }
        }
    }
    Py_DECREF(sequence);
    PyMem_Free(wanted.asked);
    free(process.found);
    return hindered;

failed:
    Py_XDECREF(sequence);
    Py_XDECREF(hindered);
    PyMem_Free(wanted.asked);
    free(process.found);
    return NULL;
}
