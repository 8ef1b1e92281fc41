/* The module `socketkeep._native._core`: its functions and types.

   It owns the types.  Each of the other files is a concept of its own, and says in core.h what others
   may call.  None of them has policy: what is not the normal course of things goes back to Python.
   All calls are of CPython's public API; what depends on its version is listed in
   docs/architecture.md. */

#include "core.h"

#include <malloc.h>

/* malloc gives back by itself only what is free at the end of its heap. */
static PyObject *
trim(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    int released = 0;

#ifdef __GLIBC__
    Py_BEGIN_ALLOW_THREADS
    released = malloc_trim(0);
    Py_END_ALLOW_THREADS
#endif
    return PyBool_FromLong(released);
}

static PyMethodDef functions[] = {
    {"trim", trim, METH_NOARGS, "Give the system what malloc has free; return whether it had any."},
    {"look", core_look, METH_VARARGS, "The twin of `_inspect._descriptors.look_in_python`."},
    {"withholdable", core_withholdable, METH_VARARGS,
     "Return the hook as one that a fork of the fork server may withhold."},
    {"take_snapshot", core_take_snapshot, METH_NOARGS,
     "Map a copy of this process's memory over it, and return its size; RuntimeError: why not."},
    {"accept", door_accept, METH_O, "Return a descriptor and its peer, None: there is none."},
    {"send_packet", (PyCFunction)(void (*)(void))passing_send, METH_FASTCALL,
     "The twin of `_base._passing.send`."},
    {"receive_packet", (PyCFunction)(void (*)(void))passing_receive, METH_FASTCALL,
     "That of `receive`; before the arguments comes the class of what it returns."},
    {"read_parcel", (PyCFunction)(void (*)(void))parcel_read, METH_FASTCALL,
     "The twin of `_wire._parcels.read_in_python`."},
    {"attach_parcel", (PyCFunction)(void (*)(void))parcel_attach, METH_FASTCALL,
     "That of `attach_in_python` there."},
    {"read_given", (PyCFunction)(void (*)(void))parcel_given, METH_FASTCALL,
     "That of `given_in_python`; the class of what it returns comes first."},
    {"pack_parcel", (PyCFunction)(void (*)(void))parcel_pack, METH_FASTCALL, "That of `pack_in_python`."},
    {"pass_on", inlet_pass_on, METH_VARARGS, "The twin of `_wire._inlets.pass_on`, of descriptors."},
    {"ends_of", inlet_ends_of, METH_O, "The twin of `_wire._inlets.ends_of`."},
    {"speak_with_openssl", openssl_speak_with, METH_VARARGS,
     "Have flows call the OpenSSL of that library; return whether it has all that they call."},
    {NULL, NULL, 0, NULL},
};

static const char *const NAMED[NAMES] = {
    [SOCK] = "sock",           [RECORD] = "record", [SHELF] = "shelf",
    [STATE] = "state",         [RESUMABLE] = "resumable",
    [UNREAD] = "unread",       [DIRECT] = "direct", [PUT] = "put",
    [SLOW_INIT] = "_slow___init__",
    [MAKE_LIFE] = "_make_life",
    [WAITER] = "_waiter",
    [WATCH] = "_watch",
    [ON_READABLE] = "_on_readable",
    [SEND_FAILED] = "_send_failed",
    [AT_END] = "_refusal_at_end",
    [RAISE] = "_raise",
    [FILENO] = "fileno",
    [MOMENT] = "_moment",
    [WAITED] = "_waited",
    [CLOSE_SOCKET] = "close_socket",
    [REPLAY_LIMIT] = "replay_limit",
    [TELLS_END] = "tells_end",
    [READ_BYTES] = "read",
    [WRITE] = "write",
    [UNWRAP] = "unwrap",
    [CUT] = "cut",
    [RESET_WORD] = "reset",
    [TRUNCATED_WORD] = "truncated",
    [END_IN] = "_end_in",
    [READ_FAILED] = "_read_failed",
    [REFUSE] = "_refuse",
    [WORKER_ENDED] = "_worker_ended",
    [FINISH_OUT] = "_finish_out",
    [CLOSED_STATE] = "closed_state",
    [HOOKS] = "hooks",
    [REACTOR] = "reactor",
    [CANCEL_TIMERS] = "_cancel_timers",
    [COMMIT] = "commit",
    [RECEIVE] = "_receive",
    [END_ON] = "_end_on",
    [FLUSH] = "flush",
    [GIVE_WAY] = "_give_way",
};

/* Make a type, keep it in `*kept`, and give it its name in the module. */
static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept)
{
    *kept = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *kept ? PyModule_AddType(module, *kept) : -1;
}

