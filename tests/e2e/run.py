"""Runs the test modules in this folder, as many at a time as there are processors. Arguments: modules, if not all."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

import quick_aws

HERE = pathlib.Path(__file__).parent


def run(module):
    """Whether the module's tests passed."""
    command = [sys.executable, "-m", "unittest", "--buffer", module]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    [ran] = re.findall(r"^Ran .*", done.stderr, re.MULTILINE) or ["Ran nothing"]
    print(f"{module}: {ran}" if done.returncode == 0 else done.stdout + done.stderr, flush=True)
    return done.returncode == 0 and not ran.startswith(("Ran nothing", "Ran 0 "))


# The longest ones first, so that the others fill the rest of the time.
modules = sys.argv[1:] or [path.stem for path in sorted(HERE.glob("test_*.py"), key=lambda path: -path.stat().st_size)]
with quick_aws.start() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    sys.exit(not all(list(pool.map(run, modules))))
