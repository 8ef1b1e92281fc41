/* What C looks at of a connection's life: the base of `_stream/_lifecycle.Lifecycle`.

   It owns four flags.  The table that changes them is in Python. */

#include "core.h"

#include <structmember.h>

static void
Life_dealloc(Life *life)
{
    PyTypeObject *type = Py_TYPE(life);

    type->tp_free(life);
    Py_DECREF(type);
}

static PyMemberDef members[] = {
    {"over", T_BOOL, offsetof(Life, over), 0, NULL},
    {"peer_ended", T_BOOL, offsetof(Life, peer_ended), 0, NULL},
    {"sends", T_BOOL, offsetof(Life, sends), 0, NULL},
    {"write_ended", T_BOOL, offsetof(Life, write_ended), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, Life_dealloc},
    {Py_tp_members, members},
    {Py_tp_doc, "The twin of `_stream._lifecycle.Flags`."},
    {0, NULL},
};

PyType_Spec life_spec = {
    .name = "socketkeep._native._core.Flags",
    .basicsize = sizeof(Life),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
