"""How far a long task has come: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TextIO

from ir.names import printable

Event = Callable[[str, float | None], None]
"""What a long task calls: a message, and the fraction that is done where it is known."""

CLEAR = "\r\x1b[K"


class Progress:
    """Shows events on a stream (default: standard error); itself an ``Event``.

    progress = Progress()
    progress.update("epoch 3/10  loss 0.123")
    progress.done("10 epochs  loss 0.042")
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Show an event, with its percentage if it has one."""
        self.update(message if fraction is None else f"{message}  {fraction:.0%}")

    def update(self, text: str) -> None:
        """Show the state of a task that goes on."""
        text = printable(text)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(CLEAR + text[:width])
        else:
            self._write(text + "\n")

    def done(self, text: str) -> None:
        """Show the last line of a task; it stays."""
        self._write((CLEAR if self.terminal else "") + text + "\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
