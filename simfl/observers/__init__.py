"""What reads a run as it goes: files, progress, TensorBoard."""

from simfl.observers.files import METRICS_FILE, SUMMARY_FILE, JsonLines
from simfl.observers.observer import Observer, RoundRecord, RunInfo, Summary
from simfl.observers.progress import ProgressBar, ProgressLines, make_progress
from simfl.observers.tensorboard import TensorBoard

__all__ = [
    "METRICS_FILE",
    "SUMMARY_FILE",
    "JsonLines",
    "Observer",
    "ProgressBar",
    "ProgressLines",
    "RoundRecord",
    "RunInfo",
    "Summary",
    "TensorBoard",
    "make_progress",
]
