"""Run the lab from the command line: `python -m tests.lab run` and `python -m tests.lab record`."""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.lab.faults import Fault
from tests.lab.lab import PROTOCOLS, Lab
from tests.lab.processes import ProcessFailed
from tests.lab.record import RECORDED_FAULTS, record
from tests.lab.servers import ServerUnavailable

ENDPOINT = "http://127.0.0.1:4318"
WORKER_DRAIN_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start the shop, drive it and export its spans")
    run.add_argument("--fault", default="healthy", help=f"comma-separated: healthy, {', '.join(Fault)}")
    run.add_argument("--endpoint", default=ENDPOINT, help=f"OTLP endpoint (default {ENDPOINT})")
    run.add_argument("--protocol", default="http/protobuf", choices=PROTOCOLS)
    run.add_argument("--semconv", default="", help="OTEL_SEMCONV_STABILITY_OPT_IN, such as http,database")
    run.add_argument("--seconds", type=float, default=20.0)
    run.add_argument("--rate", type=float, default=20.0, help="requests a second")
    make = commands.add_parser("record", help="record the demo data")
    make.add_argument("--out", type=Path, default=Path("app/demo/recording.otlp.gz"))
    make.add_argument("--fault", default=RECORDED_FAULTS)
    make.add_argument("--minutes", type=float, default=5.0)
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        if chosen.command == "run":
            result = _run(chosen)
        else:
            result = record(chosen.out, chosen.fault, chosen.minutes)
    except (ServerUnavailable, ProcessFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result | {"wall_s": round(time.monotonic() - started, 1)}))
    return 0


def _run(chosen: argparse.Namespace) -> dict[str, object]:
    with Lab(endpoint=chosen.endpoint, fault=chosen.fault, protocol=chosen.protocol, semconv=chosen.semconv) as lab:
        load = lab.drive(seconds=chosen.seconds, rate=chosen.rate)
        jobs_left = lab.wait_for_worker(WORKER_DRAIN_S)
        truth = lab.stop()
    return {
        "fault": chosen.fault,
        "load": load.to_dict(),
        "warm_up": lab.warm_up,
        "jobs_left": jobs_left,
        "truth": truth,
    }


if __name__ == "__main__":
    sys.exit(main())
