"""`edge-inspect-probe`: load a model package where it can do no harm; say what is wrong with it or what it costs."""

from __future__ import annotations

import os
import re
import socket
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from edge_inspect.cli.output import emit
from edge_inspect.cli.single import run_single
from edge_inspect.errors import Usage
from edge_inspect.inference.package import find_model
from edge_inspect.update.examine import Request
from edge_inspect.update.probe import ProbeLimits, probe, serve

FIRST_PASSED_FD = 3
"""sd_listen_fds(3)"""
EXAMPLE = "Example: edge-inspect-probe ./candidate --golden-of metal-plate --provider cpu"


def main(argv: list[str] | None = None) -> None:
    """Console entry point."""
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """The exit code."""
    return run_single(command, "edge-inspect-probe", EXAMPLE, argv)


def command(
    package: Annotated[str, typer.Argument(help="Model package: a folder, or a shipped model's name.")] = "",
    golden_of: Annotated[str, typer.Option(help="The package that judges now: its pictures are asked too.")] = "",
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt, openvino.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=256, help="Of the runtime; 0: its own choice.")] = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16, int8.")] = "auto",
    shape: Annotated[str, typer.Option(help="Network input, HEIGHTxWIDTH.")] = "",
    source: Annotated[
        list[str] | None, typer.Option(help="A camera's pictures, HEIGHTxWIDTH; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Longest time in all.")] = 60.0,
    memory_bytes: Annotated[int, typer.Option(min=1 << 26, help="Most memory beyond the runtime's.")] = 4 << 30,
    latency_factor: Annotated[float, typer.Option(min=1, help="So many times the other one's time.")] = 2.0,
    listen: Annotated[bool, typer.Option("--listen", help="One request on the socket that systemd passes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Load a model package in a limited process of its own, ask it golden pictures, measure time and memory."""
    if listen:
        serve(_passed_socket())
        return
    if not package:
        raise Usage("PACKAGE is missing: a folder, or the name of a shipped model")
    request = Request(
        package=find_model(package),
        provider=provider,
        threads=threads,
        precision=precision,
        shape=_size(shape) if shape else None,
        sources=tuple(_size(text) for text in source or ()),
        latency_factor=latency_factor,
    )
    active = find_model(golden_of) if golden_of else None
    probed = probe(request.package, model=request, golden_of=active, limits=ProbeLimits(seconds, memory_bytes))
    if json:
        emit({"ok": True} | asdict(probed))
        return
    typer.echo(f"{request.package}: fit to run: {', '.join(probed.variants)} on {probed.provider}")
    beside = f", the model that judges {probed.active_p50_ms:.1f} ms" if probed.active_p50_ms else ""
    typer.echo(f"a frame takes {probed.latency_p50_ms:.1f} ms (p99 {probed.latency_p99_ms:.1f}){beside}")
    typer.echo(f"memory {probed.memory_bytes / 2**20:.0f} MiB; network {probed.network}")
    if probed.remark:
        typer.echo(probed.remark)


def _passed_socket() -> socket.socket:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise Usage("--listen is for edge-inspect-probe.socket: systemd passed no socket")
    return socket.socket(fileno=FIRST_PASSED_FD)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not match:
        raise Usage(f"{text}: must be HEIGHTxWIDTH, e.g. 1080x1920")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    main()
