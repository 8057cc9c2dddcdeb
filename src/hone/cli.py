"""The command line: `hone VERB ...`; imports a verb's command only when it is called, so that `hone version` is immediate.

Does not know what a verb does.
"""

from __future__ import annotations

import os
import sys

from hone import log
from hone.commands.verbs import LINES, NOT_HERE, VERBS
from hone.errors import HoneError
from hone.table import nearest

INTERRUPTED = 130  # what a shell reports for Ctrl-C
_HELP = ("-h", "--help")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 the user can mend it, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb, rest = (words[0], words[1:]) if words else ("help", [])
    if verb in _HELP:
        verb, rest = "help", rest
    elif verb in ("-V", "--version"):
        verb = "version"
    elif verb in LINES and verb != "help" and any(word in _HELP for word in rest):
        verb, rest = "help", [verb]
    try:
        if verb not in VERBS:
            raise HoneError(_unknown(verb))
        code = VERBS.load(verb)(rest)
        sys.stdout.flush()
        return code
    except HoneError as error:
        log.failure(f"hone {verb}: {error}" if verb in VERBS else f"hone: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone (`hone help | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        return 0


def _unknown(verb: str) -> str:
    if verb in NOT_HERE:
        return f"the command {verb} is not in this version; use {NOT_HERE[verb]}"
    return f'unknown command "{verb}"{nearest(verb, list(LINES))}; `hone help` lists them'


if __name__ == "__main__":
    sys.exit(main())
