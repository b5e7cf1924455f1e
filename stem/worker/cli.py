"""`stem-worker`: one worker as a process of its own.

Exit codes: 0 all tasks settled or handed back, 1 some were not, 2 usage or configuration, 69 the broker is of no use
(one that is away is waited for), 70 the worker broke (its loop stood still, one of its parts kept dying, or the
application's own code failed while it was imported, perhaps of a database that is away), 78 the broker does not let the
worker in (user, password, rights, a newer keyspace), at the start or later. With several processes: 78 or 2 if one of
them ended so, else 1 if tasks were left, else 0.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, Final, NoReturn

from stem import startup
from stem.authority import ControlConfig
from stem.client import Stem
from stem.config import LOG_LEVELS, StemConfig, TLSConfig, parse_duration, parse_size
from stem.contracts import Broker, ResultBackend
from stem.errors import BrokerError, BrokerRefusedError, ConfigError, StemError
from stem.messages.names import check_name
from stem.signing import PayloadSigner
from stem.text import clean
from stem.worker import host, logs
from stem.worker.identity import stem_version
from stem.worker.lifecycle import (
    REFUSED_EXIT,
    STOPPING,
    WEDGED_EXIT,
    WorkerLifecycleConfig,
    stopping_here,
    write_stacks,
)
from stem.worker.outage import RIGHTS
from stem.worker.reference import ApplicationFailedError, load
from stem.worker.runtime import Worker
from stem.worker.supervisor import Supervisor, commands_of, follow_life
from stem.worker.watchdog import WEDGED_S

EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 69
EXIT_INTERRUPTED: Final = 130
LOOP_ENDS_S: Final = 1.0
"""How long a handler that goes on after the worker's goodbye may keep the loop; a thread may keep the process for
`THREADS_END_S`."""
THREADS_END_S: Final = 2.0
OF_A_PROCESS: Final = {
    "worker_queues": "STEM_WORKER_QUEUES",
    "worker_name": "STEM_WORKER_NAME",
    "worker_concurrency": "STEM_WORKER_CONCURRENCY",
    "health_port": "STEM_HEALTH_PORT",
    "health_host": "STEM_HEALTH_HOST",
    "drain_timeout_s": "STEM_DRAIN_TIMEOUT",
    "wedged_timeout_s": "STEM_WEDGED_TIMEOUT",
}
"""Settings of one worker, which whoever starts it may give whatever the application was made with; see `_settings`."""
SIGNALS: Final = (*STOPPING, signal.SIGUSR1)
"""All that a worker listens to."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"stem-worker: {clean(message, 300)} (see stem-worker --help)\n")


