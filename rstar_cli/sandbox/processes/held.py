"""The states that are kept: paused processes, by the steps that they ran, the least useful given up first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .handles import Process
from .zygotes import Zygote

Key = bytes
_TREE_SHARE = 2
"""One tree holds at most this part (a half) of the processes and the memory."""


@dataclass(slots=True, eq=False)
class State:
    """A paused process.

    Attributes:
        key: of its path (`path_keys`).
        tree: whose step it ran.
        zygote: what it descends from.
        pages: memory of its own.
    """

    key: Key
    tree: str
    zygote: Zygote
    process: Process
    pages: int


@dataclass(slots=True)
class Account:
    """What a tree has: states and their pages, and the CPU time of all its programs so far."""

    states: int = 0
    pages: int = 0
    seconds: float = 0.0


def path_keys(zygote: str, tree: str, steps: Sequence[str]) -> list[Key]:
    """A key for the state after each of these steps, from none to all: len(steps) + 1 of them."""
    digest = hashlib.blake2b(f"{zygote}\0{tree}".encode(), digest_size=16)
    keys = [digest.digest()]
    for code in steps:
        digest.update(b"\0" + len(code).to_bytes(8) + code.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


class Held:
    """Paused states, bounded in number and memory, for all trees and for each.

    What is given up first are states that nothing was forked from yet: a search makes many candidates and goes on from
    few, and a candidate's state is one step away from its parent's. Among equals it is the one unused for longest.

    Args:
        states: most processes, >= 2.
        pages: most pages of memory of their own, all together.
    """

    def __init__(self, states: int, pages: int) -> None:
        self._most = Account(states, pages)
        self._candidates: OrderedDict[Key, State] = OrderedDict()
        self._parents: OrderedDict[Key, State] = OrderedDict()
        self._accounts: dict[str, Account] = {}
        self._total = Account()

    def __len__(self) -> int:
        return self._total.states

    @property
    def pages(self) -> int:
        """Pages of all states together."""
        return self._total.pages

    def account(self, tree: str) -> Account:
        """What a tree has used; made anew where nothing is known of it."""
        return self._accounts.setdefault(tree, Account())

    def nearest(self, keys: Sequence[Key]) -> tuple[int, State | None]:
        """The deepest state on a path: how many steps it has run, and it; (0, None) where there is none."""
        for depth in range(len(keys) - 1, 0, -1):
            state = self._parents.get(keys[depth]) or self._candidates.get(keys[depth])
            if state is not None:
                self._promote(state)
                return depth, state
        return 0, None

    def add(self, state: State) -> None:
        """Keep a state; others may be given up for it, and with little room it is itself."""
        old = self._parents.get(state.key) or self._candidates.get(state.key)
        if old is not None:
            self.drop(old)
        self._candidates[state.key] = state
        self._count(state, 1)
        account = self.account(state.tree)
        while self._beyond(account, _TREE_SHARE):
            self.drop(next(candidate for candidate in self._in_order() if candidate.tree == state.tree))
        while self._beyond(self._total, 1):
            self.drop(next(self._in_order()))

    def drop(self, state: State) -> None:
        """Give a state up: end its process."""
        self.lose(state)
        state.zygote.end(state.process)

    def lose(self, state: State) -> None:
        """Take out a state whose process has ended."""
        self._parents.pop(state.key, None)
        self._candidates.pop(state.key, None)
        self._count(state, -1)

    def forget(self, tree: str) -> None:
        """Give up all that a tree has."""
        if self.account(tree).states:
            for state in [state for state in self._in_order() if state.tree == tree]:
                self.drop(state)
        del self._accounts[tree]

    def bury(self, zygote: Zygote) -> None:
        """Take out all states of a zygote that has ended."""
        for state in [state for state in self._in_order() if state.zygote is zygote]:
            self.lose(state)
            state.process.close()

    def _in_order(self) -> Iterator[State]:
        """All states, the first to be given up first."""
        kinds: Iterable[OrderedDict[Key, State]] = (self._candidates, self._parents)
        return (state for kind in kinds for state in kind.values())

    def _promote(self, state: State) -> None:
        """Note that a state is forked from."""
        self._candidates.pop(state.key, None)
        self._parents[state.key] = state
        self._parents.move_to_end(state.key)

    def _beyond(self, account: Account, share: int) -> bool:
        return account.states > self._most.states // share or account.pages > self._most.pages // share

    def _count(self, state: State, sign: int) -> None:
        for account in (self._total, self.account(state.tree)):
            account.states += sign
            account.pages += sign * state.pages
