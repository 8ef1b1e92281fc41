/* What the files of the compiled core tell each other. */

#ifndef SOCKETKEEP_CORE_H
#define SOCKETKEEP_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

/* Attributes that are asked for at each connection; their names stand in module.c. */
enum { SOCK, RECORD, SHELF, STATE, RESUMABLE, UNREAD, PLAIN, PUT, SLOW_INIT, MAKE_LIFE, NAMES };

/* What the module owns. */
typedef struct {
    PyTypeObject *buffer;
    PyTypeObject *ledger;
    PyTypeObject *core;
    PyTypeObject *poller;
    PyObject *names[NAMES];
} State;

extern struct PyModuleDef core_module;

/* descriptors.c */
PyObject *core_look(PyObject *module, PyObject *args);

/* buffer.c */
typedef struct {
    PyObject_HEAD
    char *data; /* dropped | retained, `taken` bytes of it | unread */
    size_t room;
    size_t pos; /* where the unread bytes begin */
    size_t end;
    size_t taken; /* since the commit, or the chunk's beginning where nothing is retained */
    size_t limit;
    size_t scanned; /* from where to look on for `separator` */
    PyObject *separator;
    char retain;
    char dropped;
    char gathered; /* the unread bytes came in more than one piece */
} Buffer;

extern PyType_Spec buffer_spec;

/* Make room for `size` bytes behind those there are; they are at the address returned.  NULL: there
   is no memory, and MemoryError is set. */
char *buffer_prepare(Buffer *buffer, size_t size);
/* Have `size` bytes that were written there be unread. */
void buffer_add(Buffer *buffer, size_t size);
/* Give the memory back if nothing in it counts. */
void buffer_tidy(Buffer *buffer);
int buffer_feed(Buffer *buffer, const char *data, size_t size);
int buffer_pass_by(Buffer *buffer, const char *data, size_t size);
/* New `bytes`, of the first unread ones, of which there are so many. */
PyObject *buffer_take(Buffer *buffer, size_t size);
void buffer_commit(Buffer *buffer);
int buffer_untouched(const Buffer *buffer);

/* ledger.c */
typedef struct {
    PyObject_HEAD
    PyObject *record;
    Py_buffer view;  /* of the record, where it is memory; its `obj` is NULL otherwise */
    uint64_t *words; /* the same, NULL otherwise */
    long long pushes;
    long long doubtful;
    char read;
    char sent;
    char bound;
    char disputed;
    char again;
} Ledger;

extern PyType_Spec ledger_spec;

/* The words of `_stream/_record.py`. */
enum { STATUS = 4, BYTES_IN = 6, BYTES_OUT = 7, ACTIVE_AT = 9, WORDS = 16 };

/* New, of that type, with that record. */
Ledger *ledger_of(PyTypeObject *type, PyObject *record);
/* A word of the record; -1: an error is set, and `*word` is not. */
int ledger_word(Ledger *ledger, int index, uint64_t *word);
/* Have the record say that something is done now. */
int ledger_active(Ledger *ledger);
int ledger_reading(Ledger *ledger);
int ledger_read_nothing(Ledger *ledger);
int ledger_sending(Ledger *ledger);
int ledger_commit(Ledger *ledger, int unread, long long left_kernel);
/* Have a counter of the record be this, and note that bytes have passed now. */
int ledger_count(Ledger *ledger, int word, uint64_t count);

/* poller.c */
extern PyType_Spec poller_spec;

/* stream_core.c */
extern PyType_Spec stream_core_spec;

#endif
