"""The two looks of every figure: on a light page and on a dark one."""

import contextlib
import dataclasses
from collections.abc import Iterator

import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Look:
    """Colours.

    Attributes:
      ink: text and axes.
      faint: grids and what is in the background.
      paper: what is filled like the page.
      window: of the window.
      fading: of the fading memory.
      eidetic: of the eidetic memory.
      other: for what is none of them.
    """

    ink: str
    faint: str
    paper: str
    window: str
    fading: str
    eidetic: str
    other: str

    @contextlib.contextmanager
    def active(self) -> Iterator["Look"]:
        """Draw with these colours inside."""
        settings = {
            "axes.edgecolor": self.ink,
            "axes.facecolor": "none",
            "axes.labelcolor": self.ink,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "figure.facecolor": "none",
            "font.size": 11,
            "grid.color": self.faint,
            "legend.frameon": False,
            "savefig.bbox": "tight",
            "svg.hashsalt": "bmojo",
            "text.color": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
        }
        with plt.rc_context(settings):
            yield self


LOOKS = {
    "light": Look(
        ink="#22262b",
        faint="#c9ced6",
        paper="#ffffff",
        window="#2a6fbb",
        fading="#c07a00",
        eidetic="#b3322f",
        other="#4b7f52",
    ),
    "dark": Look(
        ink="#e3e6ea",
        faint="#4b525c",
        paper="#131416",
        window="#6fb1f5",
        fading="#f0b44c",
        eidetic="#ff8078",
        other="#8fd19a",
    ),
}
