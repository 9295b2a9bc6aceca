"""Runs untrusted Python: `Sandbox`, the executor of search and verification.

Host (this process; `executor`, `worker`) -> supervisors, one a core -> zygotes -> processes of programs (`processes/`).
No program's code ever runs in the first three. A zygote is a warm interpreter, bare or with numpy and sympy loaded.

Two modes, one protocol. *One-shot*: fork the zygote, run a program, die. *Fork tree* (`tree=True`): the process that
ran a step is paused and holds the interpreter's state; the steps below it run in forks of that process (an only one in
the process itself), and only new code runs. What is held is bounded (`processes/held.py`) and made again by running its
path where it is gone.

What contains a program, strongest first (`levels.py` has the words; `rstar doctor` tells what a machine has):

- `full`. Namespaces: it sees no process but those below its zygote, no network, and a read-only root that holds Python
  and the system libraries alone. Capabilities, new privileges and, as root, the user id are given up. Landlock on top:
  no file is written or made. A seccomp filter (x86-64): no sockets, signals, threads, exec, shared memory, timers.
- `landlock+seccomp`: the same without namespaces. Names and sizes of the host's files can be seen, nothing be read.
- `rlimits`, in every case: CPU time, file size 0, 64 descriptors, no descendants (root's are swept up afterwards), and
  on Linux memory. A program reads what the user may read and reaches the network.

What the supervisor holds in hand, whatever a program does:

- The clock, and SIGKILL through a pidfd. One zygote is pid 1 of its namespace: its end is the end of all in it.
- Every fork: the filter asks, and the one process that has an order may fork, once. The kernel tells who the child is.
- A held state is stopped with SIGSTOP, holds nothing open, and is charged to its tree: states, memory, CPU time.
- What a program says of itself is a claim on its own socket, checked against the one form a claim has, and capped. It
  can lie about its own steps and those below them. An answer is judged outside, and gold answers never go in.
- When the host ends, however it ends, supervisor and kernel end the rest. Every breach is a status
  (`rstar_cli.records.ExecutionStatus`), never an exception here.

What it does not cover: flaws of the kernel in the calls that are allowed; what a machine computes for others being
slowed down by programs within their limits; and below `full`, what the level's words say.
"""

from rstar_cli.sandbox.executor import Sandbox

__all__ = ["Sandbox"]
