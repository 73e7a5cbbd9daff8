"""`python -m tulle` is the command line."""


def main() -> None:
    """Run the command line; imported late so that the package itself stays free."""
    from tulle.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
