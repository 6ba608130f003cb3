"""The command `spanwise`: serve, demo, import. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.importer import Imported, ImportFailed, import_files
from app.serving import serve, set_up_logging
from app.settings import (
    BadSetting,
    Settings,
    flag_name,
    rows,
    setting_fields,
    settings_from,
    unknown_variables,
    variable_name,
)
from app.sockets import CannotListen, address_text, is_loopback
from app.store.base import StoreError
from app.version import version

_DESCRIPTION = """\
Spanwise receives OpenTelemetry traces and explains why the tail of async services is slow,
where requests wait, what retries cost and what to change first."""
_IMPORT_SETTINGS = ("host", "http_port", "data", "memory_limit_bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit code: 0, 1 when it failed, 2 when it was called wrongly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "serve")
    options = _parser().parse_args(given)
    flags = {each.name: getattr(options, each.name, None) for each in setting_fields()}
    try:
        settings = settings_from(flags=flags)
    except BadSetting as error:
        return _failed(str(error), f"spanwise {options.command} --help lists every setting", 2)
    for variable in unknown_variables():
        _say(f"warning: {variable} is not a setting and has no effect")
    set_up_logging()
    try:
        if options.command == "import":
            import_files(settings, [Path(name) for name in options.files], options.name, _imported)
        elif options.command == "demo":
            _demo(settings)
        else:
            _serve(settings, demo=False)
    except CannotListen as error:
        return _failed(str(error), _port_hint(settings, str(error)) if error.taken else "--host names the address", 1)
    except ImportFailed as error:
        return _failed(str(error), error.hint, 1)
    except StoreError as error:
        return _failed(str(error), "--data FILE names the database file", 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "spanwise",
        description=_DESCRIPTION,
        epilog="Without a command: serve. Each setting is a flag and an environment variable: spanwise serve --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"spanwise {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | demo | import")
    _command(commands, "serve", "receive traces and show what they say", None)
    _command(commands, "demo", "the same with an example loaded; keeps nothing unless --data names a file", None)
    import_command = _command(
        commands,
        "import",
        "import trace files, each as a dataset: into the running server, else (or with --data) into a database file",
        _IMPORT_SETTINGS,
    )
    import_command.add_argument("files", nargs="+", metavar="FILE", help="OTLP, Jaeger or Zipkin, also gzipped")
    import_command.add_argument("--name", help="name of the dataset; the file's name otherwise")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    only: tuple[str, ...] | None,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="A flag wins over its environment variable.",
        allow_abbrev=False,
    )
    defaults = {row.name: row.value for row in rows(settings_from(environ={}))}
    for each in setting_fields():
        if only is None or each.name in only:
            default = defaults[each.name].replace("%", "%%")
            if each.name == "data":
                default = "spanwise/spanwise.duckdb in the user's data folder"
            command.add_argument(
                flag_name(each.name),
                metavar=each.name.rpartition("_")[2].upper(),
                help=f"{each.metadata['help']} [{variable_name(each.name)}; default: {default}]",
            )
    return command


def _demo(settings: Settings) -> None:
    if settings.origins["data"] != "default":
        _serve(settings, demo=True)
        return
    with tempfile.TemporaryDirectory(prefix="spanwise-demo-", ignore_cleanup_errors=True) as folder:
        _serve(replace(settings, data=str(Path(folder) / "demo.duckdb")), demo=True)


def _serve(settings: Settings, *, demo: bool) -> None:
    if not is_loopback(settings.host):
        _say(
            f"warning: listening on {settings.host}: everybody who reaches this address can read and write "
            "all data, there are no accounts yet"
        )
        if not settings.allowed_hosts:
            _say("warning: requests by name are refused until --allowed-hosts lists the names of this machine")
    if demo:
        _say("loading the example")
    asyncio.run(serve(settings, demo=demo, started=_announce))


def _announce(settings: Settings) -> None:
    host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else settings.host
    http, grpc = address_text(host, settings.http_port), address_text(host, settings.grpc_port)
    _say(f"OTLP over HTTP on http://{http}/v1/traces, over gRPC on {grpc}; data in {settings.data}; Ctrl-C stops")
    print(f"http://{http}/", flush=True)


def _imported(done: Imported) -> None:
    print(f"{done.name}\tdataset {done.dataset_id}\t{done.spans} spans\t{done.traces} traces\t{done.url}".rstrip())
    if done.stored_in:
        _say(f"{done.name}: no server took it, so it is in {done.stored_in}; spanwise serve shows it")
    for reason, count, first in done.refused:
        _say(f"{done.name}: left out {count} × {reason}" + (f" (first: {first})" if first else ""))


def _port_hint(settings: Settings, message: str) -> str:
    flag = "--grpc-port" if f":{settings.grpc_port} " in message else "--http-port"
    return f"{flag} takes another port; {flag} 0 takes a free one"


def _failed(message: str, hint: str, code: int) -> int:
    _say(message)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def _say(message: str) -> None:
    print(f"spanwise: {message}", file=sys.stderr, flush=True)
