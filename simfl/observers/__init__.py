"""What reads a run as it goes: files, progress, TensorBoard."""

from simfl.observers.client_files import CLIENTS_FILE, EVALUATIONS_FILE, ClientFiles
from simfl.observers.clients import ClientEvaluation, ClientTable, client_table
from simfl.observers.console import RunConsole
from simfl.observers.files import METRICS_FILE, SUMMARY_FILE, JsonLines, SummaryFile, write_whole
from simfl.observers.guarded import LOG_FILE, Guarded
from simfl.observers.mlflow import MLflow
from simfl.observers.observer import Observer, RunInfo, Summary
from simfl.observers.progress import (
    ProgressBar,
    ProgressLines,
    ProgressNotebook,
    make_progress,
)
from simfl.observers.tensorboard import TensorBoard
from simfl.observers.wandb import WandB
from simfl.record import RoundRecord

__all__ = [
    "CLIENTS_FILE",
    "EVALUATIONS_FILE",
    "LOG_FILE",
    "METRICS_FILE",
    "SUMMARY_FILE",
    "ClientEvaluation",
    "ClientFiles",
    "ClientTable",
    "Guarded",
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
    "client_table",
    "make_progress",
    "write_whole",
]
