"""What receives the events of a run: files, progress, trackers."""

from simfl.observers.console import RunConsole
from simfl.observers.files import (
    ClientFiles,
    JsonLines,
    SummaryFile,
    write_whole,
)
from simfl.observers.observer import (
    LOG_FILE,
    Callback,
    ClientEvaluation,
    ClientTable,
    FailSafeObserver,
    Observer,
    RunInfo,
    Summary,
    as_observer,
    client_table,
)
from simfl.observers.progress import (
    ProgressBar,
    ProgressLines,
    ProgressNotebook,
    make_progress,
)
from simfl.observers.trackers import MLflow, TensorBoard, WandB
from simfl.record import CLIENTS_FILE, EVALUATIONS_FILE, METRICS_FILE, SUMMARY_FILE, RoundRecord

__all__ = [
    "CLIENTS_FILE",
    "EVALUATIONS_FILE",
    "LOG_FILE",
    "METRICS_FILE",
    "SUMMARY_FILE",
    "Callback",
    "ClientEvaluation",
    "ClientFiles",
    "ClientTable",
    "FailSafeObserver",
    "JsonLines",
    "MLflow",
    "Observer",
    "ProgressBar",
    "ProgressLines",
    "ProgressNotebook",
    "RoundRecord",
    "RunConsole",
    "RunInfo",
    "Summary",
    "SummaryFile",
    "TensorBoard",
    "WandB",
    "as_observer",
    "client_table",
    "make_progress",
    "write_whole",
]
