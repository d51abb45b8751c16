from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from davatar.core.errors import Interrupted
from davatar.core.interrupt import interruptible

WORKER = """
import signal, sys
from davatar.core.errors import DavatarError
from davatar.core.interrupt import interruptible
from davatar.core.journal import Journal

journal = Journal(sys.argv[1])
try:
    with interruptible() as stop:
        for item in range(10):
            if journal.done(item):
                continue
            if len(journal) == 3 and not item > 3:
                print("ready", flush=True)
                sys.stdin.readline()  # the signal comes in the middle of this item
            journal.mark(item, square=item * item)
            stop.check()
except DavatarError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_after_the_item_and_it_resumes(number, tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path / "journal.jsonl")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 130
    assert err == "stopped; what was finished is saved (run the same command again to resume)\n"
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 4
    assert subprocess.run(command, input="", text=True, capture_output=True, timeout=60).returncode == 0
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 10


def test_a_second_signal_stops_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_in_the_last_item_is_not_lost():
    with pytest.raises(Interrupted), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_error_of_the_block_wins_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_gets_a_stop_and_leaves_the_handlers_alone():
    seen = []

    def work():
        with interruptible() as stop:
            stop.check()
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
