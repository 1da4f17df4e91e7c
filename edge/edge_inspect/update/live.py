"""What the updater may ask of the appliance while it inspects.

1. Nothing here stops the line: engines are built, warmed and asked their known answers outside the inspect thread,
   which only exchanges references between two frames.
2. Whatever raises leaves things as they were: the model that judged goes on judging.
3. One call at a time, from one thread (`updater`); a call may take as long as a runtime takes to build an engine.

The way of a candidate: `start_shadow(candidate, role="candidate")` - `shadow_report()` ... - `swap(candidate,
trial=True)` - `start_shadow(predecessor, role="predecessor")` - `trial_report()` ... - kept: `stop_shadow()`,
`end_trial()`; gone back: `swap(predecessor)`, which ends shadow and trial.
"""

from __future__ import annotations

from typing import Literal, Protocol

from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.trial import TrialReport

Role = Literal["candidate", "predecessor"]


class Live(Protocol):
    """The models of the cameras that use `[model] dir`; a camera with a `model` of its own keeps it."""

    def active(self) -> str:
        """The digest of the package that judges now."""

    def start_shadow(self, package: ModelPackage, *, role: Role) -> None:
        """From now on this package judges the same parts beside the active one; a shadow before it ends.

        Raises BadModel, `Ending` when the daemon ends meanwhile, `ShadowHangs` while another one does not come back.
        """

    def shadow_report(self) -> ShadowReport:
        """Since `start_shadow`; after `stop_shadow` the last one. All zeros where there was none.

        Raises BadModel `shadow-hangs` when it does not answer any more.
        """

    def stop_shadow(self) -> None:
        """Its engine is freed when this returns, unless it hangs. Nothing happens where there is none."""

    def swap(self, package: ModelPackage, *, trial: bool = False) -> None:
        """Returns when `package` judges every new part; a part in the middle of its looks is judged to its end by the
        model that began it. Ends the shadow, and the trial before.

        trial: `trial_report` begins, known answers are asked more often, and a wrong one is counted (parts are UNKNOWN
        `known-answer` from then on) where it would otherwise end the process.
        Raises BadModel (`recipe-class`: a recipe needs a class that it lacks), and `Ending`.
        """

    def begin_trial(self) -> None:
        """The active package is on trial already: the daemon was started anew during one. Counters begin at 0."""

    def trial_report(self) -> TrialReport:
        """Since the trial began; all zeros where there is none. What the shadow found is `beside`; nothing while it
        hangs."""

    def end_trial(self) -> None:
        """It is kept: from now on a wrong known answer ends the process again."""
