"""Entry point: the command table, and the one place where errors become a sentence and an exit code."""

from __future__ import annotations

import errno
import importlib
import sys

import typer

from scaling.errors import RunError, UserError

# A path that is no folder, is a folder, is not ours to write: anything else is a fault to be seen whole.
_PATHS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EBUSY,
}  # fmt: skip

app = typer.Typer(
    name="scaling",
    help="Scaling-law experiments: plan a grid, train it, fit laws, forecast a larger run, verify, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order of a study. Each module holds `register(app)`.
for _name in (
    "quickstart", "data", "cost", "plan", "preflight", "coordinate_check", "train", "launch", "status",
    "dashboard", "jobs", "branches", "tune", "refine", "transfer", "imports", "fit", "predict", "score",
    "published", "exponents", "forecast", "report",
):  # fmt: skip
    importlib.import_module(f"scaling.cli.{_name}").register(app)


def main() -> None:
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None or error.errno not in _PATHS:
            raise
        where = error.filename2 or error.filename  # of a rename, where to
        print(f"error: {where} cannot be read or written: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
