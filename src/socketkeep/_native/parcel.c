/* Parcels: a connection that only waits, as the bytes of the message by which its worker parks it.  The twin of
   `_wire/_parcels.py`.

   It owns the one form that most of those messages have: whatever else a connection may have is not there.
   Such a message is read and written here, between one worker and the next, without being taken apart.
   Everything that has another form is Python's, and so is what becomes of a connection. */

#include "core.h"

#include <string.h>

enum {
    LONGEST_ID = 64,
    LONGEST_PEER = 1024,      /* as `_keeper/workers/_screening.py` has it */
    LONGEST_STATE = 16 * 1024 /* `SURELY_INLINE` of `_base/_passing.py` */
};

/* What is sent of a connection without anything else: how a message begins, and how it ends. */
#define DETACHED "\0\xdc\0\x19\xa8" "Detached"
#define ATTACH "\0\xdc\0\x19\xa6" "Attach"
#define NO_BYTES "\xc4\0"
#define NIL 0xc0
#define NO "\xc2"
#define YES "\xc3"
/* proxy, header_by, deadline, inflow_full_at, reply, name, groups, labels, written, taken_in, trace */
#define END_OF_DETACHED NO_BYTES "\0\0\0" NO_BYTES "\xa0\x90\x80\xff\xff\xa0"
/* proxy, deadline, inflow_full_at; then `taken`; then name, groups, labels, reply, written, taken_in, trace */
#define BEFORE_TAKEN NO_BYTES "\0\0"
#define END_OF_ATTACH "\xa0\x90\x80" NO_BYTES "\xff\xff\xa0"
/* The longest that a number, or what is around the texts and the state, can take. */
enum { NUMBER_MOST = 9, FRAME_MOST = 160 };

/* Why a worker is given a connection. */
static const char *const REASON[] = {"accepted", "reload", "parked", "upgrade", "crash", "pushed"};

typedef struct {
    const unsigned char *at, *end;
} Reader;

typedef struct {
    const char *bytes;
    size_t size;
} Piece;

/* What both messages have in the same order, `whole` of it, and what is in that. */
typedef struct {
    Piece whole, peer, state; /* a state of NULL is none */
    uint64_t listener, accepted_at, bytes_in, bytes_out;
} Common;

/* Each of these returns whether the bytes are there, and are what they are to be. */

static int
read_piece(Reader *reader, size_t size, Piece *piece)
{
    if ((size_t)(reader->end - reader->at) < size) {
        return 0;
    }
    *piece = (Piece){(const char *)reader->at, size};
    reader->at += size;
    return 1;
}

static int
pass_over(Reader *reader, const char *bytes, size_t size)
{
    Piece piece;

    return read_piece(reader, size, &piece) && memcmp(piece.bytes, bytes, size) == 0;
}

static int
read_flag(Reader *reader, int *flag)
{
    Piece piece;

    if (!read_piece(reader, 1, &piece) || (*piece.bytes != YES[0] && *piece.bytes != NO[0])) {
        return 0;
    }
    *flag = *piece.bytes == YES[0];
    return 1;
}

/* A number that is not negative. */
static int
read_number(Reader *reader, uint64_t *number)
{
    Piece piece;
    unsigned char mark;

    if (reader->at == reader->end) {
        return 0;
    }
    mark = *reader->at++;
    *number = mark;
    if (mark < 0x80) {
        return 1;
    }
    if (mark < 0xcc || mark > 0xcf || !read_piece(reader, (size_t)1 << (mark - 0xcc), &piece)) {
        return 0;
    }
    *number = 0;
    for (size_t each = 0; each < piece.size; each++) {
        *number = *number << 8 | (unsigned char)piece.bytes[each];
    }
    return 1;
}

/* The size of a text or of bytes that begin with one of these marks, by how long their size is. */
static int
read_size(Reader *reader, unsigned char first, size_t *size)
{
    unsigned char mark = reader->at < reader->end ? *reader->at : 0;
    Piece piece;

    if (mark < first || mark > first + 1) {
        return 0; /* what has a size of four bytes is none of these */
    }
    reader->at++;
    if (!read_piece(reader, (size_t)1 << (mark - first), &piece)) {
        return 0;
    }
    *size = (unsigned char)piece.bytes[0];
    if (piece.size == 2) {
        *size = *size << 8 | (unsigned char)piece.bytes[1];
    }
    return 1;
}

