from cloud_inspect.cli import main

main()
