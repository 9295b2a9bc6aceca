"""Runs untrusted Python: `Sandbox`, the executor of search and verification.

Host (this process; `executor`, `worker`) -> guard -> zygote -> programs (`guest`). No program's code ever runs in the
first three. The zygote is a warm interpreter, bare or with numpy and sympy loaded, that forks a process for every
request; the process runs the request's prefix, then each branch in a fork of that state. A zygote a kind and worker.

What contains a program, on Linux where namespaces can be had (as root or as an ordinary user; `Sandbox.layers` tells):

- It sees no process but those of its own request, no network, and a read-only root that holds Python and the system
  libraries alone. It has no capability, no new privilege, and as root a user id that nothing else has.
- It writes no file, cannot fork or start threads, maps a bounded amount of memory, has 64 descriptors.
- The zygote holds the clock. When a request is answered everything of it is killed: the zygote is pid 1 of its
  namespace. When the host ends, however it ends, the guard and then the kernel end the rest.
- It answers on a socket of its own, and what it says is a claim: checked against the one form a claim has, capped, and
  believed about its own steps only. A branch that dies or hangs takes no sibling with it.
- Every limit's breach is a status (`rstar_cli.records.ExecutionStatus`), never an exception here.

What does not hold yet:

- System calls are not filtered: a flaw of the kernel is in reach, a program can make sockets on its own empty network,
  open user namespaces of its own, and change the limits or the priority of the process that its siblings are forked
  from. A prefix can fork, up to the bound of its zygote, until its request is answered.
- Without namespaces (some containers; macOS) there are `limits` alone, and as root a user id of its own if Python can
  be read by it: then a program reads what that user may read, reaches the network, and can signal that user's
  processes. Elsewhere than on Linux memory is not bounded.
- A program may lie about its own steps: an answer is judged outside, and gold answers never go in.
"""

from rstar_cli.sandbox.executor import Sandbox

__all__ = ["Sandbox"]
