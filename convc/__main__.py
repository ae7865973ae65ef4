"""``python -m convc`` is the command ``convc``."""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; the exit status. An interrupt ends it quietly from here on."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else the shell wants it ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from convc.cli import main as command  # takes a moment

    signal.signal(signal.SIGINT, before)
    return command()


if __name__ == "__main__":
    sys.exit(main())
