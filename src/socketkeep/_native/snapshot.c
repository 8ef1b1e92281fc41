/* The snapshot of a process that forks: its memory as a private mapping of a copy of itself.

   fork(2) copies the page tables of anonymous memory, page by page, and exit(2) takes them down again.
   Of a private mapping of a file it copies those of the pages that the process has touched.  So what a
   process has loaded is copied to a memfd, once, and that is mapped over it.  Addresses and content stay
   the same.  A page that is written to becomes anonymous, as any page of a private mapping does.

   It owns nothing afterwards: the mappings hold the memfd, which is sealed.

   Taken is what is known for whose it is:

   - the heap that the C library has by brk(2), where malloc is glibc's;
   - the writable data of the library, or program, that the interpreter is in;
   - pools of the interpreter's allocator, told by their headers (16 KiB pools in arenas of 1 MiB,
     `struct pool_header` of 3.11 to 3.14).  Where that looks different, no pool is found, and none taken.

   Nothing else is: in a private mapping MADV_DONTNEED brings back the old bytes, not zeros.  glibc calls
   it in malloc_trim, for chunks that are free, and never takes what they contain for zeros; calloc clears
   all but what brk(2) has just added.  The interpreter unmaps its arenas.  Other allocators (jemalloc,
   mimalloc, those of languages) do count on zeros, and their memory stays as it is.

   The process has one thread, signals are blocked, and between copy and mapping only system calls are
   made, with what is on the stack.  So no memory changes between the two, provided that stack and
   thread-local data are elsewhere, which is checked.  Until all is copied nothing is changed. */

#define _GNU_SOURCE

#include "core.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

enum { POOL = 1 << 14, ARENA = 1 << 20, CLASSES = 32, ALIGNMENT = 16 };

/* Fewer pools in one piece are not worth a mapping, nor certain to be pools. */
enum { FEWEST_POOLS = 4 };

enum { MOST_REGIONS = 4096, LINE = 8192 };

/* Nanoseconds between attempts to map again what the system has unmapped, and how many there are. */
enum { RETRY = 10000000, RETRIES = 500 };

/* `struct pool_header` of obmalloc. */
typedef struct {
    uint32_t count;
    uint64_t free_block, next, previous;
    uint32_t arena, size_class, next_offset, last_offset;
} PoolHeader;

typedef struct {
    uintptr_t start, end;
    off_t offset; /* in the memfd */
} Region;

typedef struct {
    Region *regions; /* in shared memory, of which none is taken */
    size_t count;
    uintptr_t page;
    uintptr_t data, data_end;          /* of the interpreter */
    uintptr_t data_seen;               /* so many bytes of it are as they should be */
    unsigned long taken;               /* bytes */
    char why_not[128];
} Snapshot;

/* A mapping as /proc/self/smaps tells it. */
typedef struct {
    uintptr_t start, end;
    int is_private, is_anonymous, is_heap, is_resident;
    const char *special; /* a flag that says that it is of another kind; NULL: there is none */
} Mapping;

typedef struct {
    int fd;
    size_t start, end;
    char bytes[LINE];
} Lines;

/* Note why there can be no snapshot, and return -1. */
__attribute__((format(printf, 2, 3))) static int
refuse(Snapshot *snapshot, const char *format, ...)
{
    va_list values;

    va_start(values, format);
    vsnprintf(snapshot->why_not, sizeof snapshot->why_not, format, values);
    va_end(values);
    return -1;
}

/* The next line, without its end; NULL: there is none. */
static char *
next_line(Lines *lines)
{
    for (;;) {
        char *line = lines->bytes + lines->start;
        char *newline = memchr(line, '\n', lines->end - lines->start);
        ssize_t size;

        if (newline) {
            *newline = 0;
            lines->start = (size_t)(newline + 1 - lines->bytes);
            return line;
        }
        memmove(lines->bytes, line, lines->end - lines->start);
        lines->end -= lines->start;
        lines->start = 0;
        size = read(lines->fd, lines->bytes + lines->end, sizeof lines->bytes - lines->end);
        if (size <= 0) {
            return NULL;
        }
        lines->end += (size_t)size;
    }
}

