"""Console entry points; nothing heavy is imported before Ctrl-C and stdout are seen to (`edge_wire.program`)."""

from edge_wire.program import run_program


def main() -> None:
    """`edge-inspect`"""
    run_program("edge-inspect", "edge_inspect.cli")


def fetch() -> None:
    """`edge-inspect-fetch`"""
    run_program("edge-inspect-fetch", "edge_inspect.cli.fetch")


def probe() -> None:
    """`edge-inspect-probe`"""
    run_program("edge-inspect-probe", "edge_inspect.cli.probe")


if __name__ == "__main__":
    main()