/* A text of ASCII. */
static int
read_text(Reader *reader, size_t most, Piece *piece)
{
    size_t size;

    if (reader->at < reader->end && (*reader->at & 0xe0) == 0xa0) {
        size = *reader->at++ & 0x1f;
    } else if (!read_size(reader, 0xd9, &size)) {
        return 0;
    }
    if (size > most || !read_piece(reader, size, piece)) {
        return 0;
    }
    for (size_t each = 0; each < size; each++) {
        if ((unsigned char)piece->bytes[each] > 0x7f) {
            return 0;
        }
    }
    return 1;
}

static int
read_state(Reader *reader, Piece *state)
{
    size_t size;

    if (reader->at < reader->end && *reader->at == NIL) {
        reader->at++;
        *state = (Piece){NULL, 0};
        return 1;
    }
    return read_size(reader, 0xc4, &size) && size <= LONGEST_STATE && read_piece(reader, size, state);
}

static int
read_amount(Reader *reader, uint64_t *amount)
{
    return read_number(reader, amount) && *amount < (uint64_t)1 << 63;
}

static int
read_common(Reader *reader, Common *common)
{
    const char *begin = (const char *)reader->at;

    if (!read_number(reader, &common->listener) || !read_text(reader, LONGEST_PEER, &common->peer) ||
        !read_state(reader, &common->state) || !pass_over(reader, NO_BYTES, 2) ||
        !read_amount(reader, &common->accepted_at) || !read_amount(reader, &common->bytes_in) ||
        !read_amount(reader, &common->bytes_out)) {
        return 0;
    }
    common->whole = (Piece){begin, (size_t)((const char *)reader->at - begin)};
    return 1;
}

/* A parcel; one of which something has come: who waits for the first bytes has a time for that. */
typedef struct {
    Piece id;
    Common common;
    uint64_t epoch, active_at, row;
} Parcel;

static int
read_parcel(PyObject *payload, Parcel *parcel)
{
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(payload);
    Reader reader = {data, data + PyBytes_GET_SIZE(payload)};

    return pass_over(&reader, DETACHED, sizeof DETACHED - 1) && read_text(&reader, LONGEST_ID, &parcel->id) &&
           read_number(&reader, &parcel->epoch) && read_common(&reader, &parcel->common) &&
           parcel->common.bytes_in > 0 && pass_over(&reader, YES, 1) &&
           read_amount(&reader, &parcel->active_at) && pass_over(&reader, NO, 1) &&
           read_number(&reader, &parcel->row) &&
           pass_over(&reader, END_OF_DETACHED, sizeof END_OF_DETACHED - 1) && reader.at == reader.end;
}

PyObject *
parcel_read(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    unsigned long long rows, listeners;
    PyObject *id, *found, *result;
    Parcel parcel;

    if (given != 4 || !PyBytes_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "read_parcel() takes a payload, a dict, and two numbers");
        return NULL;
    }
    rows = PyLong_AsUnsignedLongLong(args[2]);
    listeners = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (!read_parcel(args[0], &parcel) || parcel.row >= rows || parcel.common.listener >= listeners) {
        Py_RETURN_NONE;
    }
    id = PyUnicode_FromStringAndSize(parcel.id.bytes, (Py_ssize_t)parcel.id.size);
    if (!id) {
        return NULL;
    }
    found = PyDict_GetItemWithError(args[1], id);
    Py_DECREF(id);
    if (!found) {
        return core_done(PyErr_Occurred() != NULL);
    }
    result = Py_BuildValue("OKK", found, (unsigned long long)parcel.epoch, (unsigned long long)parcel.active_at);
    return result;
}

/* What a worker is given, in the order in which `GivenConnection` of `_wire/_parcels.py` has it. */
enum {
    GIVEN_ID, GIVEN_EPOCH, GIVEN_WHY, GIVEN_LISTENER, GIVEN_PEER, GIVEN_STATE, GIVEN_ACCEPTED_AT,
    GIVEN_BYTES_IN, GIVEN_BYTES_OUT, GIVEN_KEPT, GIVEN_RETURNABLE, GIVEN_TAKEN,
    GIVEN
};

static PyObject *
ascii_of(Piece text)
{
    return PyUnicode_FromStringAndSize(text.bytes, (Py_ssize_t)text.size);
}

/* The reason that a text says, NULL without an error: it says none. */
static PyObject *
reason_of(Piece text)
{
    for (size_t each = 0; each < sizeof REASON / sizeof *REASON; each++) {
        if (strlen(REASON[each]) == text.size && memcmp(REASON[each], text.bytes, text.size) == 0) {
            return PyUnicode_InternFromString(REASON[each]);
        }
    }
    return NULL;
}