static int
open_lines(Lines *lines, const char *path, Snapshot *snapshot)
{
    lines->start = lines->end = 0;
    lines->fd = open(path, O_RDONLY | O_CLOEXEC);
    return lines->fd < 0 ? refuse(snapshot, "%s cannot be read: %s", path, strerror(errno)) : 0;
}

/* Only one thread, whoever has started others, and no memory that must stay where it is. */
static int
look_at_process(Snapshot *snapshot)
{
    Lines lines;
    char *line;
    long threads = 0, locked = -1;

    if (open_lines(&lines, "/proc/self/status", snapshot) < 0) {
        return -1;
    }
    while ((line = next_line(&lines))) {
        if (!strncmp(line, "Threads:", 8)) {
            threads = strtol(line + 8, NULL, 10);
        } else if (!strncmp(line, "VmLck:", 6)) {
            locked = strtol(line + 6, NULL, 10);
        }
    }
    close(lines.fd);
    if (threads != 1 || !is_only_thread()) {
        return refuse(snapshot, "the process has %ld threads", threads);
    }
    return locked ? refuse(snapshot, "memory of the process is locked (mlock)") : 0;
}

static int
look_at_malloc(Snapshot *snapshot)
{
#if defined(__GLIBC__) && UINTPTR_MAX > UINT32_MAX && !defined(Py_GIL_DISABLED)
    Dl_info allocator, library;

    if (!dladdr((void *)(uintptr_t)malloc, &allocator) ||
        !dladdr((void *)(uintptr_t)gnu_get_libc_version, &library)) {
        return refuse(snapshot, "it is not known whose malloc is");
    }
    if (allocator.dli_fbase != library.dli_fbase) {
        return refuse(snapshot, "malloc is not the C library's");
    }
    return 0;
#else
    return refuse(snapshot, "it needs glibc, 64 bits and the interpreter's lock");
#endif
}

/* Find the interpreter's writable data: what follows the part that is read-only once it is linked. */
static int
look_at_object(struct dl_phdr_info *object, size_t Py_UNUSED(size), void *arg)
{
    Snapshot *snapshot = arg;
    uintptr_t code = (uintptr_t)Py_Initialize, fixed = 0;
    int is_it = 0;

    for (int each = 0; each < object->dlpi_phnum; each++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[each];
        uintptr_t start = object->dlpi_addr + part->p_vaddr, end = start + part->p_memsz;

        if (part->p_type == PT_GNU_RELRO) {
            fixed = end & ~(snapshot->page - 1);
        } else if (part->p_type == PT_LOAD && part->p_flags & PF_W) {
            snapshot->data = start & ~(snapshot->page - 1);
            snapshot->data_end = (end + snapshot->page - 1) & ~(snapshot->page - 1);
        } else if (part->p_type == PT_LOAD && start <= code && code < end) {
            is_it = 1;
        }
    }
    if (fixed > snapshot->data && fixed < snapshot->data_end) {
        snapshot->data = fixed;
    }
    return is_it;
}

/* Take part in the snapshot; NULL: it stays as it is, for there is no room, or it is no whole page. */
static Region *
add(Snapshot *snapshot, uintptr_t start, uintptr_t end)
{
    Region *region = snapshot->regions + snapshot->count;

    start = (start + snapshot->page - 1) & ~(snapshot->page - 1);
    end &= ~(snapshot->page - 1);
    if (snapshot->count == MOST_REGIONS || start >= end) {
        return NULL;
    }
    *region = (Region){.start = start, .end = end};
    snapshot->count++;
    return region;
}

/* Whether this is the beginning of a pool; *arena: whose. */
static int
is_pool(uintptr_t at, uint32_t *arena)
{
    PoolHeader header;
    uint32_t size;

    memcpy(&header, (const void *)at, sizeof header);
    if (header.size_class >= CLASSES) {
        return 0;
    }
    size = (header.size_class + 1) * ALIGNMENT;
    *arena = header.arena;
    return header.last_offset == POOL - size && header.count <= POOL / size &&
           header.next_offset >= sizeof header && header.next_offset <= POOL &&
           (!header.free_block || header.free_block - at < POOL);
}

/* Add the arenas of a mapping.  Between the pools of two that lie side by side is less than a pool, of
   which they are part. */
