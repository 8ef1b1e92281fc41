/* A verb of a connection, as an attribute of its class, in the place of the function that it is in Python.

   It owns that function, and knows where the instances of the class have what C looks at: their slots are
   read as the fields that they are.  What a call does is in async_verbs.c and sync_verbs.c. */

#include "core.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* Call the function, where the arguments are not the usual ones. */
PyObject *
verb_in_python(Verb *verb, PyObject *const *args, size_t given, PyObject *names)
{
    return PyObject_Vectorcall(verb->function, args, given, names);
}

Py_ssize_t
recv_most(PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t given = PyVectorcall_NARGS(flagged), most = CHUNK;

    if (names || given < 1 || given > 2 || (given == 2 && !PyLong_CheckExact(args[1]))) {
        return 0;
    }
    if (given == 2) {
        most = PyLong_AsSsize_t(args[1]);
        if (most < 1) {
            PyErr_Clear();
            return 0;
        }
    }
    return most;
}

/* The calls in C, by name. */
typedef struct way {
    const char *name;
    vectorcallfunc call;
    Kind kind;
} Way;

static const Way WAYS[] = {
    {"async recv", (vectorcallfunc)async_recv, RECV},
    {"async send", (vectorcallfunc)async_send, SEND},
    {"async message", (vectorcallfunc)async_message, MESSAGE},
    {"async end", (vectorcallfunc)async_end, OTHER},
    {"sync recv", (vectorcallfunc)sync_recv, RECV},
    {"sync send", (vectorcallfunc)sync_send, SEND},
    {"sync end", (vectorcallfunc)sync_end, OTHER},
    {"sync message", (vectorcallfunc)sync_message, MESSAGE},
    {"commit", (vectorcallfunc)commit, OTHER},
    {NULL, NULL, RECV},
};

static const char *const SLOT_NAMES[SLOTS] = {
    [ITS_CORE] = "core",         [ITS_READING] = "_reading", [ITS_SENDING] = "_sending_lock",
    [ITS_LIMIT] = "_limit",      [ITS_END] = "_ends_at",     [ITS_PATIENCE] = "_patience",
    [ITS_ORDERS] = "_orders",    [ITS_WAITED] = "_waited",   [ITS_UNSENT] = "_unsent",
    [ITS_GATHERED] = "_gathered", [ITS_REPLIES] = "_replies", [ITS_DECODED] = "_decoded",
    [ITS_WAITER] = "_waiter",    [ITS_OUT] = "_out",
    [ITS_CHECK_TIMER] = "_check_timer", [ITS_DEADLINE_TIMER] = "_deadline_timer",
};

/* Whether a call looks at that slot: `commit` is of both kinds of connections. */
static int
looks_at(const Way *way, int slot)
{
    int is_async = strncmp(way->name, "async ", 6) == 0;

    switch (slot) {
    case ITS_CORE:
    case ITS_GATHERED:
        return 1;
    case ITS_REPLIES:
    case ITS_DECODED:
        return way->call == (vectorcallfunc)commit;
    case ITS_WAITER:
    case ITS_OUT:
    case ITS_CHECK_TIMER:
    case ITS_DEADLINE_TIMER:
        return is_async;
    case ITS_UNSENT:
        return way->call != (vectorcallfunc)commit;
    default:
        return way->call != (vectorcallfunc)commit && !is_async;
    }
}

Py_ssize_t
slot_of(PyObject *owner, const char *name)
{
    PyObject *slot = PyObject_GetAttrString(owner, name);
    Py_ssize_t offset = 0;

    if (slot && Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
        offset = ((PyMemberDescrObject *)slot)->d_member->offset;
    } else if (slot) {
        PyErr_Format(PyExc_TypeError, "%s of %R is no slot", name, owner);
    }
    Py_XDECREF(slot);
    return offset;
}

PyObject *
verb_attribute(const Verb *verb, PyObject *conn, int slot)
{
    PyObject *value = NULL;

    if (verb->owner && PyObject_TypeCheck(conn, verb->owner)) {
        value = *(PyObject **)((char *)conn + verb->places[slot]);
    }
    return value ? Py_NewRef(value) : PyObject_GetAttrString(conn, SLOT_NAMES[slot]);
}

/* Called by Python when the class is made, and has its slots. */
static PyObject *
Verb_set_name(Verb *verb, PyObject *args)
{
    PyObject *owner, *name;

    if (!PyArg_ParseTuple(args, "O!O:__set_name__", &PyType_Type, &owner, &name)) {
        return NULL;
    }
    for (int slot = 0; slot < SLOTS; slot++) {
        if (looks_at(verb->way, slot)) {
            verb->places[slot] = slot_of(owner, SLOT_NAMES[slot]);
            if (!verb->places[slot]) {
                return NULL;
            }
        }
    }
    Py_XSETREF(verb->owner, (PyTypeObject *)Py_NewRef(owner));
    verb->call = verb->way->call;
    Py_RETURN_NONE;
}

/* A commit, of any connection. */

static PyObject **
its(const Verb *verb, PyObject *conn, int slot)
{
    return (PyObject **)((char *)conn + verb->places[slot]);
}

