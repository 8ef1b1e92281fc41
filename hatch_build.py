"""How the package is built: the compiled core goes into the wheel where it can be compiled.

And the compiled guard beside it, a program of its own; and man pages and the shells' completions,
which are made from the options.

Without a compiler, with SOCKETKEEP_PURE=1, and on a Python that it is not for, the wheel is one of
Python alone, which does the same.  SOCKETKEEP_NATIVE=1 makes it an error not to have compiled it.
CC, CFLAGS and LDFLAGS are heeded.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = Path("src", "socketkeep", "_native")
_MODULE = "socketkeep._native._core"
_GUARD = Path("src", "socketkeep", "_guard")
_SHELL_FILES = Path("scripts", "shell_files.py")


class NativeBuild(BuildHookInterface[Any]):
    """The hook that hatchling calls before and after it packs a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the core, and have it packed; for an editable install beside its sources."""
        self._made = tempfile.mkdtemp(prefix="socketkeep-native-")
        reason = _not_here()
        if not reason:
            try:
                built = _compile(Path(self.root), Path(self._made))  # by the folders they go to
            except Exception as error:  # whatever hinders it, Python alone is enough
                reason = _first_line(error)
        if reason:
            if os.environ.get("SOCKETKEEP_NATIVE") == "1":
                raise RuntimeError(f"the core of Socketkeep was not compiled: {reason}")
            self.app.display_warning(f"Socketkeep is installed without its compiled core: {reason}")
        elif version == "editable":
            # Under a name of its own first: a process may have the present one mapped.
            for folder, file in built.items():
                target = Path(self.root, folder, file.name)
                os.replace(shutil.copy(file, f"{target}.new"), target)
        else:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            for folder, file in built.items():
                build_data["force_include"][str(file)] = str(folder.relative_to("src") / file.name)
        if version == "standard" and sys.platform.startswith("linux"):
            share = _shell_files(Path(self.root), Path(self._made))
            build_data["shared_data"][str(share)] = "share"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made on the way."""
        shutil.rmtree(self._made)


def _not_here() -> str:
    """Return why the core is not to be compiled here, "" where it is."""
    if os.environ.get("SOCKETKEEP_PURE", "") not in ("", "0"):
        return "SOCKETKEEP_PURE=1"
    if sys.implementation.name != "cpython" or not sys.platform.startswith("linux"):
        return f"it is for CPython on Linux, not for {sys.implementation.name} on {sys.platform}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is not for builds of Python without a global lock"
    return ""


def _shell_files(root: Path, made: Path) -> Path:
    """Return the folder, below `made`, of what goes to share/ where the package is installed."""
    # Not by PYTHONPATH: it brings what the build needs, and an isolated build takes from the path
    # what is installed around it, these very sources too where that is editable.
    begin = (
        f"import runpy, sys; sys.path.insert(0, {str(root / 'src')!r});"
        f" runpy.run_path({str(root / _SHELL_FILES)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-B", "-c", begin, str(made)]
    subprocess.run(command, env={**os.environ, "SOCKETKEEP_PURE": "1"}, check=True)
    return made / "share"


def _compile(root: Path, made: Path) -> dict[Path, Path]:
    """Compile core and guard below `made`; return the files, by the folders that they belong to.

    Raises what setuptools raises.
    """
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    sources = sorted(Path(root, _PACKAGE).glob("*.c"))
    # For the same bytes, wherever it is compiled: what debuggers read names the directory.
    nowhere = f"-ffile-prefix-map={root}=."
    extension = Extension(
        _MODULE,
        [os.path.relpath(source, root) for source in sources],
        depends=[str(header) for header in Path(root, _PACKAGE).glob("*.h")],
        extra_compile_args=["-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", nowhere],
    )
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(made / "lib"), str(made / "temp")
    command.ensure_finalized()
    if "CFLAGS" in os.environ:  # they take the place of the interpreter's own, -O3 among them
        os.environ["CFLAGS"] = f"-O2 {os.environ['CFLAGS']}"
    said = io.StringIO()
    with contextlib.chdir(root), contextlib.redirect_stdout(said):
        command.run()
        guard = _link_guard(command.compiler, made)
    return {_PACKAGE: Path(command.get_ext_fullpath(_MODULE)), _GUARD: guard}


def _link_guard(compiler: Any, made: Path) -> Path:
    """Compile the guard, static where that can be: it then has half as much memory."""
    warned = ["-std=gnu11", "-Wall", "-Wextra"]
    sources = sorted(map(str, _GUARD.glob("*.c")))
    objects = compiler.compile(sources, output_dir=str(made / "temp"), extra_postargs=warned)
    flags = os.environ.get("CFLAGS", "").split()
    link = partial(compiler.link_executable, objects, "guard", output_dir=str(made))
    try:
        link(extra_postargs=[*flags, "-static", "-s"])
    except Exception:  # no static C library, or a sanitizer, which needs the other
        link(extra_postargs=flags)
    return made / "guard"


def _first_line(error: BaseException) -> str:
    while error.__context__ is not None:  # setuptools puts its own around it
        error = error.__context__
    if isinstance(error, subprocess.CalledProcessError):
        return "the compiler failed, see what it said above"
    if isinstance(error, OSError) and error.filename:
        return f"cannot run {error.filename}: {error.strerror}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
