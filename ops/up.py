"""`ravand up`: the servers and all services of one machine, kept running in the foreground until a signal."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress

from ops import power_loss, registry
from ops.console import Console
from ops.embedded import together
from ops.errors import OperatorError
from ops.installation import Installation, Options, plan
from ops.kafka_server import KafkaServer
from ops.keeper import Keeper, State
from ops.log_file import LogFile
from ops.one_shot import Outcome, run_to_end
from ops.program import Program
from ops.state_folder import StateFolder, replace


async def up(options: Options) -> None:
    """Runs until a signal. Returns when everything has been stopped; no process of ours is left then."""
    began = time.monotonic()
    with closing(Console()) as console:
        state = StateFolder.open(options.state)
        state.require_space()
        with state.exclusively():
            await _up(state, options, console, began)


async def _up(state: StateFolder, options: Options, console: Console, began: float) -> None:
    if ended := await registry.end_leftovers(state):
        console.say("ravand", f"ended {ended} processes that an earlier run left behind")
    installation = plan(state, options, console.say)
    replace(state.environment_file, json.dumps(installation.settings))
    await _Run(state, installation, console, began).until_stopped()


# What an answer of the API needs. The others would take their share of the processor while these load.
_FIRST = {"api", "projector"}


class _Run:
    """One run, from the first process to the last."""

    def __init__(self, state: StateFolder, installation: Installation, console: Console, began: float) -> None:
        self._state, self._installation, self._console, self._began = state, installation, console, began
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._rest_may_load = asyncio.Event()
        self._servers = [self._keeper(program, console.relay_server) for program in installation.servers]
        self._services = [self._keeper(program, console.relay_service) for program in installation.services]

    def _keeper(self, program: Program, relay: object) -> Keeper:
        assert callable(relay)
        name = self._label(program)
        voice = self._console.voice(name)
        return Keeper(program, self._state.logs, say=voice, on_line=relay(name), on_change=self._note)

    def _label(self, program: Program) -> str:
        """What people call this copy. Of workers there may always be another one."""
        everything = [*self._installation.servers, *self._installation.services]
        several = sum(other.name == program.name for other in everything) > 1
        return f"{program.name} {program.index}" if several or program.name == "worker" else program.name

    def _note(self) -> None:
        with suppress(OperatorError):  # A disk that is full now must not end what runs.
            registry.write(self._state, [*self._servers, *self._services])

    async def until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        # Under nohup a hang-up is ignored, and stays so.
        hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            loop.add_signal_handler(number, self._on_signal)
        starting = asyncio.create_task(self._start())
        stopped = asyncio.create_task(self._stop.wait())
        helper: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                helper = asyncio.create_task(self._make_aot_cache())
                await stopped
        finally:
            for task in filter(None, (starting, stopped, helper)):
                task.cancel()
            await asyncio.gather(*filter(None, (starting, stopped, helper)), return_exceptions=True)
            await self._stop_all()

    def _on_signal(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
        elif not self._hurry.is_set():
            self._console.say("ravand", "stopping at once")
            self._hurry.set()

    async def _start(self) -> None:
        """The services load beside the servers and wait for them; those that nobody waits for load a little later."""
        await together([self._start_servers(), self._start_services()])

    async def _start_services(self) -> None:
        await together(self._start_service(keeper) for keeper in self._services)
        if not self._services:
            await self._rest_may_load.wait()
        took = time.monotonic() - self._began
        settings = self._installation.settings
        where = f"http://{self._services[0].program.address}" if self._services else "only the servers"
        self._console.say(
            "ravand", f"ready after {took:.1f} s: {where}  (state in {settings['RAVAND_STATE']}; Ctrl-C stops)"
        )

    async def _start_servers(self) -> None:
        brokers = [keeper.program for keeper in self._servers if isinstance(keeper.program, KafkaServer)]
        if power_loss.suspected(brokers):
            await self._complete_log(brokers)
        power_loss.log_is_whole(brokers)
        await together(self._start_server(keeper) for keeper in self._servers if keeper.state is not State.RUNNING)
        power_loss.log_is_whole(brokers)
        self._console.starting = False
        # The log of a Kafka that is not ours may have to be completed, which `init` does: nobody writes before.
        known = self._state.initialised.exists() and bool(brokers)
        if known or not self._services:
            self._rest_may_load.set()
        if self._services:
            await self._initialise(urgent=not known)
            self._state.initialised.touch()
        self._rest_may_load.set()

    async def _complete_log(self, brokers: Sequence[KafkaServer]) -> None:
        """With brokers that nobody else can reach, which are stopped again."""
        self._console.say("kafka", "was not stopped before the machine was: its log is compared with the journal first")
        alone = power_loss.hidden(brokers)
        keepers = [self._keeper(broker, self._console.relay_server) for broker in alone]
        others = [keeper for keeper in self._servers if not isinstance(keeper.program, KafkaServer)]
        try:
            await together(
                [*(keeper.start() for keeper in keepers), *(self._start_server(keeper) for keeper in others)]
            )
            done = await self._command("complete-log", alone[0].client_settings())
        finally:
            await self._stop_group(keepers)
        if done.status != 0:
            raise OperatorError(
                f"The log could not be completed: {done.said}", "Nobody has written to it; nothing was changed."
            )
        self._console.say("kafka", done.said.rpartition("\n")[2])

    async def _command(
        self, name: str, settings: Mapping[str, str], before_exec: Callable[[], None] | None = None
    ) -> Outcome:
        """`ravand admin NAME`, with these settings on top; what it says goes into a log file."""
        log = LogFile(self._state.logs / f"{name}.log")
        with closing(log):
            return await run_to_end(
                [sys.executable, "-P", "-m", "cli", "admin", name],
                self._state.root,
                {**self._installation.environment, **settings},
                before_exec=before_exec,
                on_line=lambda line: log.write(f"{line}\n".encode()),
            )

    async def _start_server(self, keeper: Keeper) -> None:
        began = time.monotonic()
        await keeper.start()
        address, took = keeper.program.address, time.monotonic() - began
        self._console.say(self._label(keeper.program), f"answers at {address} after {took:.1f} s")

    async def _start_service(self, keeper: Keeper) -> None:
        if keeper.program.name not in _FIRST:
            await self._rest_may_load.wait()
        await keeper.launch()
        keeper.watch()
        await keeper.running()

    async def _initialise(self, *, urgent: bool) -> None:
        """Topics, tables and the object store's marker; changes nothing when they are there.

        At a first start everything waits for it. Later it usually finds all in place, and the API need not wait for
        that to be found out; after an upgrade the services wait by themselves for the tables that they need.
        """
        done = await self._command("init", {}, None if urgent else lambda: void(os.nice(10)))
        if done.status != 0:
            raise OperatorError(
                f"Topics and tables could not be made: {done.said}",
                f"All that it said is in {self._state.logs / 'init.log'}."
                " Nothing is half done: start again when the cause is gone.",
            )
        self._console.say("init", done.said.rpartition("\n")[2] or "done")

    async def _make_aot_cache(self) -> None:
        """In the background, at the lowest priority, once per version of Kafka: the next start is faster."""
        if not any(keeper.program.name == "kafka" for keeper in self._servers):
            return
        await run_to_end(
            [sys.executable, "-P", "-m", "ops.aot_cache"],
            self._state.root,
            self._installation.environment,
            before_exec=lambda: void(os.nice(19)),
        )

    async def _stop_all(self) -> None:
        """Services in the order of the list, copies of one at once; then the servers that they needed until then."""
        self._console.say("ravand", "stopping")
        for _, group in itertools.groupby(self._services, key=lambda keeper: keeper.program.name):
            await self._stop_group(group)
        for _, group in itertools.groupby(self._servers, key=lambda keeper: keeper.program.name):
            await self._stop_group(group)
        self._state.services_file.unlink(missing_ok=True)
        self._state.environment_file.unlink(missing_ok=True)
        self._console.say("ravand", "stopped")

    async def _stop_group(self, group: Iterable[Keeper]) -> None:
        await asyncio.gather(*(keeper.stop(self._hurry) for keeper in group))


def void(_: object) -> None:
    """For a callback whose result nobody wants."""