/* A state as msgpack, None for none; NULL: Python is to say what is wrong with it. */
static PyObject *
packed(State *state, PyObject *committed)
{
    PyObject *module, *packed;

    if (committed == Py_None) {
        return Py_NewRef(Py_None);
    }
    if (!state->encode) {
        module = PyImport_ImportModule("socketkeep._stream._committed");
        state->encode = module ? PyObject_CallMethod(module, "encoder", NULL) : NULL;
        Py_XDECREF(module);
    }
    packed = state->encode ? PyObject_CallOneArg(state->encode, committed) : NULL;
    if (!packed || !PyBytes_CheckExact(packed) || PyBytes_GET_SIZE(packed) > STATE_LIMIT) {
        PyErr_Clear();
        Py_CLEAR(packed);
    }
    return packed;
}

/* The core, where nothing is to go out before the commit, and nothing else to be told of it; borrowed. */
static Core *
commits_at_once(const Verb *verb, PyObject *conn)
{
    PyObject *core, *held;

    if (!PyObject_TypeCheck(conn, verb->owner) || *its(verb, conn, ITS_REPLIES) != Py_None) {
        return NULL;
    }
    core = *its(verb, conn, ITS_CORE);
    held = *its(verb, conn, ITS_GATHERED);
    if (!core || !held || core_held(held) || !is_core(verb->state, core) ||
        !core_is_plain((Core *)core)) {
        return NULL;
    }
    return (Core *)core;
}

PyObject *
commit(Verb *verb, PyObject *const *args, size_t flagged, PyObject *names)
{
    Py_ssize_t given = PyVectorcall_NARGS(flagged);
    PyObject *state = names || given < 1 || given > 2 ? NULL
                      : packed(verb->state, given == 2 ? args[1] : Py_None);
    Core *core = state ? commits_at_once(verb, args[0]) : NULL; /* after what an encoder may run */
    int failed;

    if (!core) {
        Py_XDECREF(state);
        return verb_in_python(verb, args, flagged, names);
    }
    Py_INCREF(core);
    failed = core_commit(core, state);
    Py_DECREF(state);
    Py_DECREF(core);
    if (!failed) {
        Py_XSETREF(*its(verb, args[0], ITS_DECODED), Py_NewRef(Py_Ellipsis));
    }
    return core_done(failed);
}

static PyObject *
Verb_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *function, *handling;
    const char *name;
    Verb *verb;

    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Verb() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "sOO:Verb", &name, &function, &handling)) {
        return NULL;
    }
    verb = (Verb *)type->tp_alloc(type, 0);
    if (!verb) {
        return NULL;
    }
    verb->function = Py_NewRef(function);
    verb->handling = Py_NewRef(handling);
    verb->state = PyType_GetModuleState(type);
    verb->call = (vectorcallfunc)verb_in_python;
    for (const Way *way = WAYS; way->name; way++) {
        if (strcmp(name, way->name) == 0) {
            verb->way = way;
            verb->kind = way->kind;
        }
    }
    if (!verb->way) {
        Py_DECREF(verb);
        return PyErr_Format(PyExc_ValueError, "there is no verb %s in C", name);
    }
    return (PyObject *)verb;
}

static PyObject *
Verb_get(PyObject *verb, PyObject *conn, PyObject *Py_UNUSED(owner))
{
    return conn && conn != Py_None ? PyMethod_New(verb, conn) : Py_NewRef(verb);
}

/* It has no tp_clear: calls look into it, and the class that it is an attribute of breaks a circle. */
static int
Verb_traverse(Verb *verb, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(verb));
    Py_VISIT(verb->function);
    Py_VISIT(verb->handling);
    Py_VISIT(verb->owner);
    return 0;
}

static void
Verb_dealloc(Verb *verb)
{
    PyTypeObject *type = Py_TYPE(verb);

    PyObject_GC_UnTrack(verb);
    Py_XDECREF(verb->function);
    Py_XDECREF(verb->handling);
    Py_XDECREF(verb->owner);
    type->tp_free(verb);
    Py_DECREF(type);
}

/* What is asked of a function, its name and its annotations, say. */
static PyObject *
Verb_getattro(Verb *verb, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr((PyObject *)verb, name);

    if (!found && verb->function && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyObject_GetAttr(verb->function, name);
    }
    return found;
}

static PyObject *
Verb_doc(Verb *verb, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(verb->function, "__doc__");
}

static PyObject *
Verb_module(Verb *verb, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(verb->function, "__module__");
}

static PyMethodDef verb_methods[] = {
    {"__set_name__", (PyCFunction)Verb_set_name, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef verb_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Verb, call), READONLY, NULL},
    {"__wrapped__", T_OBJECT_EX, offsetof(Verb, function), READONLY, "The verb in Python."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef verb_properties[] = {
    {"__doc__", (getter)Verb_doc, NULL, NULL, NULL},
    {"__module__", (getter)Verb_module, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot verb_slots[] = {
    {Py_tp_new, Verb_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, Verb_get},
    {Py_tp_getattro, Verb_getattro},
    {Py_tp_dealloc, Verb_dealloc},
    {Py_tp_traverse, Verb_traverse},
    {Py_tp_methods, verb_methods},
    {Py_tp_members, verb_members},
    {Py_tp_getset, verb_properties},
    {0, NULL},
};

PyType_Spec verb_spec = {
    .name = "socketkeep._native._core.Verb",
    .basicsize = sizeof(Verb),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = verb_slots,
};