static int
execute(PyObject *module)
{
    State *state = PyModule_GetState(module);

    if (add_type(module, &buffer_spec, &state->buffer) < 0 ||
        add_type(module, &ledger_spec, &state->ledger) < 0 ||
        add_type(module, &stream_core_spec, &state->core) < 0 ||
        add_type(module, &poller_spec, &state->poller) < 0 ||
        add_type(module, &orders_spec, &state->orders) < 0 ||
        add_type(module, &claim_spec, &state->claim) < 0 ||
        add_type(module, &life_spec, &state->life) < 0 ||
        add_type(module, &waiter_spec, &state->waiter) < 0 ||
        add_type(module, &reactor_spec, &state->reactor) < 0 ||
        add_type(module, &verb_spec, &state->verb) < 0 ||
        add_type(module, &awaitable_spec, &state->awaitable) < 0 ||
        add_type(module, &line_taker_spec, &state->line_taker) < 0 ||
        add_type(module, &fork_server_spec, &state->fork_server) < 0 ||
        add_type(module, &rows_spec, &state->rows) < 0 ||
        add_type(module, &shelf_spec, &state->shelf) < 0 ||
        add_type(module, &iteration_spec, &state->iteration) < 0 ||
        add_type(module, &async_iteration_spec, &state->async_iteration) < 0 ||
        add_type(module, &caster_spec, &state->caster) < 0 ||
        add_type(module, &brief_lease_spec, &state->brief_lease) < 0 ||
        add_type(module, &runner_spec, &state->runner) < 0 ||
        add_type(module, &serving_spec, &state->serving) < 0 ||
        add_type(module, &flow_spec, &state->flow) < 0 ||
        add_type(module, &relay_loop_spec, &state->relay_loop) < 0 || flow_prepare(state) < 0) {
        return -1;
    }
    for (int name = 0; name < NAMES; name++) {
        state->names[name] = PyUnicode_InternFromString(NAMED[name]);
        if (!state->names[name]) {
            return -1;
        }
    }
    return 0;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);

    Py_VISIT(state->buffer);
    Py_VISIT(state->ledger);
    Py_VISIT(state->core);
    Py_VISIT(state->poller);
    Py_VISIT(state->orders);
    Py_VISIT(state->claim);
    Py_VISIT(state->life);
    Py_VISIT(state->waiter);
    Py_VISIT(state->reactor);
    Py_VISIT(state->verb);
    Py_VISIT(state->awaitable);
    Py_VISIT(state->line_taker);
    Py_VISIT(state->fork_server);
    Py_VISIT(state->rows);
    Py_VISIT(state->shelf);
    Py_VISIT(state->iteration);
    Py_VISIT(state->async_iteration);
    Py_VISIT(state->encode);
    Py_VISIT(state->sockets);
    Py_VISIT(state->known_core);
    Py_VISIT(state->known_life);
    Py_VISIT(state->callback_names);
    Py_VISIT(state->caster);
    Py_VISIT(state->brief_lease);
    Py_VISIT(state->runner);
    Py_VISIT(state->serving);
    Py_VISIT(state->flow);
    Py_VISIT(state->relay_loop);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = PyModule_GetState(module);

    verbs_drop_spare(state);
    Py_CLEAR(state->encode);
    Py_CLEAR(state->sockets);
    Py_CLEAR(state->known_core);
    Py_CLEAR(state->known_life);
    Py_CLEAR(state->callback_names);
    Py_CLEAR(state->buffer);
    Py_CLEAR(state->ledger);
    Py_CLEAR(state->core);
    Py_CLEAR(state->poller);
    Py_CLEAR(state->orders);
    Py_CLEAR(state->claim);
    Py_CLEAR(state->life);
    Py_CLEAR(state->waiter);
    Py_CLEAR(state->reactor);
    Py_CLEAR(state->verb);
    Py_CLEAR(state->awaitable);
    Py_CLEAR(state->line_taker);
    Py_CLEAR(state->fork_server);
    Py_CLEAR(state->rows);
    Py_CLEAR(state->shelf);
    Py_CLEAR(state->iteration);
    Py_CLEAR(state->async_iteration);
    Py_CLEAR(state->caster);
    Py_CLEAR(state->brief_lease);
    Py_CLEAR(state->runner);
    Py_CLEAR(state->serving);
    Py_CLEAR(state->flow);
    Py_CLEAR(state->relay_loop);
    Py_CLEAR(state->plaintext);
    Py_CLEAR(state->record_size);
    for (int name = 0; name < NAMES; name++) {
        Py_CLEAR(state->names[name]);
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "socketkeep._native._core",
    .m_doc = "The compiled core; `socketkeep._native` tells whether it runs.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
