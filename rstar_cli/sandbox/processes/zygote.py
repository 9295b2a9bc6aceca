"""The zygote: a warm interpreter under lock and key. It forks a process for every order, and runs no program itself.

It starts as an ordinary Python, enters its namespaces and leaves for a child that is pid 1 there, so that its end is
the end of everything in it. Then it imports what programs need, gives up every right it has, and serves.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import isolation, landlock, packets, program, seccomp, warmup


def main() -> None:
    """Entry point: argv holds our import path, then the settings as JSON.

    Settings: `control` (descriptor of the socket to the supervisor), `supervisor` (its pid), `scientific`, `memory_mb`,
    `output_bytes`, `paths` (directories to import from), `without` (layers to leave out), `processes` (most of them),
    `identity` (a number of its own).
    """
    sys.path.remove(sys.argv[1])
    settings = json.loads(sys.argv[2])
    sys.argv[:], sys.orig_argv[:] = [""], [""]
    control = socket.socket(fileno=settings["control"])
    sys.path += [path for path in settings["paths"] if path not in sys.path]
    try:
        layers, listener, prepared, memory = _start(settings)
    except Exception as exc:  # noqa: BLE001 - the supervisor has no other way to learn why we can't serve
        packets.send(control, json.dumps({"failed": f"{type(exc).__name__}: {exc}"}).encode())
        return
    packets.send(control, json.dumps({"layers": layers}).encode(), [listener] if listener else [])
    if listener:
        os.close(listener)
    program.serve(control, prepared, program.Limits(_forks(layers), memory))


def _start(settings: dict[str, Any]) -> tuple[list[str], int, program.Program, int]:
    """Lock ourselves up.

    Returns:
        The layers that hold; the filter's listener (0: none); what to fork; bytes that a fork may map.
    """
    without = settings["without"]
    visible = isolation.visible_paths(settings["paths"])
    proc = isolation.open_proc()
    layers = isolation.enter_namespaces(visible, without)
    if "pid" in layers:
        _leave_for_child()
    isolation.adopt_orphans()
    layers += isolation.drop_privileges(layers, settings["processes"], settings["identity"])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps, here and in all that descends from here
    isolation.die_with_parent(0 if "pid" in layers else settings["supervisor"])
    sys.path[:] = [path for path in sys.path if Path(path).is_dir()]
    del os.environ["PYTHONHASHSEED"]  # the rest is the supervisor's choice: a path, a locale, one thread
    warmup.load_standard()
    if settings["scientific"]:
        warmup.load_scientific()
    prepared = program.prepare(settings["output_bytes"])
    gc.collect()
    gc.freeze()
    isolation.collapse_memory(proc)
    memory = isolation.memory_limit(proc, settings["memory_mb"] << 20)
    if proc is not None:
        os.close(proc)
    if "landlock" not in without and landlock.restrict(visible):
        layers.append("landlock")
    listener = 0
    if "seccomp" not in without and seccomp.supported():
        listener = _filter_calls(layers, without)
    if "seccomp" not in layers:
        isolation.hide_memory()
    return layers, listener, prepared, memory


def _leave_for_child() -> None:
    """Go on as a child, the first process of the pid namespace; the supervisor adopts it when we end."""
    left, leaving = os.pipe()
    if os.fork():
        os._exit(0)
    os.close(leaving)
    os.read(left, 1)  # ends when the parent has
    os.close(left)


def _filter_calls(layers: list[str], without: Sequence[str]) -> int:
    """Install the filter of system calls; returns its listener, or 0 where the supervisor can't grant forks."""
    if "grants" not in without:
        try:
            listener = seccomp.install(notify=True)
        except OSError:  # an old kernel, or somebody listens already
            listener = 0
        if listener:
            layers += ["seccomp", "grants"]
            return listener
    try:
        seccomp.install(notify=False)
    except OSError:  # a kernel without filters
        return 0
    layers.append("seccomp")
    return 0


def _forks(layers: Sequence[str]) -> program.Forks:
    """How a new process is kept from forking."""
    if "grants" in layers:
        return program.Forks.GRANTED
    return program.Forks.FILTERED if "seccomp" in layers else program.Forks.LIMITED
