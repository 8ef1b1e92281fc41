"""Generations: each one load of the user's code, by a template process that forks its workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, Protocol

import msgspec

from socketkeep._base import _log
from socketkeep._config._address_lists import NO_LISTS, AddressLists
from socketkeep._config._capacity import soft_limit
from socketkeep._config._chosen import encoded_settings
from socketkeep._config._needs import idle_options
from socketkeep._config._renewal import Renewal
from socketkeep._config._server_options import ServeConfig, bound_addresses, listener_settings
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import Exit, System
from socketkeep._keeper.tables._crash_policy import Policy
from socketkeep._keeper.tables._records import GenerationRecord, GenerationState, carried
from socketkeep._keeper.tables._state import KeepOpen, SavedGeneration, SavedTemplate
from socketkeep._keeper.workers._screening import Nonsense, Screening
from socketkeep._keeper.workers._workers import Link, note_garbled, restored_link
from socketkeep._net._listener import Listener
from socketkeep._wire._channel import Channel, Packet, channel_pair
from socketkeep._wire._messages import Began, Forked, ForkFailed, Loaded, LoadFailed, LoadTarget
from socketkeep._wire._rendezvous import HELD, open_directory

EXIT_START_FAILED: Final = 3
EXIT_LOAD_FAILED: Final = 4
_EXIT_TIME: Final = 2.0  # seconds a template has to exit, once its channel is closed
_LAST_WORD: Final = 1.0  # seconds that are waited, once it has ended, for what it forked last
_MOST_THREADS: Final = 20  # that are named
_LONGEST_TEXT: Final = 65536


class GenerationEvent(Enum):
    """An event in its life."""

    LOADED = "loaded"
    READY = "ready"  # all its workers are
    FAILED = "failed"
    SUPERSEDED = "superseded"  # the next one serves


TRANSITIONS: Final[dict[tuple[GenerationState, GenerationEvent], GenerationState]] = {
    (GenerationState.LOADING, GenerationEvent.LOADED): GenerationState.STARTING,
    (GenerationState.LOADING, GenerationEvent.FAILED): GenerationState.RETIRED,
    (GenerationState.STARTING, GenerationEvent.READY): GenerationState.SERVING,
    (GenerationState.STARTING, GenerationEvent.FAILED): GenerationState.RETIRED,
    (GenerationState.SERVING, GenerationEvent.SUPERSEDED): GenerationState.RETIRED,
    # A template that died while its workers served was started again.
    (GenerationState.SERVING, GenerationEvent.LOADED): GenerationState.SERVING,
}


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """The reason for which a generation cannot serve, and the exit code that says it."""

    exit_code: int
    error: str


class TemplateEvents(Protocol):
    """The news that templates have for the keeper."""

    def generation_loaded(self, generation: Generation) -> None: ...
    def generation_failed(self, generation: Generation, failure: LoadFailure) -> None: ...
    def template_ended(self) -> None: ...
    def worker_forked(self, forked: Forked, generation: Generation) -> None: ...
    def worker_began(self, began: Began, generation: Generation) -> None: ...
    def worker_fork_failed(self, failed: ForkFailed, generation: Generation) -> None: ...
    def template_condemned(self, generation: Generation, why: str) -> None: ...


@dataclass(eq=False, slots=True)
class Generation(GenerationRecord):
    """One load of the user's code, and its template."""

    link: Link = field(init=False)
    pid: int = 0
    failure: LoadFailure | None = None
    upgraded: bool = False  # it came with a new version of the package
    config: ServeConfig = field(init=False)  # that its workers go by
    lists: AddressLists = NO_LISTS  # and these
    renewal: Renewal | None = None  # of the server's options, with which it begins

    def snapshot(self) -> SavedGeneration:
        """Return what the next version of the keeper knows it by."""
        return SavedGeneration(**carried(self, GenerationRecord))

    @classmethod
    def restored(cls, saved: SavedGeneration) -> Generation:
        """Make the record anew, but for its link."""
        return cls(**carried(saved, GenerationRecord))

    def step(self, event: GenerationEvent) -> None:
        """Go to the state that follows; KeyError, a bug, when the table has none."""
        self.state = TRANSITIONS[self.state, event]


