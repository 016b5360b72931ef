"""The output thread: a reader that is slow, gone or odd costs lines, never time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

from sidecar.observe.output import Output, make_turn


@contextlib.contextmanager
def pipe():
    reader, writer = os.pipe()
    ends = {reader, writer}
    try:
        yield reader, writer, ends
    finally:
        for end in ends:
            os.close(end)


def read_all(reader):
    pieces = []
    while piece := os.read(reader, 65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_lines_arrive_whole_and_in_order():
    with pipe() as (reader, writer, ends):
        output = Output(writer)
        os.close(writer)
        ends.discard(writer)
        for number in range(1000):
            output.write(b"line %d\n" % number)
        output.close()
        assert read_all(reader) == b"".join(b"line %d\n" % number for number in range(1000))
        assert output.dropped == 0


def test_a_full_pipe_never_blocks_and_every_lost_line_is_counted():
    with pipe() as (reader, writer, ends):
        output = Output(writer, limit=100_000)
        os.close(writer)
        ends.discard(writer)
        line = b"x" * 99 + b"\n"
        for _ in range(10_000):
            output.write(line)
        assert output.dropped > 0
        received = []
        drain = threading.Thread(target=lambda: received.append(read_all(reader)))
        drain.start()
        output.close(10)
        drain.join(10)
        lines = received[0].splitlines(keepends=True)
        assert set(lines) == {line}
        assert len(lines) + output.dropped == 10_000


def test_closing_while_nobody_reads_gives_up_after_the_time_allowed_and_counts_what_was_queued():
    with pipe() as (reader, writer, _):
        output = Output(writer)
        block = b"y" * 1023 + b"\n"
        for _ in range(500):
            output.write(block)
        output.close(0.05)
        assert output.dropped > 0
        output.write(b"too late\n")
        before = output.dropped
        output.write(b"too late\n")
        assert output.dropped == before + 1
        # Let the thread, stuck in its write, end.
        while output._thread.is_alive():
            os.read(reader, 65536)
            output._thread.join(0.01)
        os.close(output._fd)
        assert writer != output._fd


def test_a_reader_that_is_gone_costs_lines_and_nothing_else():
    with pipe() as (reader, writer, ends):
        output = Output(writer)
        os.close(reader)
        ends.discard(reader)
        for _ in range(5):
            output.write(b"nobody hears\n")
        output.close()
        assert output.dropped == 5


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for_and_left_as_it_is():
    with pipe() as (reader, writer, ends):
        os.set_blocking(writer, False)
        output = Output(writer)
        text = b"z" * 99 + b"\n"
        for _ in range(3000):
            output.write(text)
        received = []
        drain = threading.Thread(target=lambda: received.append(read_all(reader)))
        drain.start()
        output.close(10)
        assert os.get_blocking(writer) is False
        os.close(writer)
        ends.discard(writer)
        drain.join(10)
        assert received[0] == text * 3000
        assert output.dropped == 0


def test_the_flags_of_a_blocking_descriptor_that_others_share_stay_as_they_are():
    with pipe() as (_, writer, _ends):
        output = Output(writer)
        output.write(b"a\n")
        output.close()
        assert os.get_blocking(writer) is True


def test_a_line_that_an_error_cut_in_half_does_not_run_into_the_next(monkeypatch):
    """The disk is full after half a line, and then it is not."""
    with pipe() as (reader, writer, ends):
        output = Output(writer)
        os.close(writer)
        ends.discard(writer)
        real, answers = os.write, [3, OSError("no space left")]

        def write(fd, data):
            if fd == output._fd and answers:
                answer = answers.pop(0)
                if isinstance(answer, OSError):
                    raise answer
                return real(fd, bytes(data)[:answer])
            return real(fd, data)

        monkeypatch.setattr(os, "write", write)
        output.write(b"first line\n")
        output.write(b"second line\n")
        output.close()
        assert read_all(reader) == b"fir\nsecond line\n"
        assert output.dropped == 1


def test_a_socket_is_as_good_as_a_pipe():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = Output(ours.fileno())
        output.write(b"over a socket\n")
        output.close()
        assert theirs.recv(100) == b"over a socket\n"


def test_an_output_that_never_wrote_has_no_thread_and_closes():
    with pipe() as (_, writer, _ends):
        output = Output(writer)
        assert output._thread is None
        output.close()
        output.close()


WRITER = """
import os, sys
from sidecar.observe.output import Output
output = Output(1, turn=int(sys.argv[1]))
line = (sys.argv[2] * 1500 + "\\n").encode()
for _ in range(300):
    output.write(line * 8)
    while output._waiting:
        pass
output.close(20)
"""


def writer_process(turn, letter, into):
    command = [sys.executable, "-c", WRITER, str(turn), letter]
    return subprocess.Popen(command, stdout=into, pass_fds=(turn,))


def test_lines_of_several_processes_never_run_into_each_other():
    turn = make_turn()
    with pipe() as (reader, writer, ends):
        processes = [writer_process(turn, letter, writer) for letter in "abc"]
        os.close(writer)
        ends.discard(writer)
        lines = read_all(reader).splitlines()
        assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert sorted(set(lines)) == [letter * 1500 for letter in (b"a", b"b", b"c")]
    assert len(lines) == 3 * 300 * 8
    os.close(turn)


def test_a_process_that_dies_in_the_middle_of_a_line_holds_up_nobody_and_the_next_line_begins_anew():
    turn = make_turn()
    with pipe() as (reader, writer, ends):
        first = writer_process(turn, "a", writer)
        taken = os.read(reader, 100)  # it writes more than the pipe takes, so now it waits in the middle of a line
        first.send_signal(signal.SIGKILL)
        first.wait()
        output = Output(writer, turn=turn)
        os.close(writer)
        ends.discard(writer)
        output.write(b"whole\n")
        closing = threading.Thread(target=output.close, args=(20.0,))
        closing.start()
        lines = (taken + read_all(reader)).splitlines()
        closing.join()
        assert lines[-1] == b"whole"
        assert set(lines[:-2]) <= {b"a" * 1500}
    os.close(turn)
