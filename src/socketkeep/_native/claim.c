/* Who uses one direction of a sync connection: the twin of `threading.Lock`, for what is hardly ever
   waited for.

   It owns a flag, which the interpreter's lock guards, and, once somebody has waited, a lock of the
   system's that is posted when the flag is free.  So to take it and to let go of it are one store each,
   in C as in Python. */

#include "core.h"

/* Seconds: who waits longer is woken, and waits on. */
static const double LONGEST = 1e6;

int
claim_take(Claim *claim)
{
    if (claim->held) {
        return 0;
    }
    claim->held = 1;
    return 1;
}

void
claim_release(Claim *claim)
{
    claim->held = 0;
    if (claim->waiters && !claim->posted) {
        claim->posted = 1;
        PyThread_release_lock(claim->post);
    }
}

/* Have the lock that is waited at, which is held until it is posted. */
static int
prepare(Claim *claim)
{
    if (!claim->post) {
        claim->post = PyThread_allocate_lock();
        if (!claim->post) {
            PyErr_NoMemory();
            return -1;
        }
        PyThread_acquire_lock(claim->post, NOWAIT_LOCK);
    }
    return 0;
}

/* Wait for it until `moment`, below 0 for as long as it takes: whether it was taken; -1: an error. */
static int
take_in_time(Claim *claim, double moment)
{
    PyLockStatus status;

    while (!claim_take(claim)) {
        PY_TIMEOUT_T left = -1;

        if (moment >= 0) {
            double seconds = moment - core_now();

            if (seconds <= 0) {
                return 0;
            }
            left = (PY_TIMEOUT_T)((seconds < LONGEST ? seconds : LONGEST) * 1e6);
        }
        if (prepare(claim) < 0) {
            return -1;
        }
        claim->waiters++;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(claim->post, left, 1);
        Py_END_ALLOW_THREADS
        claim->waiters--;
        if (status == PY_LOCK_ACQUIRED) {
            claim->posted = 0;
        } else if (status == PY_LOCK_INTR && Py_MakePendingCalls() < 0) {
            return -1;
        }
    }
    return 1;
}

static PyObject *
Claim_acquire(Claim *claim, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1, taken;
    double timeout = -1;

    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|pd:acquire", names, &blocking, &timeout)) {
        return NULL;
    }
    if (blocking) {
        taken = take_in_time(claim, timeout < 0 ? -1 : core_now() + timeout);
    } else {
        taken = claim_take(claim);
    }
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
Claim_release(Claim *claim, PyObject *Py_UNUSED(ignored))
{
    if (!claim->held) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return NULL;
    }
    claim_release(claim);
    Py_RETURN_NONE;
}

static PyObject *
Claim_locked(Claim *claim, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(claim->held);
}

static PyObject *
Claim_enter(Claim *claim, PyObject *Py_UNUSED(ignored))
{
    int taken = take_in_time(claim, -1);

    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
Claim_exit(Claim *claim, PyObject *Py_UNUSED(args))
{
    return Claim_release(claim, NULL);
}

static void
Claim_dealloc(Claim *claim)
{
    PyTypeObject *type = Py_TYPE(claim);

    if (claim->post) {
        PyThread_free_lock(claim->post);
    }
    type->tp_free(claim);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))Claim_acquire, METH_VARARGS | METH_KEYWORDS,
     "Take it, waiting as `threading.Lock.acquire` does; return whether it was taken."},
    {"release", (PyCFunction)Claim_release, METH_NOARGS, "Let go of it."},
    {"locked", (PyCFunction)Claim_locked, METH_NOARGS, "Return whether somebody has it."},
    {"__enter__", (PyCFunction)Claim_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)Claim_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, Claim_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The twin of `threading.Lock`."},
    {0, NULL},
};

PyType_Spec claim_spec = {
    .name = "socketkeep._native._core.Claim",
    .basicsize = sizeof(Claim),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