static void
add_arenas(Snapshot *snapshot, const Mapping *mapping)
{
    uintptr_t at = (mapping->start + POOL - 1) & ~(uintptr_t)(POOL - 1), end;
    Region *before = NULL;
    uint32_t arena, other;

    for (; mapping->end - at >= POOL && at < mapping->end; at = end) {
        end = at + POOL;
        if (!is_pool(at, &arena)) {
            continue;
        }
        while (mapping->end - end >= POOL && end - at < ARENA && is_pool(end, &other) &&
               other == arena) {
            end += POOL;
        }
        if (end - at < FEWEST_POOLS * POOL) {
            continue;
        }
        if (before && at - before->end <= POOL) {
            before->end = end & ~(snapshot->page - 1);
        } else {
            before = add(snapshot, at, end);
        }
    }
}

/* Take of a mapping what is known for whose it is. */
static int
look_at_mapping(Snapshot *snapshot, const Mapping *mapping)
{
    uintptr_t start = mapping->start > snapshot->data ? mapping->start : snapshot->data;
    uintptr_t end = mapping->end < snapshot->data_end ? mapping->end : snapshot->data_end;
    int is_data = start < end;

    if ((is_data || mapping->is_heap) && mapping->special) {
        return refuse(snapshot, "memory of the %s is of a special kind (%s in /proc/PID/smaps)",
                      mapping->is_heap ? "heap" : "interpreter", mapping->special);
    }
    if (!mapping->is_private || mapping->special) {
        return 0;
    }
    if (mapping->is_heap) {
        add(snapshot, mapping->start, mapping->end);
    }
    if (is_data) {
        snapshot->data_seen += end - start;
        if (!mapping->is_heap) {
            add(snapshot, start, end);
        }
    } else if (mapping->is_anonymous && mapping->is_resident) {
        add_arenas(snapshot, mapping);
    }
    return 0;
}

/* Flags of plain memory: readable, writable, executable by leave, accounted, dirty since a look. */
static const char PLAIN[] = " rd wr mr mw me ac sd ";

/* The first of a mapping's flags that is of no plain memory. */
static const char *
special_in(char *flags)
{
    char *rest = NULL;

    for (char *flag = strtok_r(flags, " ", &rest); flag; flag = strtok_r(NULL, " ", &rest)) {
        char word[8];

        snprintf(word, sizeof word, " %.4s ", flag);
        if (!strstr(PLAIN, word)) {
            return flag;
        }
    }
    return NULL;
}

/* Begin a mapping, if this is its first line. */
static int
begins(Mapping *mapping, const char *line)
{
    unsigned long start, end, inode;
    char rights[8];
    int name = 0;

    if (sscanf(line, "%lx-%lx %7s %*s %*s %lu %n", &start, &end, rights, &inode, &name) < 4) {
        return 0;
    }
    *mapping = (Mapping){
        .start = start,
        .end = end,
        .is_private = !strcmp(rights, "rw-p"),
        .is_anonymous = !inode && (!line[name] || !strncmp(line + name, "[anon:", 6)),
        .is_heap = !strcmp(line + name, "[heap]"),
    };
    return 1;
}

static int
look_at_mappings(Snapshot *snapshot)
{
    Lines lines;
    Mapping mapping = {0};
    char *line;
    int failed = 0, told = 0;

    if (open_lines(&lines, "/proc/self/smaps", snapshot) < 0) {
        return -1;
    }
    while (!failed && (line = next_line(&lines))) {
        if (!strncmp(line, "Rss:", 4)) {
            mapping.is_resident = strtol(line + 4, NULL, 10) > 0;
        } else if (!strncmp(line, "VmFlags:", 8)) {
            mapping.special = special_in(line + 8);
            failed = look_at_mapping(snapshot, &mapping);
            told = 1;
        } else {
            begins(&mapping, line);
        }
    }
    close(lines.fd);
    if (failed) {
        return -1;
    }
    if (!told) {
        return refuse(snapshot, "/proc/self/smaps tells no flags of mappings");
    }
    if (snapshot->data_seen != snapshot->data_end - snapshot->data) {
        return refuse(snapshot, "the interpreter's data is not mapped as it is linked");
    }
    return 0;
}

