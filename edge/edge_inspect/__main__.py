from edge_inspect.cli import main

main()
