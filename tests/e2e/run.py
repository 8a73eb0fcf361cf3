"""Runs the test modules in this folder, as many at a time as there are processors. Arguments: modules, if not all.

Their `aws` is the AWS CLI, loaded once: a process that forks for each of a thousand calls, in a third of the time. Each
call reads its own environment and configuration. Only Python's modules and AWS's descriptions of services are loaded
before.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile

import awscli.clidriver

HERE = pathlib.Path(__file__).parent
# Passes its arguments, environment, folder and files on, and ends with the CLI's exit code.
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    call = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(call)
    sys.exit((server.recv(1) or b"\\xff")[0])
"""


def quick_aws():
    """A folder with the program `aws`, which works as long as this process runs."""
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    in_child(serve, listener)
    listener.close()
    program = pathlib.Path(folder.name, "aws")
    program.write_text(CLIENT.format(python=sys.executable, path=path))
    program.chmod(0o755)
    return folder


def in_child(task, *arguments):
    if os.fork() == 0:
        try:
            task(*arguments)
        finally:
            os._exit(1)


def serve(listener):
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(1)
    loader = loaded()
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        in_child(answer, connection, loader)
        connection.close()


def loaded():
    """The loader of AWS's descriptions, with those that the tests need most."""
    loader = awscli.clidriver.create_clidriver().session.get_component("data_loader")
    for service in ["cloudformation", "cloudwatch", "cognito-idp", "iam", "lambda", "logs"]:
        loader.load_service_model(service, "service-2")
    return loader


def answer(connection, loader):
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        arguments, environment, folder = json.loads(stream.read(int.from_bytes(length, "big")))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files):
        os.dup2(file, number)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    with os.fdopen(1, "w", encoding=encoding) as sys.stdout, os.fdopen(2, "w", encoding=encoding) as sys.stderr:
        try:
            driver = awscli.clidriver.create_clidriver()
            driver.session.register_component("data_loader", loader)
            code = driver.main(arguments)
        except SystemExit as end:
            code = end.code
    connection.send(bytes([code or 0]))


def run(module):
    """Whether the module's tests passed."""
    command = [sys.executable, "-m", "unittest", "--buffer", module]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    [ran] = re.findall(r"^Ran .*", done.stderr, re.MULTILINE) or ["Ran nothing"]
    print(f"{module}: {ran}" if done.returncode == 0 else done.stdout + done.stderr, flush=True)
    return done.returncode == 0 and not ran.startswith(("Ran nothing", "Ran 0 "))


# The longest ones first, so that the others fill the rest of the time.
modules = sys.argv[1:] or [path.stem for path in sorted(HERE.glob("test_*.py"), key=lambda path: -path.stat().st_size)]
with quick_aws() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    sys.exit(not all(list(pool.map(run, modules))))
