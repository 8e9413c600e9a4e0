"""Runs a command on a pseudo-terminal by a script of steps, as a person would at the keyboard.

    terminal.py COMMAND [ARGUMENT...] < steps

A step is a line: `send TEXT`, `expect TEXT` (waits until it appears after what was matched before),
`pause SECONDS`, `mark` (starts the clock), `within SECONDS` (fails when the clock shows more) and
`exit STATUS` (waits until the command ends). TEXT knows Python's escapes. All that the command wrote is printed;
the exit code is 0 when every step went through, else 1 with the step that did not on stderr.
"""

import os
import pty
import select
import sys
import time

PATIENCE_S = 60.0  # many times what any step takes, even on a busy machine


class Terminal:
    def __init__(self, command):
        self.seen = b""
        self.matched = 0
        self.marked = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)

    def read(self, seconds):
        """Takes what the command writes next; False at its end."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux says EIO when the other side is closed
            return False
        self.seen += data
        return bool(data)

    def send(self, text):
        os.write(self.fd, text)

    def expect(self, text):
        end = time.monotonic() + PATIENCE_S
        goes_on = True
        while True:
            at = self.seen.find(text, self.matched)
            if at >= 0:
                self.matched = at + len(text)
                return
            if not goes_on or time.monotonic() > end:
                raise AssertionError("did not appear")
            goes_on = self.read(0.1)

    def exit(self, status):
        end = time.monotonic() + PATIENCE_S
        while self.read(0.1):
            if time.monotonic() > end:
                raise AssertionError("did not end")
        _, result = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(result)
        if code != int(status):
            raise AssertionError("ended with %d" % code)

    def step(self, line):
        word, _, rest = line.partition(" ")
        text = rest.encode("utf-8").decode("unicode_escape").encode("latin-1")
        if word == "send":
            self.send(text)
        elif word == "expect":
            self.expect(text)
        elif word == "pause":
            time.sleep(float(rest))
        elif word == "mark":
            self.marked = time.monotonic()
        elif word == "within":
            if time.monotonic() - self.marked > float(rest):
                raise AssertionError("took %.3f s" % (time.monotonic() - self.marked))
        elif word == "exit":
            self.exit(rest)
        else:
            raise AssertionError("unknown step")


def main():
    terminal = Terminal(sys.argv[1:])
    failed = 0
    for line in sys.stdin.read().splitlines():
        try:
            terminal.step(line)
        except AssertionError as reason:
            sys.stderr.write("%s: %s\n" % (line, reason))
            failed = 1
            break
    sys.stdout.buffer.write(terminal.seen)
    return failed


sys.exit(main())
