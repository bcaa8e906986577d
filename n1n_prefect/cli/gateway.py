"""`n1n-prefect gateway`: a local n1n gateway that draws for free, with a bill of what it would have cost."""

import argparse
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from n1n_prefect.cli import arguments

if TYPE_CHECKING:
    from n1n_prefect.testing import Call, LocalGateway

NAME = "gateway"
HELP = "Run a local n1n gateway: real images for free, scripted faults, and a bill."
_DEFAULT_KEY = "sk-local-gateway"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommand's options."""
    parser.add_argument(
        "--port", type=arguments.port, default=8787, help="where to listen on 127.0.0.1; 0 takes a free port"
    )
    parser.add_argument(
        "--latency", type=arguments.seconds, default=0.0, metavar="SECONDS", help="how long an image takes"
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[:TIMES]",
        help="a fault for the next call, or the next TIMES calls (* for all); repeat it to script several, "
        "'ok' among them, and join faults that strike together with '+'",
    )  # fmt: skip
    parser.add_argument(
        "--list-faults", action="store_true", help="list the faults and whether they are billed, and end"
    )
    parser.add_argument(
        "--api-key",
        type=arguments.api_key,
        action="append",
        default=[],
        metavar="KEY",
        help=f"an accepted key, default {_DEFAULT_KEY}; may be repeated",
    )
    parser.add_argument("--canned", action="store_true", help="serve one prepared picture a size, for load tests")
    parser.add_argument(
        "--signature-chars",
        type=arguments.characters,
        default=20_000,
        metavar="N",
        help="length of each thought signature; real: 1 to 3 million",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM, then prints the bill."""
    if args.list_faults:
        _list_faults()
        return 0
    from n1n_prefect.testing import LocalGateway

    try:
        gateway = LocalGateway(
            args.port,
            api_keys=args.api_key or (_DEFAULT_KEY,),
            latency_seconds=args.latency,
            faults=args.fault,
            canned=args.canned,
            signature_chars=args.signature_chars,
            on_call=lambda call: _log(call, gateway),
        )
    except ValueError as exc:
        print(f"n1n-prefect gateway: {exc}", file=sys.stderr)
        return 2
    _start(gateway, args.port)
    with gateway:
        _introduce(gateway)
        _wait_for_a_signal()
    print(f"\n{gateway.ledger.summary()}", flush=True)
    return 0


def _start(gateway: "LocalGateway", port: int) -> None:
    try:
        gateway.start()
    except OSError as exc:
        raise OSError(f"Port {port} cannot be used ({exc.strerror or exc}); --port 0 takes a free one.") from exc


def _list_faults() -> None:
    from n1n_prefect.testing import FAULTS

    widest = max(len(name) for name in FAULTS)
    for name, fault in FAULTS.items():
        print(f"{name:<{widest}}  {'billed' if fault.billed else 'free  '}  {fault.description}")


def _introduce(gateway: "LocalGateway") -> None:
    body = '{"contents":[{"parts":[{"text":"a lighthouse at dusk"}]}]}'
    address = f"{gateway.base_url}/v1beta/models/gemini-2.5-flash-image:generateContent"
    print(f"base URL  {gateway.base_url}\nAPI key   {gateway.api_key}")
    print(f"try       curl -s {address} -H 'Authorization: Bearer {gateway.api_key}' -d '{body}'")
    print(f"ledger    {gateway.base_url}/ledger\nCtrl-C ends it and prints the bill.\n", flush=True)


def _log(call: "Call", gateway: "LocalGateway") -> None:
    cost = f"${call.usd:.4f}" if call.billed else "free"
    bill = f"bill ${gateway.ledger.usd:.4f}"
    notes = [
        call.outcome,
        *([call.fault] if call.fault not in ("", "ok") else []),
        *(["cut off"] * (not call.delivered)),
    ]
    ignored = f"  ignored: {', '.join(call.dropped)}" if call.dropped else ""
    print(
        f"{call.number:>5}  {call.status or '---':>3}  {call.seconds:6.2f} s  {cost:>7}  {bill}  "
        f"{call.model}  {', '.join(notes)}  {call.prompt_excerpt!r}{ignored}",
        flush=True,
    )


def _wait_for_a_signal() -> None:
    """Returns at SIGINT or SIGTERM; a shell starts background jobs with SIGINT ignored."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    while not ended.wait(1):  # a wait without a limit cannot be interrupted on Windows
        pass