class Templates:
    """Starts the template of a generation, and hears from it."""

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        listeners: Sequence[Listener],
        boot: int,
        name: str,
        rendezvous: str,
        events: TemplateEvents,
        screening: Screening,
        inlets: Mapping[int, Listener],
    ) -> None:
        self._inlets = inlets
        self._reactor = reactor
        self._system = system
        self._listeners = listeners
        self._boot = boot
        self._name = name
        self._rendezvous = rendezvous
        self._events = events
        self._screening = screening
        self._running = ChildWatch(reactor, system)
        self._alive: dict[int, tuple[Generation, Link]] = {}  # by pid
        self.place = -1  # the directory of the rendezvous, for workers of another user

    def __len__(self) -> int:
        return len(self._alive)

    def end(self, generation: Generation) -> None:
        """Let the generation's template go: it forks no more workers.

        It exits when it reads that, and until then what it says of workers is heard; one that is
        still in the user's code is killed.
        """
        pid = generation.pid
        generation.link.finish()
        if generation.state is GenerationState.LOADING:
            self._running.kill(pid)
        else:
            self._reactor.call_later(_EXIT_TIME, lambda: self._running.kill(pid))

    def kill_all(self) -> None:
        """End every template at once."""
        self._running.kill_all()

    def start(self, generation: Generation) -> None:
        """Start the generation's template process and have it load the user's code.

        Raises OSError when no process can be started.
        """
        ours, theirs = channel_pair()
        self.open_place()
        place = self.place
        with theirs:
            try:
                generation.pid = self._system.spawn_template(theirs.fileno(), place)
            except OSError:
                ours.close()
                raise
        pid = generation.pid
        generation.link = link = Link(
            self._reactor,
            Channel(ours, wary=True),
            partial(self._heard, generation, pid),
            partial(self._hung_up, pid),
            partial(self._condemn, generation, pid),
        )
        self._watch(generation, pid, link)
        config, descriptors = generation.config, self._system.worker_descriptors
        link.send(
            LoadTarget(
                config=msgspec.msgpack.encode(config),
                generation=generation.number,
                boot=self._boot,
                listeners=[listener.text for listener in self._listeners],
                sockets=[each.fileno() for each in (*self._listeners, *self._inlets.values())],
                name=self._name,
                descriptors=descriptors and soft_limit(descriptors, config.max_connections),
                rendezvous=HELD if place >= 0 else self._rendezvous,
                allow=generation.lists.allow,
                deny=generation.lists.deny,
                inlets=list(self._inlets),
                settings=encoded_settings(listener_settings(config, len(self._listeners))),
                idle=idle_options(config),
                bound_as=bound_addresses(config),
            )
        )

    def snapshot(self, keep: KeepOpen) -> tuple[list[SavedGeneration], list[SavedTemplate]]:
        """Return the templates, and the generations that they are of."""
        generations = {generation.number: generation for generation, _ in self._alive.values()}
        return [each.snapshot() for each in generations.values()], [
            SavedTemplate(pid=pid, generation=generation.number, link=link.snapshot(keep))
            for pid, (generation, link) in self._alive.items()
        ]

    def restore(
        self, generations: Mapping[int, Generation], templates: Sequence[SavedTemplate]
    ) -> None:
        """Take over the templates of an earlier version."""
        for generation in generations.values():
            generation.link = restored_link(
                self._reactor, None, Packet.close, lambda: None, note_garbled
            )
        for saved in templates:
            generation = generations[saved.generation]
            link = restored_link(
                self._reactor,
                saved.link,
                partial(self._heard, generation, saved.pid),
                partial(self._hung_up, saved.pid),
                partial(self._condemn, generation, saved.pid),
            )
            generation.pid, generation.link = saved.pid, link
            self._watch(generation, saved.pid, link)
            if generation.state is GenerationState.RETIRED:
                self.end(generation)

    def open_place(self) -> None:
        """Open the directory of the rendezvous anew, where workers do not find it by its path.

        Who has no way there any more goes on with what it has.
        """
        account = self._system.account
        if account is None or not self._rendezvous:
            return
        try:
            fresh = open_directory(self._rendezvous, account.uid)
        except OSError as error:
            if self.place < 0 or not isinstance(error, PermissionError):
                _log.warning("workers cannot be taken over by another keeper", error=str(error))
            return
        if self.place >= 0:
            os.close(self.place)
        self.place = fresh

    def _watch(self, generation: Generation, pid: int, link: Link) -> None:
        self._alive[pid] = generation, link
        self._running.watch(pid, lambda ended: self._ended(pid, generation, link, ended))

    def _hung_up(self, pid: int) -> None:
        """Its channel has closed; its death is told by the pidfd, if that is what it was."""
        self._reactor.call_later(_EXIT_TIME, lambda: self._running.kill(pid))

    def _condemn(self, generation: Generation, pid: int, why: str) -> None:
        """End a template that said what cannot be."""
        self._events.template_condemned(generation, why)
        self._running.kill(pid)

    def _heard(self, generation: Generation, pid: int, packet: Packet) -> None:
        try:
            self._received(generation, packet)
        except Nonsense as error:
            self._condemn(generation, pid, str(error))

    def _received(self, generation: Generation, packet: Packet) -> None:
        match packet.message:
            case Loaded() if (generation.state, GenerationEvent.LOADED) not in (
                *TRANSITIONS,
                (GenerationState.RETIRED, GenerationEvent.LOADED),
            ):
                raise Nonsense(f"Loaded from a generation that is {generation.state.value}")
            case Loaded() if generation.state is GenerationState.RETIRED:
                pass  # it had been given up
            case Loaded(model=model, resumable=resumable, threads=threads) as loaded:
                generation.model = model
                generation.resumable = resumable
                generation.policy = Policy(loaded.on_crash, loaded.redeliver)
                generation.on_taken = loaded.on_taken
                generation.on_push = loaded.on_push
                generation.on_leaving = loaded.on_leaving
                for name in threads[:_MOST_THREADS]:
                    _log.warning(
                        "the code started a thread at import; workers will not have it",
                        thread=name,
                        generation=generation.number,
                    )
                if generation.config.keep != "none":
                    self._tell_what_stays(generation, loaded)
                generation.step(GenerationEvent.LOADED)
                self._events.generation_loaded(generation)
            case LoadFailed(error=error, exit_code=exit_code):
                known = exit_code if 0 < exit_code < 256 else EXIT_LOAD_FAILED
                generation.failure = LoadFailure(known, error[:_LONGEST_TEXT])
            case Forked() as forked:
                self._events.worker_forked(forked, generation)
            case Began() as began:
                self._events.worker_began(began, generation)
            case ForkFailed() as failed:
                self._events.worker_fork_failed(failed, generation)
            case None:
                pass  # it did not arrive
            case message:
                raise Nonsense(f"{type(message).__name__} from who never says it")

    def _tell_what_stays(self, generation: Generation, loaded: Loaded) -> None:
        """Say of a handler, before it serves, that reloads will not move its connections."""
        if generation.state is not GenerationState.LOADING:
            return  # it has been said
        fields = {"target": generation.config.target, "generation": generation.number}
        if not loaded.resumable:
            _log.info(
                "the handler is not resumable: at a reload its connections stay with the old code",
                **fields,
            )
        elif loaded.never_commits:
            _log.warning(
                "the handler answers and never commits: call conn.commit() where a message is dealt"
                " with, or no reload moves its connections",
                **fields,
            )

    def _ended(self, pid: int, generation: Generation, link: Link, ended: Exit) -> None:
        """Hear it out: what it forked last may be alive, and may not have said so yet.

        A worker of which nothing had been heard would be nobody's, and would keep the port.  All
        who can speak for the template close its channel when they have: the process between it and
        a worker by exiting, the worker before anything else.
        """
        link.drain()
        if link.open:
            conclude = partial(self._conclude, pid, generation, link, ended)
            link.when_closed(conclude)
            # What the user's code forked at import has the channel for as long as it runs.
            self._reactor.call_later(_LAST_WORD, conclude)
        else:
            self._conclude(pid, generation, link, ended)

    def _conclude(self, pid: int, generation: Generation, link: Link, ended: Exit) -> None:
        if self._alive.get(pid, (None, None))[1] is not link:
            return
        del self._alive[pid]
        link.close()
        self._events.template_ended()
        if generation.link is not link or generation.state is GenerationState.RETIRED:
            return
        failure = generation.failure
        if failure is None and generation.state is GenerationState.LOADING:
            text = f"the process that loads the code ended before it was done: {ended}"
            failure = LoadFailure(EXIT_LOAD_FAILED, text)
        elif failure is None:
            text = f"the process that forks the workers ended: {ended}"
            failure = LoadFailure(EXIT_START_FAILED, text)
        generation.failure = None
        self._events.generation_failed(generation, failure)
