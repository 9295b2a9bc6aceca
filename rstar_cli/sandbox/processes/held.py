"""The states that are kept: paused processes, by the steps that they ran, the least useful given up first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

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
        parent: the state that it was forked from; None where that was the zygote.
        pages: memory of its own, when it was last stopped.
        seconds: how long it has run.
        children: held states that were forked from it.
    """

    key: Key
    tree: str
    zygote: Zygote
    process: Process
    parent: State | None
    pages: int
    seconds: float
    children: set[State] = field(default_factory=set)


@dataclass(slots=True)
class Account:
    """What a tree has: states and their pages, and the time that its programs have had so far."""

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

    A state's memory is what it has touched since its fork; the rest it shares with the states above it, which are
    therefore held as long as it is. Of the others those are given up first that nothing was forked from yet: a search
    makes many candidates and goes on from few, and a candidate's state is one step away from its parent's. Among equals
    it is the one unused for longest.

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

    def account(self, tree: str) -> Account:
        """What a tree has used; made anew where nothing is known of it."""
        return self._accounts.setdefault(tree, Account())

    def nearest(self, keys: Sequence[Key]) -> tuple[int, State | None]:
        """The deepest state on a path: how many steps it has run, and it; (0, None) where there is none."""
        for depth in range(len(keys) - 1, 0, -1):
            state = self._parents.get(keys[depth]) or self._candidates.get(keys[depth])
            if state is not None:
                return depth, state
        return 0, None

    def forked(self, state: State, pages: int) -> None:
        """Note that a state was forked from, and charge it for what it has taken meanwhile."""
        self._candidates.pop(state.key, None)
        self._parents[state.key] = state
        self._parents.move_to_end(state.key)
        self._count(state, 0, pages - state.pages)
        state.pages = pages

    def take(self, state: State) -> None:
        """Take out a state whose process goes on to another; it has no children."""
        del self._candidates[state.key]
        if state.parent is not None:
            state.parent.children.discard(state)
        self._count(state, -1, -state.pages)

    def is_candidate(self, state: State) -> bool:
        """Whether nothing was forked from it yet."""
        return state.key in self._candidates

    def add(self, state: State) -> None:
        """Keep a state, until room has to be made."""
        old = self._parents.get(state.key) or self._candidates.get(state.key)
        if old is not None:
            self.drop(old)
        self._candidates[state.key] = state
        if state.parent is not None:
            state.parent.children.add(state)
        self._count(state, 1, state.pages)

    def make_room(self, tree: str) -> None:
        """Give states up until all bounds hold again, those of one tree and those of all."""
        account = self.account(tree)
        while self._beyond(account, _TREE_SHARE):
            self.drop(next(state for state in self._in_order() if state.tree == tree and not state.children))
        while self._beyond(self._total, 1):
            self.drop(next(state for state in self._in_order() if not state.children))

    def drop(self, state: State) -> None:
        """Give a state up, and those that were forked from it: end their processes."""
        while state.children:
            self.drop(next(iter(state.children)))
        self._parents.pop(state.key, None)
        self._candidates.pop(state.key, None)
        if state.parent is not None:
            state.parent.children.discard(state)
        self._count(state, -1, -state.pages)
        state.zygote.end(state.process)

    def forget(self, tree: str) -> None:
        """Give up all that a tree has."""
        if self.account(tree).states:
            for state in [state for state in self._in_order() if state.tree == tree and state.parent is None]:
                self.drop(state)
        del self._accounts[tree]

    def bury(self, zygote: Zygote) -> None:
        """Take out all states of a zygote that has ended."""
        for state in [state for state in self._in_order() if state.zygote is zygote]:
            self._parents.pop(state.key, None)
            self._candidates.pop(state.key, None)
            self._count(state, -1, -state.pages)
            state.process.close()

    def _in_order(self) -> Iterator[State]:
        """All states, the first to be given up first."""
        kinds: Iterable[OrderedDict[Key, State]] = (self._candidates, self._parents)
        return (state for kind in kinds for state in kind.values())

    def _beyond(self, account: Account, share: int) -> bool:
        return account.states > self._most.states // share or account.pages > self._most.pages // share

    def _count(self, state: State, states: int, pages: int) -> None:
        for account in (self._total, self.account(state.tree)):
            account.states += states
            account.pages += pages
