"""Runs sources, one JSON line each, in forked children of a process that has made the slow imports.

huggingface_hub reads the address of the Hub when it is imported, and the tests that are around have told it to be offline.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

from huggingface_hub import constants

import idiff_hf.evaluation
import idiff_hf.pipeline_scores.evaluation
import idiff_hf.publishing  # noqa: F401


def run(job: dict[str, object]) -> int:
    """In the child: its own environment, cache and output."""
    signal.alarm(120)
    log = os.open(str(job["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(str(job["cwd"]))
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(job["env"])  # type: ignore[call-overload]
    constants.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"
    constants.HF_HUB_CACHE = os.environ["HF_HUB_CACHE"]
    try:
        exec(compile(str(job["source"]), "source", "exec"), {"__name__": "__main__"})  # noqa: S102
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(run(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
# there is nothing to tidy up, and the interpreter would take seconds to go
os._exit(0)
