"""`python -m deployments.cli`: the command `datacomp` where its script is not on the path."""

from deployments.cli.main import main

if __name__ == "__main__":
    main()
