"""`make networks`: sign-ins over slow, lossy and dead connections.

The network is this machine's own TCP in a network namespace, on a TUN device. Every packet waits there, may be dropped,
and comes back with its two addresses exchanged. So 10.9.0.2, to which the function connects, is UserHub at 10.9.0.1.
Many processes sign in at the same time over TLS: once on a new connection, four times on the kept one, and once after
all packets of the kept one have begun to get lost. With the argument `short` there are fewer processes and networks.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = sys.argv[1:] == ["short"]
PROCESSES = 10 if SHORT else 100
ROUND_TRIPS = [0.1] if SHORT else [0.001, 0.1, 0.3]
LOSSES = [0] if SHORT else [0, 0.05, 0.1]
PARTS = ["new", "kept", "cut"]

# From <linux/if_tun.h>.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Network:
    """A TUN device that exists within a `with` statement."""

    def __init__(self, round_trip, loss):
        self.delay, self.loss = round_trip / 2, loss
        self.random = random.Random(1)
        self.over = False
        self.seen, self.cut = set(), set()
        self.device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.device, TUNSETIFF, struct.pack("16sH", b"slow", IFF_TUN | IFF_NO_PI))
        for arguments in ["addr add 10.9.0.1/30 dev slow", "link set slow up"]:
            subprocess.run(["ip", *arguments.split()], check=True)
        self.thread = threading.Thread(target=self.carry)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        os.close(self.device)

    def carry(self):
        under_way = []
        while not self.over:
            while under_way and under_way[0][0] <= time.monotonic():
                os.write(self.device, heapq.heappop(under_way)[1])
            wait = max(0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            if not select.select([self.device], [], [], wait)[0]:
                continue
            packet = os.read(self.device, 65536)
            if packet[0] >> 4 != 4 or self.random.random() < self.loss:
                continue
            ports = packet[(packet[0] & 15) * 4 :][:4]
            connection = frozenset(struct.unpack(">HH", ports))
            self.seen.add(connection)
            if connection not in self.cut:
                # Exchanging the addresses changes no checksum.
                back = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
                heapq.heappush(under_way, (time.monotonic() + self.delay, back))

    def cut_connections(self):
        self.cut |= self.seen


def sign_in(round_trip, loss):
    command = [ROOT / "target/debug/networks", "10.9.0.1", "10.9.0.2", str(PROCESSES)]
    with Network(round_trip, loss) as network:
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if program.stdout.readline() != "cut\n":
                sys.exit("the sign-ins failed")
            network.cut_connections()
            output, _ = program.communicate("\n", timeout=60)
        finally:
            program.kill()
    return json.loads(output)


def main():
    if "IN_NAMESPACE" not in os.environ:
        namespace = ["unshare", "--map-root-user", "--net"]
        probe = ["sh", "-c", "ip tuntap add dev probe mode tun"]
        allowed = subprocess.run([*namespace, *probe], capture_output=True, text=True)
        if allowed.returncode != 0:
            print(f"SKIPPED: no network namespace with a TUN device: {allowed.stderr.strip()}", file=sys.stderr)
            sys.exit(1 if os.environ.get("CI") else 0)
        os.environ["IN_NAMESPACE"] = "1"
        os.execvp(namespace[0], [*namespace, sys.executable, __file__, *sys.argv[1:]])

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(f"{PROCESSES} processes at a time; share of sign-ins reported, and time of each: median, 95th percentile\n\n"
          "| round trip, loss | new connection | kept connection | dead connection |\n| --- | --- | --- | --- |")
    unreported = []
    for round_trip in ROUND_TRIPS:
        for loss in LOSSES:
            seen = sign_in(round_trip, loss)
            shares = {part: seen[part]["reported"] / seen[part]["sign_ins"] for part in PARTS}
            texts = [f"{share * 100:.0f} %; {seen[part]['median_ms']} and {seen[part]['p95_ms']} ms"
                     for part, share in shares.items()]
            label = f"{round_trip * 1000:.0f} ms, {loss * 100:.0f} %"
            print(f"| {label} | {' | '.join(texts)} |", flush=True)
            # To connect again takes three round trips, in addition to the time that it takes to find the cut.
            expected = PARTS if round_trip < 0.25 else ["new", "kept"]
            if loss == 0 and any(shares[part] < 1 for part in expected):
                unreported.append(label)
    if unreported:
        sys.exit(f"without loss every sign-in must be reported, but some were not at {unreported}")


if __name__ == "__main__":
    main()