/* What is written to while the memory is taken lies elsewhere: the stack, errno and what is beside it. */
static int
look_at_own(Snapshot *snapshot)
{
    uintptr_t stack = (uintptr_t)__builtin_frame_address(0), local = (uintptr_t)&errno;

    for (size_t each = 0; each < snapshot->count; each++) {
        const Region *region = &snapshot->regions[each];

        if ((region->start <= stack && stack < region->end) ||
            (region->start <= local && local < region->end)) {
            return refuse(snapshot, "the thread's own data lies in the heap");
        }
    }
    return 0;
}

/* Copy a region to the memfd, but for the pages that are empty. */
static int
copy(const Snapshot *snapshot, int fd, const Region *region)
{
    static const char EMPTY[4096];
    uintptr_t at = region->start, end;

    for (; at < region->end; at = end) {
        int is_empty = 1;

        end = at + snapshot->page;
        for (uintptr_t part = at; is_empty && part < end; part += sizeof EMPTY) {
            is_empty = !memcmp((const void *)part, EMPTY, sizeof EMPTY);
        }
        if (!is_empty && pwrite(fd, (const void *)at, snapshot->page,
                                region->offset + (off_t)(at - region->start)) !=
                             (ssize_t)snapshot->page) {
            return -1;
        }
    }
    return 0;
}

/* Map a region's copy over it.  -1: it stays as it is.  The system looks for what forbids a mapping
   before it takes down another in its place, but for want of memory it may fail in between.  Nobody
   can go on without that memory. */
static int
replace_by(int fd, const Region *region)
{
    static const char LOST[] = "socketkeep: no memory to map the fork snapshot: the worker ends\n";
    size_t size = region->end - region->start;
    unsigned char present;

    for (int attempt = 0; attempt < RETRIES; attempt++) {
        if (mmap((void *)region->start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
                 region->offset) != MAP_FAILED) {
            return 0;
        }
        if (mincore((void *)region->start, 1, &present) == 0) {
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    }
    if (write(STDERR_FILENO, LOST, sizeof LOST - 1)) {
        _exit(1);
    }
    _exit(1);
}

/* Copy all, then map all. */
static int
take(Snapshot *snapshot, int fd)
{
    off_t size = 0;

    for (size_t each = 0; each < snapshot->count; each++) {
        snapshot->regions[each].offset = size;
        size += (off_t)(snapshot->regions[each].end - snapshot->regions[each].start);
    }
    if (ftruncate(fd, size) < 0) {
        return -1;
    }
    for (size_t each = 0; each < snapshot->count; each++) {
        if (copy(snapshot, fd, &snapshot->regions[each]) < 0) {
            return -1;
        }
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) {
        return -1;
    }
    for (size_t each = 0; each < snapshot->count; each++) {
        const Region *region = &snapshot->regions[each];

        if (replace_by(fd, region) < 0) {
            return each ? 0 : -1; /* the rest stays as it is */
        }
        snapshot->taken += region->end - region->start;
    }
    return 0;
}

static int
look_and_take(Snapshot *snapshot)
{
    sigset_t all, mask;
    int fd, failed, code;

    if (look_at_malloc(snapshot) < 0 || look_at_process(snapshot) < 0) {
        return -1;
    }
    if (!dl_iterate_phdr(look_at_object, snapshot)) {
        return refuse(snapshot, "the interpreter's data is not found");
    }
    if (look_at_mappings(snapshot) < 0 || look_at_own(snapshot) < 0) {
        return -1;
    }
    fd = memfd_create("socketkeep fork snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return refuse(snapshot, "there is no memfd for it: %s", strerror(errno));
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    failed = take(snapshot, fd);
    code = errno;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    close(fd);
    return failed ? refuse(snapshot, "memory cannot be copied: %s", strerror(code)) : 0;
}

PyObject *
core_take_snapshot(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    size_t size = MOST_REGIONS * sizeof(Region);
    Snapshot snapshot = {.page = (uintptr_t)sysconf(_SC_PAGESIZE)};
    int failed;

    snapshot.regions =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (snapshot.regions == MAP_FAILED) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    failed = look_and_take(&snapshot);
    munmap(snapshot.regions, size);
    return failed ? PyErr_Format(PyExc_RuntimeError, "%s", snapshot.why_not)
                  : PyLong_FromUnsignedLong(snapshot.taken);
}
