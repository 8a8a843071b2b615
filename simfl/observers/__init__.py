"""What reads a run as it goes: files, progress, TensorBoard."""

from simfl.observers.clients import ClientEvaluation, ClientTable, client_table
from simfl.observers.files import METRICS_FILE, SUMMARY_FILE, JsonLines
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary, reproducible
from simfl.observers.progress import ProgressBar, ProgressLines, make_progress
from simfl.observers.tensorboard import TensorBoard

__all__ = [
    "METRICS_FILE",
    "SUMMARY_FILE",
    "ClientEvaluation",
    "ClientTable",
    "JsonLines",
    "Observer",
    "ProgressBar",
    "ProgressLines",
    "RoundRecord",
    "RunInfo",
    "Summary",
    "TensorBoard",
    "client_table",
    "make_progress",
    "reproducible",
]
