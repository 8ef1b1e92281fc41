/* What C looks at of a connection's life: the base of `_stream/_lifecycle.Lifecycle`.

   It owns four flags, and how it has ended.  The table that changes them is in Python. */

#include "core.h"

#include <structmember.h>

Life *
new_life(PyTypeObject *type)
{
    Life *life = (Life *)type->tp_alloc(type, 0);

    if (life) {
        life->sends = 1;
    }
    return life;
}

static PyObject *
Life_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    return (PyObject *)new_life(type);
}

static int
Life_traverse(Life *life, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(life));
    Py_VISIT(life->end);
    Py_VISIT(life->error);
    return 0;
}

static int
Life_clear(Life *life)
{
    Py_CLEAR(life->end);
    Py_CLEAR(life->error);
    return 0;
}

static void
Life_dealloc(Life *life)
{
    PyTypeObject *type = Py_TYPE(life);

    PyObject_GC_UnTrack(life);
    Life_clear(life);
    type->tp_free(life);
    Py_DECREF(type);
}

static PyMemberDef members[] = {
    {"over", T_BOOL, offsetof(Life, over), 0, NULL},
    {"peer_ended", T_BOOL, offsetof(Life, peer_ended), 0, NULL},
    {"sends", T_BOOL, offsetof(Life, sends), 0, NULL},
    {"write_ended", T_BOOL, offsetof(Life, write_ended), 0, NULL},
    {"_end", T_OBJECT, offsetof(Life, end), 0, NULL},
    {"_error", T_OBJECT, offsetof(Life, error), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, Life_new},
    {Py_tp_dealloc, Life_dealloc},
    {Py_tp_traverse, Life_traverse},
    {Py_tp_clear, Life_clear},
    {Py_tp_members, members},
    {Py_tp_doc, "The twin of `_stream._lifecycle.Flags`."},
    {0, NULL},
};

PyType_Spec life_spec = {
    .name = "socketkeep._native._core.Flags",
    .basicsize = sizeof(Life),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
