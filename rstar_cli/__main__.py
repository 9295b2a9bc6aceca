"""`rstar`, and `python -m rstar_cli`."""

import signal


def main() -> None:
    """Run the command line. While its packages are imported, SIGINT ends the process without their traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rstar_cli.cli import main as run

    run()


if __name__ == "__main__":
    main()