PyObject *
parcel_given(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    int kept, returnable, taken;
    PyObject *result, *why;
    PyTypeObject *kind;
    Piece id, reason;
    uint64_t epoch;
    Common common;
    Reader reader;

    if (given != 2 || !PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], &PyTuple_Type) ||
        !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "read_given() takes a class of tuples, and a payload");
        return NULL;
    }
    reader.at = (const unsigned char *)PyBytes_AS_STRING(args[1]);
    reader.end = reader.at + PyBytes_GET_SIZE(args[1]);
    if (!pass_over(&reader, ATTACH, sizeof ATTACH - 1) || !read_text(&reader, LONGEST_ID, &id) ||
        !read_number(&reader, &epoch) || !read_text(&reader, NUMBER_MOST, &reason) ||
        !read_common(&reader, &common) || !pass_over(&reader, NO, 1) || !read_flag(&reader, &kept) ||
        !read_flag(&reader, &returnable) || !pass_over(&reader, BEFORE_TAKEN, sizeof BEFORE_TAKEN - 1) ||
        !read_flag(&reader, &taken) || !pass_over(&reader, END_OF_ATTACH, sizeof END_OF_ATTACH - 1) ||
        reader.at != reader.end || !(why = reason_of(reason))) {
        return core_done(PyErr_Occurred() != NULL);
    }
    kind = (PyTypeObject *)args[0];
    result = kind->tp_alloc(kind, GIVEN);
    if (!result) {
        Py_DECREF(why);
        return NULL;
    }
    PyTuple_SET_ITEM(result, GIVEN_ID, ascii_of(id));
    PyTuple_SET_ITEM(result, GIVEN_EPOCH, PyLong_FromUnsignedLongLong(epoch));
    PyTuple_SET_ITEM(result, GIVEN_WHY, why);
    PyTuple_SET_ITEM(result, GIVEN_LISTENER, PyLong_FromUnsignedLongLong(common.listener));
    PyTuple_SET_ITEM(result, GIVEN_PEER, ascii_of(common.peer));
    PyTuple_SET_ITEM(result, GIVEN_STATE,
                     common.state.bytes
                         ? PyBytes_FromStringAndSize(common.state.bytes, (Py_ssize_t)common.state.size)
                         : Py_NewRef(Py_None));
    PyTuple_SET_ITEM(result, GIVEN_ACCEPTED_AT, PyLong_FromUnsignedLongLong(common.accepted_at));
    PyTuple_SET_ITEM(result, GIVEN_BYTES_IN, PyLong_FromUnsignedLongLong(common.bytes_in));
    PyTuple_SET_ITEM(result, GIVEN_BYTES_OUT, PyLong_FromUnsignedLongLong(common.bytes_out));
    PyTuple_SET_ITEM(result, GIVEN_KEPT, PyBool_FromLong(kept));
    PyTuple_SET_ITEM(result, GIVEN_RETURNABLE, PyBool_FromLong(returnable));
    PyTuple_SET_ITEM(result, GIVEN_TAKEN, PyBool_FromLong(taken));
    if (PyErr_Occurred()) {
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

/* Writing. */

static char *
write_bytes(char *at, const char *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

static char *
write_number(char *at, uint64_t number)
{
    int size = number < 0x80 ? 0 : number <= 0xff ? 1 : number <= 0xffff ? 2 : number <= 0xffffffff ? 4 : 8;

    if (!size) {
        *at++ = (char)number;
        return at;
    }
    *at++ = (char)(size == 1 ? 0xcc : size == 2 ? 0xcd : size == 4 ? 0xce : 0xcf);
    for (int each = size - 1; each >= 0; each--) {
        *at++ = (char)(number >> 8 * each);
    }
    return at;
}

/* The mark and the size of a text, or of bytes, by the mark that stands before a size of one byte. */
static char *
write_size(char *at, unsigned char first, size_t size)
{
    if (first == 0xd9 && size < 0x20) {
        *at++ = (char)(0xa0 | size);
        return at;
    }
    *at++ = (char)(first + (size > 0xff));
    if (size > 0xff) {
        *at++ = (char)(size >> 8);
    }
    *at++ = (char)size;
    return at;
}

static char *
write_text(char *at, Piece text)
{
    return write_bytes(write_size(at, 0xd9, text.size), text.bytes, text.size);
}

/* A text of ASCII; 0: it is another, or longer, or an error is set. */
static int
text_of(PyObject *text, size_t most, Piece *piece)
{
    Py_ssize_t size;

    if (!PyUnicode_Check(text)) {
        PyErr_SetString(PyExc_TypeError, "a text was to come");
        return 0;
    }
    if (!PyUnicode_IS_ASCII(text) || !(piece->bytes = PyUnicode_AsUTF8AndSize(text, &size))) {
        return 0;
    }
    piece->size = (size_t)size;
    return piece->size <= most;
}

PyObject *
parcel_attach(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    PyObject *payload;
    Parcel parcel;
    Piece why;
    unsigned long long epoch;
    int returnable, taken;
    char *at;

    if (given != 5 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "attach_parcel() takes a payload, an epoch, a text, and two flags");
        return NULL;
    }
    epoch = PyLong_AsUnsignedLongLong(args[1]);
    returnable = PyObject_IsTrue(args[3]);
    taken = PyObject_IsTrue(args[4]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (!read_parcel(args[0], &parcel) || !text_of(args[2], NUMBER_MOST, &why)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "that is no parcel, or no reason to give it to a worker");
        }
        return NULL;
    }
    payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(FRAME_MOST + parcel.id.size + parcel.common.whole.size));
    if (!payload) {
        return NULL;
    }
    at = PyBytes_AS_STRING(payload);
    at = write_bytes(at, ATTACH, sizeof ATTACH - 1);
    at = write_text(at, parcel.id);
    at = write_number(at, epoch);
    at = write_text(at, why);
    at = write_bytes(at, parcel.common.whole.bytes, parcel.common.whole.size);
    at = write_bytes(at, NO YES, 2); /* redelivered, kept */
    at = write_bytes(at, returnable ? YES : NO, 1);
    at = write_bytes(at, BEFORE_TAKEN, sizeof BEFORE_TAKEN - 1);
    at = write_bytes(at, taken ? YES : NO, 1);
    at = write_bytes(at, END_OF_ATTACH, sizeof END_OF_ATTACH - 1);
    _PyBytes_Resize(&payload, at - PyBytes_AS_STRING(payload));
    return payload;
}

