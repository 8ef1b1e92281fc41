/* What the files of the compiled core tell each other. */

#ifndef SOCKETKEEP_CORE_H
#define SOCKETKEEP_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* descriptors.c */
PyObject *core_look(PyObject *module, PyObject *args);

#endif
