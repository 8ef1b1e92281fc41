/* The module `socketkeep._native._core`: its table of functions and types.

   It owns nothing.  Each of the other files is a concept of its own, and declares in core.h what
   stands here.  None of them has policy: what is not the normal course of things goes back to
   Python.  All calls are of CPython's public API; where one is there from a later version on than
   the least that is supported, it stands between conditions, and in docs/architecture.md. */

#include "core.h"

static PyMethodDef functions[] = {
    {"look", core_look, METH_VARARGS, "The twin of `_inspect._descriptors.look_in_python`."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "socketkeep._native._core",
    .m_doc = "The compiled core; `socketkeep._native` tells whether it runs.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