enum {
    PACK_ID, PACK_EPOCH, PACK_LISTENER, PACK_PEER, PACK_STATE, PACK_ACCEPTED_AT, PACK_BYTES_IN, PACK_BYTES_OUT,
    PACK_ACTIVE_AT, PACK_ROW,
    PACKED
};

PyObject *
parcel_pack(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    Piece id, peer, state = {NULL, 0};
    uint64_t numbers[PACKED];
    PyObject *payload;
    char *at;

    if (given != PACKED || (args[PACK_STATE] != Py_None && !PyBytes_Check(args[PACK_STATE]))) {
        PyErr_SetString(PyExc_TypeError, "pack_parcel() takes what a worker has of a connection");
        return NULL;
    }
    for (int each = 0; each < PACKED; each++) {
        if (each != PACK_ID && each != PACK_PEER && each != PACK_STATE) {
            numbers[each] = PyLong_AsUnsignedLongLong(args[each]);
        }
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (args[PACK_STATE] != Py_None) {
        state = (Piece){PyBytes_AS_STRING(args[PACK_STATE]), (size_t)PyBytes_GET_SIZE(args[PACK_STATE])};
    }
    if (!text_of(args[PACK_ID], LONGEST_ID, &id) || !text_of(args[PACK_PEER], LONGEST_PEER, &peer) ||
        state.size > LONGEST_STATE) {
        return core_done(PyErr_Occurred() != NULL);
    }
    payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(FRAME_MOST + id.size + peer.size + state.size));
    if (!payload) {
        return NULL;
    }
    at = PyBytes_AS_STRING(payload);
    at = write_bytes(at, DETACHED, sizeof DETACHED - 1);
    at = write_text(at, id);
    at = write_number(at, numbers[PACK_EPOCH]);
    at = write_number(at, numbers[PACK_LISTENER]);
    at = write_text(at, peer);
    if (state.bytes) {
        at = write_bytes(write_size(at, 0xc4, state.size), state.bytes, state.size);
    } else {
        *at++ = (char)NIL;
    }
    at = write_bytes(at, NO_BYTES, 2);
    at = write_number(at, numbers[PACK_ACCEPTED_AT]);
    at = write_number(at, numbers[PACK_BYTES_IN]);
    at = write_number(at, numbers[PACK_BYTES_OUT]);
    at = write_bytes(at, YES, 1);
    at = write_number(at, numbers[PACK_ACTIVE_AT]);
    at = write_bytes(at, NO, 1);
    at = write_number(at, numbers[PACK_ROW]);
    at = write_bytes(at, END_OF_DETACHED, sizeof END_OF_DETACHED - 1);
    _PyBytes_Resize(&payload, at - PyBytes_AS_STRING(payload));
    return payload;
}