def parser() -> argparse.ArgumentParser:
    parse = _Parser(prog="stem-worker", description="Run tasks of an application.")
    parse.add_argument("app", metavar="APP", help="where the application is: mypkg.tasks:app")
    parse.add_argument("--queue", "-q", action="append", metavar="NAME", help="take from this queue (repeatable)")
    parse.add_argument("--concurrency", "-c", type=int, metavar="N", help="tasks at once")
    parse.add_argument("--name", "-n", metavar="NAME", help="a name that is stable over restarts")
    parse.add_argument("--url", metavar="URL", help="the broker (default: the application's, or STEM_BROKER_URL)")
    parse.add_argument("--namespace", metavar="NS", help="prefix of every key and channel")
    parse.add_argument("--log-format", choices=("console", "json"), help="default: console on a terminal, else json")
    parse.add_argument("--log-level", choices=LOG_LEVELS)
    parse.add_argument("--drain-timeout", metavar="25s", help="how long a warm stop waits for what runs")
    parse.add_argument("--soft-timeout", metavar="3s", help="how long handlers that were told to stop may take")
    parse.add_argument("--wedged-timeout", metavar="60s", help="how long the work loop may stand still")
    parse.add_argument("--max-tasks-per-child", type=int, metavar="N", help="replace a child process after so many")
    parse.add_argument("--max-memory-per-child", metavar="512MiB", help="or when it holds more")
    parse.add_argument("--processes", type=int, metavar="N", help="run N such workers, NAME-1 to NAME-N, and mind them")
    parse.add_argument(
        "--health-port",
        type=int,
        metavar="PORT",
        help="answer /livez, /readyz, /metrics there (process i: PORT+i-1)",
    )
    parse.add_argument("--debug", action="store_true", help="show tracebacks of start-up errors")
    said = f"stem-worker {stem_version()}, Python {platform.python_version()}"
    parse.add_argument("--version", action="version", version=said, help="say which version this is")
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Errors are one line on stderr."""
    with _stoppable():
        args = parser().parse_args(argv)
        try:
            return _run(args, sys.argv[1:] if argv is None else argv)
        except BrokerError as error:
            shut_out = isinstance(error, BrokerRefusedError) and error.code in RIGHTS
            return _complain(error, REFUSED_EXIT if shut_out else EXIT_UNAVAILABLE, debug=args.debug)
        except StemError as error:
            code = WEDGED_EXIT if isinstance(error, ApplicationFailedError) else EXIT_USAGE
            return _complain(error, code, debug=args.debug)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except Exception as error:  # of the system, such as no thread to be had: another start may fare better
            return _complain(error, WEDGED_EXIT, debug=True)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """End with 0 when told to stop while the application is loaded: nothing was taken yet, so all is handed back. And
    write where the import stands when asked.

    Process 1 of a container would not hear of it at all: there a signal without a handler is dropped.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _exit_now(0)

    def show(number: int, frame: FrameType | None) -> None:
        write_stacks(None)

    if threading.current_thread() is not threading.main_thread():  # it cannot own the process's signals
        yield
        return
    wanted: dict[int, Callable[[int, FrameType | None], None]] = {signal.SIGUSR1: show}
    wanted |= {number: stop for number in stopping_here() if number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Not once a worker or supervisor has put something in its place.
            if signal.getsignal(number) is wanted[number]:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _complain(error: BaseException, code: int, *, debug: bool) -> int:
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            sys.stderr.write(clean(line, 4_000) + "\n")
    sys.stderr.write(f"stem-worker: {clean(error, 600)}\n")
    return code


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    # Set before the application is imported, so that its own `Stem.connect()` means the same broker.
    if args.url is not None:
        os.environ["STEM_BROKER_URL"] = args.url
    if args.namespace is not None:
        os.environ["STEM_NAMESPACE"] = check_name("namespace", args.namespace)
    config = StemConfig.from_environment()
    if config.prefetch:
        raise ConfigError("STEM_PREFETCH is not supported: a worker takes no more tasks than it has free slots")
    lifecycle = WorkerLifecycleConfig(
        install_signal_handlers=True,
        soft_timeout=_duration(args.soft_timeout, "--soft-timeout", 3.0),
        drain_timeout=_duration(args.drain_timeout, "--drain-timeout", None),
        wedged_timeout=_duration(args.wedged_timeout, "--wedged-timeout", None, least=WEDGED_S),
        max_tasks_per_child=args.max_tasks_per_child,
        max_memory_per_child=_size(args.max_memory_per_child, "--max-memory-per-child"),
    )
    if args.name is not None:
        config = replace(config, worker_name=check_name("worker", args.name))
    name = config.worker_name or host.host_name()
    processes = config.worker_processes if args.processes is None else args.processes
    if processes != 1:
        logs.install(style=args.log_format or config.log_format, level=args.log_level or config.log_level, worker=name)
        port = config.health_port if args.health_port is None else args.health_port
        return Supervisor(commands_of(argv, processes, name=name, health_port=port)).run(ending=_ignore_signals)
    follow_life()
    app = load(args.app)
    logs.install(style=args.log_format or config.log_format, level=args.log_level or config.log_level, worker=name)
    startup.settle(for_others=True)
    return _in_loop(_work(app, args, lifecycle=lifecycle, settings=_settings(app, args)))


def _settings(app: Stem, args: argparse.Namespace) -> StemConfig:
    """Return the application's settings, and where the environment says those of this process, the environment's.

    The application need not have been made from the environment. It may have changed it, though (a file of settings
    that it loads), so that is read again.

    Raises:
        ConfigError: the worker would obey everybody, or run what nobody signed, although keys are there; or it would
            work in another namespace than the command line names.
    """
    if args.namespace is not None and args.url is None and app.namespace != args.namespace:
        raise ConfigError(
            f"--namespace {args.namespace}: {args.app} was made with namespace {app.namespace}, and its worker would "
            "work there: make it with Stem.connect(), without namespace=, or give --url too, or leave --namespace out"
        )
    here = StemConfig.from_environment()
    if here.control != ControlConfig() and app.config.control == ControlConfig():
        raise ConfigError(
            f"STEM_CONTROL_* is set, but {args.app} was made without those keys, and its worker would obey everybody: "
            "make it with Stem.connect(), or with config=StemConfig.from_environment(), or unset STEM_CONTROL_*"
        )
    if app.signer is None and PayloadSigner.maybe(here.signing) is not None:
        raise ConfigError(
            f"STEM_SIGNING_* is set, but {args.app} was made without a signer, and its worker would run what nobody "
            "signed: make it with Stem.connect(), or with signer=PayloadSigner.maybe(config.signing), or unset "
            "STEM_SIGNING_*"
        )
    said = {
        name: getattr(here, name) for name, variable in OF_A_PROCESS.items() if os.environ.get(variable, "").strip()
    }
    if args.name is not None:
        said["worker_name"] = args.name
    if args.health_port is not None:
        said["health_port"] = args.health_port
    return replace(app.config, **said)


def _size(text: str | None, name: str) -> int | None:
    return None if text is None else parse_size(text, name=name)


def _duration(text: str | None, name: str, default: Any, *, least: float = 0.0) -> Any:
    return default if text is None else parse_duration(text, name=name, least=least)


def _in_loop(main_coroutine: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed.

    Not `asyncio.run`: at its end that waits for every task, and a handler that does not end must not keep the process.
    """
    try:
        import uvloop  # loaded by worker processes only

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        code = loop.run_until_complete(main_coroutine)
        leftovers = [task for task in asyncio.all_tasks(loop) if not task.done()]
        for task in leftovers:
            task.cancel()
        if leftovers:
            loop.run_until_complete(asyncio.wait(leftovers, timeout=LOOP_ENDS_S))
        # Both wait for what handlers left behind: generators, and calls in asyncio's own threads.
        ending = [loop.create_task(loop.shutdown_asyncgens()), loop.create_task(loop.shutdown_default_executor())]
        loop.run_until_complete(asyncio.wait(ending, timeout=THREADS_END_S))
        stuck = any(not task.done() for task in leftovers + ending)
    finally:
        asyncio.set_event_loop(None)
    if stuck or any(thread.name.startswith("stem-handler") and thread.is_alive() for thread in threading.enumerate()):
        _exit_now(code)
    loop.close()
    _bound_the_end(code)
    return code


def _bound_the_end(code: int) -> None:
    """End the process after a while if a thread of the application does not: the interpreter waits for each."""
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        return
    joined = threading.Event()

    def watch() -> None:
        if not joined.wait(THREADS_END_S):
            _exit_now(code)

    # The last one registered is called first, right after the threads were waited for: what else is to be done at the
    # end may take its time.
    atexit.register(joined.set)
    threading.Thread(target=watch, name="stem-end", daemon=True).start()


def _guard_the_end() -> None:
    """Put handlers below those of a worker that is started in the same step of the loop: they count once it has ended.

    It has taken its own off then, and a signal that asks it to stop must not change its exit code.
    """
    loop = asyncio.get_running_loop()

    def again(number: int) -> None:
        if signal.getsignal(number) is not late:
            os.kill(os.getpid(), number)

    def late(number: int, frame: object) -> None:
        # Or the worker has not put its own on yet: then they are there once this step is over, and hear of it.
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(again, number)

    for number in (*stopping_here(), signal.SIGUSR1):
        signal.signal(number, late)


def _ignore_signals() -> None:
    """Let none of these change the exit code any more, which is known; also while the interpreter is torn down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _exit_now(code: int) -> NoReturn:
    """End the process although handlers still run: they have been settled, and cannot be waited for."""
    # What the interpreter would do at its end, and os._exit does not.
    if (connect := sys.modules.get("stem.adapters.connect")) is not None:
        connect.release_embedded()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, RuntimeError):  # the latter in a signal handler that came in the midst of a write
            continue
    os._exit(code)


async def _work(
    app: Stem,
    args: argparse.Namespace,
    *,
    lifecycle: WorkerLifecycleConfig,
    settings: StemConfig,
) -> int:
    broker, backend = await asyncio.to_thread(_connections, app, args, settings)
    signer = app.signer
    worker = Worker(
        broker=broker,
        registry=app.registry,
        backend=backend,
        queues=args.queue,
        concurrency=args.concurrency,
        lifecycle=lifecycle,
        signer=signer,
        app=args.app,
        config=settings,
    )
    _guard_the_end()
    try:
        await worker.start()
        if worker.started_well and sys.stderr.isatty():
            sys.stderr.write("\n".join(worker.banner()) + "\n")
        return await worker.wait()
    finally:
        # Python gives up handlers of its own when it ends, and what is ignored stays ignored.
        _ignore_signals()
        await broker.close()
        if backend is not None:
            await backend.close()
        await app.close()


def _connections(app: Stem, args: argparse.Namespace, settings: StemConfig) -> tuple[Broker, ResultBackend | None]:
    """Return handles of the worker's own; may start the embedded server, so not for the loop.

    Handlers that use the application may also close it, and with it the handles that it has.
    """
    backend = None if app.backend is None else app.backend.clone()
    if args.url is None:
        return app.broker.clone(), backend
    from stem.adapters.connect import connect_broker  # adapters are loaded by those who connect

    namespace = args.namespace or app.namespace
    # An application that was given a broker has none for TLS: then those of the environment, as it is now, count.
    tls = StemConfig.from_environment().tls if settings.tls == TLSConfig() else settings.tls
    return connect_broker(args.url, namespace=namespace, limits=settings.limits(), tls=tls), backend


if __name__ == "__main__":
    sys.exit(main())
