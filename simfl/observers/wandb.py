"""Weights & Biases: a run there for each run here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from simfl.errors import MissingExtraError
from simfl.observers.clients import ClientTable
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.record import RoundRecord


@dataclass
class WandB(Observer):
    """A Weights & Biases run: the scenario as its config, every number of a round.

    A resumed run goes on with the same W&B run. What was written offline is sent with
    `wandb sync --append`.
    """

    name: ClassVar[str] = "wandb"
    logs_in: ClassVar[bool] = True

    project: str = "simfl"
    """The project that runs belong to."""
    entity: str | None = None
    """The user or team; null: the default one of whoever is logged in."""
    mode: Literal["online", "offline"] | None = None
    """Whether numbers are sent, or written to the folder ``wandb`` of the run's; null: what
    WANDB_MODE says, or online."""

    def prepare(self) -> None:
        """See that wandb is installed."""
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "the observer 'wandb'", package="wandb", extra="wandb"
            ) from error

    def on_run_start(self, info: RunInfo) -> None:
        """Start the run, or go on with it: its id is this run's."""
        import wandb

        self._run: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=info.run_id,
            name=info.out.name,
            resume="allow",
            config=dict(info.scenario),
            dir=str(info.out.absolute()),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Rounds by their own number: W&B's step cannot go back to that of a checkpoint.
        self._run.define_metric("*", step_metric="round")
        self._known = int(self._run.summary.get("round") or 0)

    def on_round(self, record: RoundRecord, clients: ClientTable) -> None:
        """Log the round, unless W&B has it from before the run was stopped."""
        if record.round > self._known:
            self._run.log({"round": record.round, **record.numbers})

    def on_run_end(self, summary: Summary) -> None:
        """End the run there too."""
        self._run.finish(exit_code=int(summary["status"] not in ("done", "stopped")))
