"""Console entry point; nothing heavy is imported before Ctrl-C and stdout are seen to (`edge_wire.program`)."""

from edge_wire.program import run_program


def main() -> None:
    """`cloud-inspect`"""
    run_program("cloud-inspect", "cloud_inspect.cli")


if __name__ == "__main__":
    main()
