"""Writing a report: tables, charts and one page, into a folder."""

from collections.abc import Sequence
from pathlib import Path

from celo import __version__
from celo._files import make_folder, write_file
from celo._provenance import commit
from celo.evaluate._records import Record
from celo.evaluate._report import figures, files, tables
from celo.evaluate._report.page import page
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import REFERENCE, Leaderboard, leaderboard


def write_report(
    records: Sequence[Record],
    out: Path,
    *,
    reference: str = REFERENCE,
    contestants: Sequence[str] = (),
    tasks: Sequence[str] = (),
    common: bool = True,
    smoothing: float = metrics.SMOOTHING,
    loss: str = "train",
    made_from: str = "",
) -> Leaderboard:
    """Write leaderboard.md, scores.csv, report.html and figures/*.png and *.svg; return the leaderboard.

    With one task the page shows its curves first, and the table its losses.

    Args:
      records: one for each contestant and task.
      out: folder, made if it is not there.
      reference: the contestant that all others are scored beside.
      contestants: who is shown, besides the reference; empty for all.
      tasks: on which; empty for all.
      common: aggregate over the tasks that all have, not over all that each has.
      smoothing: decay of the curves' moving average.
      loss: "train" or "valid", what is compared.
      made_from: where the records came from, a few words for the report's last line.

    Raises:
      CeloError: as `leaderboard`; no Altair; or a file cannot be written.
    """
    figures.require_altair()
    board = leaderboard(
        records,
        reference=reference,
        contestants=contestants,
        tasks=tasks,
        common=common,
        smoothing=smoothing,
        loss=loss,
    )
    made = _made(made_from)
    written = {
        "leaderboard.md": f"{tables.markdown(board)}\n{made}\n".encode(),
        "scores.csv": tables.scores_csv(board).encode(),
        "report.html": page(board, tables.headline(board), f"{tables.caption(board)} {made}").encode(),
    }
    written |= {f"figures/{name}": data for name, data in files.draw_all(board).items()}
    for folder in (out, out / "figures"):
        make_folder(folder, "choose another folder for the report")
    for name, data in written.items():
        write_file(out / name, data)
    return board


def _made(made_from: str) -> str:
    """What made a report, and of what."""
    source = commit()
    version = f"celo {__version__}{f', commit {source}' if source else ''}"
    return f"Made by {version}{f' from {made_from}' if made_from else ''}."
